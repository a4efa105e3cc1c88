"""Prints the reference of all commands as Markdown: ``python docs/generate_cli.py > docs/cli.md``."""

import re
import sys
from unittest.mock import patch

from cyclopts import App

from learnable.cli.app import EXAMPLES, app
from learnable.cli.running import run

INTRODUCTION = """\
# Command reference

Written by `python docs/generate_cli.py > docs/cli.md` (or `make docs`) from the commands themselves; do not edit.
What each command does, with its output and its errors, stands on [its own page](index.md).

Every command also takes three options, before or after its own:

* `--json`: Print one JSON document to standard output, and nothing else: facts, folder, cost, and the tables of a comparison
    or lesson. An error is a JSON object, the last line of standard error: `error`, `hint`, `exit`.
* `--quiet`: Show no progress and no notes on standard error. Results, warnings of your data and errors stay.
* `--debug`: On an error, show the traceback instead of one line and a hint.

Results go to standard output, progress and logs to standard error. Nothing is coloured where it is piped, or where
`NO_COLOR` is set. Exit codes: 0 done, 1 an error, 2 a command line that is not understood, 130 stopped with Ctrl-C.
`learnable --install-completion` teaches the shell all of these [on TAB](list.md#names-on-tab).
"""

TITLES = ("**Commands**:", "**Arguments**:", "**Parameters**:")
"""Of the lists behind the examples."""


def reference() -> str:
    """Return the reference: the introduction, then a section for each command with its examples."""
    _, _, commands = _generated(app).partition("\n## learnable ")
    sections = [_section(section) for section in commands.split("\n## learnable ")]
    # Those of the recipes stand behind `run`, which they are given without the name of the program.
    whole = re.sub(r"^(##|) ?run ", r"\1 learnable run ", _generated(run), flags=re.MULTILINE)
    _, *recipes = whole.replace("\n learnable", "\nlearnable").split("\n## learnable ")
    sections[1:1] = [f"\n## learnable {text.rstrip()}\n" for text in recipes]
    return INTRODUCTION + "".join(sections)


def _generated(of: App) -> str:
    """Return what cyclopts says of a command and those in it, with one backtick around code."""
    # cyclopts 5.4 puts a part of "python -m pytest" into usage lines when that is what runs.
    with patch.object(sys, "argv", ["learnable"]):
        generated = of.generate_docs(output_format="markdown", heading_level=1)
    # Docstrings mark code with two backticks, Markdown needs one; usage lines are no commands to copy.
    return re.sub(r"(?<!`)``(?!`)", "`", generated).replace("```console", "```text")


def _section(text: str) -> str:
    """Return the section of one command, with its examples before its parameters."""
    name = text.partition("\n")[0].strip()
    if name.startswith("-"):  # an option that does something alone; the introduction has it
        return ""
    shown = "\n".join(EXAMPLES[name])
    text = text.partition("**With every command**:")[0]  # so has it these
    title = next(each for each in TITLES if each in text)
    before, _, after = text.partition(title)
    return f"\n## learnable {before}```sh\n{shown}\n```\n\n{title}{after.rstrip()}\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
