"""The ``learnable`` command: verbs to commands, results to standard output, errors to one line and a hint."""

import contextlib
import io
import json as json_format
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Group, Parameter

from learnable import __version__
from learnable import commands as verbs
from learnable.cli import printing, running
from learnable.cli.completing import OFFERED, Shell, install
from learnable.cli.listing import listed
from learnable.cli.misuse import explained
from learnable.commands.doctor import Diagnosis
from learnable.commands.explore import Page
from learnable.commands.train import join_launcher
from learnable.errors import LearnableError, UsageError, did_you_mean
from learnable.names import check_text, no_text, working_folder
from learnable.runs import stopping
from learnable.runs.files import system_error
from learnable.runs.progress import silenced
from learnable.types import Budget
from learnable.visible import visible

QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "PYTHONWARNINGS": "ignore",
}
DONE, FAILED, MISUSED, SIGNALLED = 0, 1, 2, 128

HELP = """
Choose the fine-tuning data that your language model can learn, and teach it the task, not the template.

Start with one of these; both bring a small model and data of their own:

- `learnable run lobass` chooses the examples that the model can learn
- `learnable run delia` teaches it a task in many wordings

Then on your own rows: `learnable run lobass my.jsonl --model Qwen/Qwen3-0.6B`

`learnable help run` explains a command, `learnable help run lobass` a recipe.
"""
START, CHOOSE, TEACH, LOOK, CHECK, OPTIONS = (
    Group(title, sort_key=place)
    for place, title in enumerate(
        ("Start here", "Choose data", "Teach a task", "Look", "Check", "Options"), start=1
    )
)
EVERYWHERE = Group("With every command", sort_key=9)

EXAMPLES = {
    "run": (
        "learnable run lobass",
        "learnable run lobass my.jsonl --model Qwen/Qwen3-0.6B --budget 6%",
        "learnable run lobass a.jsonl b.parquet --reference.folds 2 --dry-run",
    ),
    "list": ("learnable list", "learnable list scorers", "learnable list ifd"),
    "load": ("learnable load my.jsonl", "learnable load a.jsonl b.parquet --holdout 0.1 -o pool"),
    "train": ("learnable train pool -o reference", "learnable train pool --folds 2 --dry-run"),
    "score": (
        "learnable score pool --reference reference -o scores",
        "learnable score my.jsonl --scorers ifd loss --model Qwen/Qwen3-0.6B",
    ),
    "select": (
        "learnable select scores --budget 6%",
        "learnable select scores --budget 50000tokens --per-source equal",
    ),
    "compare": (
        "learnable compare my.jsonl --by learnability ifd --budget 15%",
        "learnable compare my.jsonl --evaluate exact_match:test.jsonl --dry-run",
    ),
    "diversify": (
        "learnable diversify task.jsonl --method paraphrase --n 10 -o wordings",
        "learnable diversify --method self_sample --n 60 -o buffer",
    ),
    "teach": (
        "learnable teach task.jsonl --paraphrases wordings --buffer buffer",
        "learnable teach task.jsonl --paraphrases wordings --arms common no_buffer",
    ),
    "merge": (
        "learnable merge one two three --base Qwen/Qwen3-0.6B --by select@p=0.5,0.3,0.2",
        "learnable merge one two --by average --rank 32 -o adapter",
    ),
    "order": ("learnable order one two three", "learnable order one two three --dry-run"),
    "prefer": (
        "learnable prefer pairs.jsonl --loss sigmoid davir --fractions 0.2 0.6 1",
        "learnable prefer pairs.jsonl --pairs-by random small_gap --test others.jsonl",
    ),
    "evaluate": (
        "learnable evaluate heldout:eval.jsonl --model Qwen/Qwen3-0.6B",
        "learnable evaluate exact_match:test.jsonl@n=100 --adapter adapter",
    ),
    "leakage": (
        "learnable leakage test.jsonl --model my-model --reference its-base",
        "learnable leakage test.jsonl --adapter adapter --clean others.jsonl",
    ),
    "show": ("learnable show my.jsonl --n 1", "learnable show pool --reference reference --n 1"),
    "explore": ("learnable explore runs/lobass", "learnable explore selection --export page --no-browser"),
    "doctor": ("learnable doctor", "learnable doctor my.jsonl --model Qwen/Qwen3-0.6B"),
    "report": (
        "learnable report selection --tokens 8",
        "learnable report comparison -o page --title 'First try'",
    ),
}
"""What somebody could mean, by command; the help shows it, and so do errors of usage. No line is cut at 80 columns."""

