"""What cannot be understood of a command line, in one line that names it, and a hint."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from cyclopts import (
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
    ValidationError,
)

from learnable.cli.listing import said_of, settings_of
from learnable.errors import UsageError, closest, did_you_mean

EVERYWHERE = ("--json", "--debug", "--help")


def explained(error: CycloptsError, *, examples: Mapping[str, Sequence[str]]) -> UsageError:
    """Return what is wrong with a command line, as our own error.

    Args:
        error: What cyclopts says.
        examples: Names of all commands, and how each is used.
    """
    chain = tuple(error.command_chain or ())
    message, hint = _explained(error, " ".join(("learnable", *chain)), examples)
    example = next(iter(examples.get(next(iter(chain), ""), ())), None)
    usual = f"for example: {example}" if example else "learnable --help shows what there is"
    return UsageError(message, hint=hint or usual)


def _explained(error: CycloptsError, command: str, commands: Collection[str]) -> tuple[str, str | None]:
    """Return the message, and a hint if there is a better one than the help."""
    match error:
        case UnknownCommandError():
            name = (error.unused_tokens or [""])[0]
            if name.startswith("-"):
                return f"there is no option {name}", did_you_mean(name, (*EVERYWHERE, "--version"))
            return f"there is no command {name!r}", did_you_mean(name, commands)
        case UnknownOptionError():
            return _unknown_option(error, command)
        case MissingArgumentError():
            return _missing(error, command)
        case CoercionError():
            return _unreadable(error)
        case RepeatArgumentError():
            return f"{error.token.keyword} is there twice", "give it once"
        case UnusedCliTokensError():
            word = (error.unused_tokens or [""])[0]
            name, equals, value = word.partition("=")
            as_option = f"options are written --{name} {value}" if equals and name.isidentifier() else None
            return f"`{command}` has no use for {word!r}", as_option
        case ValidationError():
            return error.exception_message or _first_line(error), None
    return _first_line(error), None


def _unknown_option(error: UnknownOptionError, command: str) -> tuple[str, str | None]:
    given = error.token.keyword or error.token.value
    option = given.partition("=")[0]
    known = {
        name for argument in error.argument_collection for name in argument.names if name.startswith("--")
    }
    if inner := sorted(name for name in known if name.endswith(f".{option.lstrip('-')}")):
        return f"`{command}` has no option {option}", f"did you mean {inner[0]}?"
    if close := closest(option, {*known, *EVERYWHERE}):
        return f"`{command}` has no option {option}", f"did you mean {close}?"
    return f"`{command}` has no option {option}", None


def _missing(error: MissingArgumentError, command: str) -> tuple[str, str | None]:
    argument = error.argument
    if argument is None:
        return _first_line(error), None
    given = error.keyword or next((token.keyword for token in argument.tokens if token.keyword), None)
    said: dict[str, str] = {}
    if error.target is not None:
        said = {each.name.rpartition(".")[2]: each.about for each in settings_of(error.target)}
        said |= said_of(error.target)
    about = said.get(argument.field_info.name, "").split(". ")[0].rstrip(".")
    if given is not None:
        return f"{given} needs a value", f"{given}: {about}" if about else None
    name = argument.name if argument.field_info.is_keyword_only else argument.name.lstrip("-").upper()
    typed = [word for word in error.unused_tokens or () if word.startswith("--")]
    mistyped = closest(argument.name, typed)
    hint = f"did you mean {argument.name} instead of {mistyped}?" if mistyped else None
    return f"`{command}` needs {name}" + (f": {_lowered(about)}" if about else ""), hint


def _lowered(text: str) -> str:
    """Return a sentence as it goes on behind a colon; a pattern such as NAME@key=value stays."""
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


def _unreadable(error: CoercionError) -> tuple[str, str | None]:
    argument, token = error.argument, error.token
    if token is None or argument is None:
        return _first_line(error), None
    name = token.keyword or argument.name.lstrip("-").upper()
    if choices := argument.get_choices(force=True):
        return f"{name} is one of {', '.join(choices)}, not {token.value!r}", did_you_mean(
            token.value, choices
        )
    wanted = next((words for kind, words in _KINDS.items() if kind in _kinds(argument.hint)), None)
    return f"{name} takes {wanted or 'something else'}, not {token.value!r}", None


_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


def _kinds(hint: Any) -> Iterator[Any]:
    """Yield a type and those inside it: ``list[int] | None`` has a whole number in it."""
    yield hint
    for part in getattr(hint, "__args__", ()):
        yield from _kinds(part)


def _first_line(error: CycloptsError) -> str:
    error.verbose = False
    return str(error).strip().splitlines()[0]
