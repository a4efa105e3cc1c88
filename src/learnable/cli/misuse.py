"""What cannot be understood of a command line, in one line that names it, and a hint."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import cyclopts

from learnable.cli.listing import said_of, settings_of
from learnable.cli.running import WITH_ALL
from learnable.errors import UsageError, closest, did_you_mean

EVERYWHERE = (*WITH_ALL, "--help")


def explained(error: cyclopts.CycloptsError, *, examples: Mapping[str, Sequence[str]]) -> UsageError:
    """Return what is wrong with a command line, as our own error; ``examples`` say how each command is used."""
    chain = tuple(error.command_chain or ())
    message, hint = _explained(error, " ".join(("learnable", *chain)), examples)
    example = next(iter(examples.get(next(iter(chain), ""), ())), None)
    usual = f"for example: {example}" if example else "learnable --help shows what there is"
    return UsageError(message, hint=hint or usual)


def _explained(
    error: cyclopts.CycloptsError, command: str, commands: Collection[str]
) -> tuple[str, str | None]:
    """Return the message, and a hint if there is a better one than the help."""
    word = (getattr(error, "unused_tokens", None) or [""])[0]
    match error:
        case cyclopts.UnknownCommandError() if word.startswith("-"):
            return f"there is no option {word}", did_you_mean(word, (*EVERYWHERE, "--version"))
        case cyclopts.UnknownCommandError():
            return f"there is no command {word!r}", did_you_mean(word, commands)
        case cyclopts.UnknownOptionError():
            option = (error.token.keyword or error.token.value).partition("=")[0]
            names = {
                name for each in error.argument_collection for name in each.names if name.startswith("--")
            }
            inner = sorted(name for name in names if name.endswith(f".{option.lstrip('-')}"))
            close = inner[0] if inner else closest(option, {*names, *EVERYWHERE})
            return f"`{command}` has no option {option}", f"did you mean {close}?" if close else None
        case cyclopts.MissingArgumentError(argument=cyclopts.Argument() as argument):
            return _missing(error, argument, command)
        case cyclopts.CoercionError(
            argument=cyclopts.Argument() as argument, token=cyclopts.Token() as token
        ):
            return _unreadable(argument, token)
        case cyclopts.RepeatArgumentError():
            return f"{error.token.keyword} is there twice", "give it once"
        case cyclopts.UnusedCliTokensError():
            name, equals, value = word.partition("=")
            as_option = f"options are written --{name} {value}" if equals and name.isidentifier() else None
            return f"`{command}` has no use for {word!r}", as_option
        case cyclopts.ValidationError() if error.exception_message:
            return error.exception_message, None
    error.verbose = False
    return str(error).strip().splitlines()[0], None


def _missing(
    error: cyclopts.MissingArgumentError, argument: cyclopts.Argument, command: str
) -> tuple[str, str | None]:
    said: dict[str, str] = {}
    if error.target is not None:
        said = {each.name.rpartition(".")[2]: each.about for each in settings_of(error.target)}
        said |= said_of(error.target)
    about = said.get(argument.field_info.name, "").split(". ")[0].rstrip(".")
    given = error.keyword or next((token.keyword for token in argument.tokens if token.keyword), None)
    if given is not None:
        return f"{given} needs a value", f"{given}: {about}" if about else None
    name = argument.name if argument.field_info.is_keyword_only else argument.name.lstrip("-").upper()
    mistyped = closest(argument.name, [word for word in error.unused_tokens or () if word.startswith("--")])
    hint = f"did you mean {argument.name} instead of {mistyped}?" if mistyped else None
    # Behind a colon a sentence goes on in lower case; a pattern such as NAME@key=value stays.
    goes_on = about if about[1:2].isupper() else about[:1].lower() + about[1:]
    return f"`{command}` needs {name}" + (f": {goes_on}" if about else ""), hint


def _unreadable(argument: cyclopts.Argument, token: cyclopts.Token) -> tuple[str, str | None]:
    name = token.keyword or argument.name.lstrip("-").upper()
    if choices := argument.get_choices(force=True):
        said = f"{name} is one of {', '.join(choices)}, not {token.value!r}"
        return said, did_you_mean(token.value, choices)
    numbers = {int: "a whole number", float: "a number", bool: "true or false"}
    wanted = next(
        (words for kind, words in numbers.items() if kind in _kinds(argument.hint)), "something else"
    )
    return f"{name} takes {wanted}, not {token.value!r}", None


def _kinds(hint: Any) -> Iterator[Any]:
    """Yield a type and those inside it: ``list[int] | None`` has a whole number in it."""
    yield hint
    for part in getattr(hint, "__args__", ()):
        yield from _kinds(part)