app = App(
    name="learnable",
    help=HELP,
    version=__version__,
    help_format="markdown",
    default_parameter=OFFERED,
    suppress_keyboard_interrupt=False,
)


def install_completion(shell: Shell | None = None, *, output: Path | None = None) -> dict[str, str]:
    """Teach the shell to complete commands, options and names on TAB.

    Args:
        shell: Your shell, when it cannot be told.
        output: File to write instead of the one that the shell looks for.
    """
    return install(app, shell, output)


_COMMANDS: Sequence[tuple[str, Any, Group]] = (
    (running.NAME, running.run.meta, START),
    ("list", listed, START),
    *((each.__name__, each, CHOOSE) for each in (verbs.load, verbs.train, verbs.score, verbs.select)),
    *((each.__name__, each, TEACH) for each in (verbs.diversify, verbs.teach, verbs.merge, verbs.prefer)),
    *((each.__name__, each, LOOK) for each in (verbs.show, verbs.explore, verbs.report, verbs.order)),
    *((each.__name__, each, CHECK) for each in (verbs.doctor, verbs.evaluate, verbs.compare, verbs.leakage)),
    ("--install-completion", install_completion, OPTIONS),
)
for place, (name, command, group) in enumerate(_COMMANDS, start=2):  # behind --help and --version
    lines = "\n".join(EXAMPLES.get(name, ()))
    examples = f"Examples:\n\n```text\n{lines}\n```" if lines else None
    if isinstance(command, App):
        command.group, command.sort_key, command.help_epilogue = (group,), place, examples
        app.command(command, name=name)
    else:
        app.command(command, name=name, group=group, sort_key=place, help_epilogue=examples)
for flag in ("--help", "--version"):
    app[flag].group = (OPTIONS,)


app.meta.suppress_keyboard_interrupt = False


@app.meta.default
def launch(
    *words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    json: Annotated[bool, Parameter(negative=(), show_default=False, group=EVERYWHERE)] = False,
    quiet: Annotated[bool, Parameter(negative=(), show_default=False, group=EVERYWHERE)] = False,
    debug: Annotated[bool, Parameter(negative=(), show_default=False, group=EVERYWHERE)] = False,
) -> int:
    """Run one command.

    Args:
        words: The command and what follows it.
        json: Print one JSON document to standard output, and nothing else; an error is one to standard error.
        quiet: Show no progress and no notes on standard error; results, warnings and errors stay.
        debug: Show the traceback of an error.
    """
    said = io.StringIO()  # what a command prints itself, so that standard output gets one document
    with (
        contextlib.redirect_stdout(said) if json else contextlib.nullcontext(),
        silenced() if quiet else contextlib.nullcontext(),
    ):
        result = app(_joined(words), exit_on_error=False, print_error=False, result_action="return_value")
    if json:
        printing.write_json(result, text=said.getvalue())
    else:
        printing.show(result)
    if isinstance(result, Page):
        sys.stdout.flush()
        stopping.be_patient()
        result.serve()
    return FAILED if isinstance(result, Diagnosis) and not result.healthy else DONE


