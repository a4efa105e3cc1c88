"""Prints the reference of all commands as Markdown: ``python docs/generate_cli.py > docs/cli.md``."""

import re
import sys
from unittest.mock import patch

from learnable.cli import app

INTRODUCTION = """\
# Command reference

Written by `python docs/generate_cli.py > docs/cli.md` (or `make docs`) from the commands themselves; do not edit.
What each command does, with its output and its errors, stands on [its own page](index.md).

Every command also takes `--debug`: on an error, it shows the traceback instead of one line and a hint. Results go to
standard output, progress and logs to standard error. Exit codes: 0 done, 1 an error, 2 a command line that is not
understood, 130 stopped with Ctrl-C.
"""


def reference() -> str:
    """Return the reference: the introduction, then a section for each command."""
    # cyclopts 5.4 puts a part of "python -m pytest" into usage lines when that is what runs.
    with patch.object(sys, "argv", ["learnable"]):
        generated = app.generate_docs(output_format="markdown", heading_level=1)
    _, _, commands = generated.partition("\n## learnable ")
    # Docstrings mark code with two backticks, Markdown needs one; usage lines are no commands to copy.
    single = re.sub(r"(?<!`)``(?!`)", "`", commands).replace("```console", "```text")
    return f"{INTRODUCTION}\n## learnable {single.rstrip()}\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