def main() -> None:
    """Run the command line and exit with its code."""
    os.environ["PYTHONSAFEPATH"] = (
        "1"  # processes that begin here import nothing from the working folder either
    )
    if "--debug" not in sys.argv:
        _keep_libraries_quiet()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # not every locale has all letters
    code = DONE
    try:
        code = call(sys.argv[1:])
        sys.stdout.flush()
    except OSError as error:
        # Either the reader, such as `head`, has read enough, or the results go to a full disk.
        if not isinstance(error, BrokenPipeError):
            code = code or _fail(system_error(error), sys.argv)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if code > SIGNALLED:
        stopping.end(code)
    sys.exit(code)


def _keep_libraries_quiet() -> None:
    """Have libraries show no warnings, notices and bars, here and in processes that begin here, unless asked otherwise."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)  # read when they are imported
    if not sys.stderr.isatty() or "--quiet" in sys.argv:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # of downloads
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def call(words: Sequence[str]) -> int:
    """Run one command line and return its exit code: 0 done, 1 our error, 2 usage, 130 or 143 stopped."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    # PEFT 0.21 asks transformers 5.23 for a property under its old name.
    warnings.filterwarnings(
        "ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning
    )
    try:
        join_launcher()
        for word in (*words, working_folder()):
            check_text(word)
        words = _as_flags(words)
        running.register(words)
        code = app.meta(list(words), exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        return _fail(explained(error, examples=EXAMPLES), words)
    except LearnableError as error:
        return _fail(error, words)
    except BrokenPipeError:
        raise
    except OSError as error:
        return _fail(system_error(error), words)
    except UnicodeEncodeError as error:
        return _fail(no_text(error), words)
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and not stopping.asked():
            raise
        return stopping.told()  # some libraries answer to SIGTERM with an exit code of their own
    return code or DONE  # cyclopts shows a help page itself, and returns nothing


def _as_flags(words: Sequence[str]) -> Sequence[str]:
    """Return the words with a leading ``help`` or ``version``, as other tools have them, as the flag of that name.

    Raises:
        UsageError: If help is asked for what is no command.
    """
    match list(words):
        case ["help", *command]:
            words = [*command, "--help"]
        case ["version", *rest]:
            words = ["--version", *rest]
    name = next((word for word in words if word not in running.WITH_ALL), "-")
    # Asked for help with a word that it does not know, cyclopts gives that of the whole.
    if running.asks_for_help(words) and not name.startswith(("-", "_")) and name not in EXAMPLES:
        raise UsageError(f"there is no command {name!r}", hint=did_you_mean(name, EXAMPLES))
    return words


def _joined(words: Sequence[str]) -> list[str]:
    """Return the words with ``--budget.tokens 500`` as ``--budget 500tokens``, the form recipes write nested."""
    joined: list[str] = []
    rest = list(words)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        kind = flag.removeprefix("--budget.")
        if flag == kind or (not equals and not rest):
            joined.append(f"{flag}{equals}{value}")
            continue
        joined += ["--budget", _budget(kind, value if equals else rest.pop(0))]
        while rest and rest[0][:1].isdigit():  # several budgets after one flag
            joined += ["--budget", _budget(kind, rest.pop(0))]
    return joined


def _budget(kind: str, value: str) -> str:
    numbers = {"tokens": int, "examples": int, "fraction": float}
    if kind not in numbers:
        raise UsageError(f"budget has no setting {kind!r}", hint=did_you_mean(kind, numbers))
    try:
        return str(Budget(**{kind: numbers[kind](value)}))
    except ValueError as error:
        hint = "for example --budget.tokens 50000"
        raise UsageError(f"--budget.{kind} {value}: {error}", hint=hint) from error


def _fail(error: LearnableError, words: Sequence[str]) -> int:
    code = MISUSED if isinstance(error, UsageError) else FAILED
    if "--debug" in words:
        traceback.print_exception(error)
    elif "--json" in words:
        said = {"error": error.message, "hint": error.hint, "exit": code}
        sys.stderr.write(json_format.dumps(said, ensure_ascii=False) + "\n")
    else:
        sys.stderr.write(visible(f"error: {error}") + "\n")
    return code
