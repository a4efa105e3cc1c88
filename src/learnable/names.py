"""Names that become paths, wherever they come from: a recipe file, a record of a run, the rows."""

import sys
from pathlib import Path

from learnable.errors import UsageError

AROUND = 40
"""Characters shown at either side of one that is no text."""


def component(name: str, what: str) -> str:
    """Return the name of a file or folder that is one component of a path, and so cannot lead out of its folder.

    Any other is a ``UsageError``, which says of ``what`` it is: ``a step of my.yaml``.
    """
    if name in ("", "..") or "\0" in name or Path(name).name != name:
        raise UsageError(
            f"{name!r} cannot be the name of {what}: it becomes the name of a file or folder",
            hint="take letters, digits, - and _",
        )
    return name


def working_folder() -> str:
    """Return where the command was started; a ``UsageError`` if that folder is gone."""
    try:
        return str(Path.cwd())
    except FileNotFoundError as error:
        raise UsageError(
            "the folder that you work in is not there any more", hint="cd to one that is"
        ) from error


def check_text(name: str) -> None:
    """Refuse a name that is no text: records, tables and pages cannot hold it.

    Python keeps bytes of a name that it cannot read as lone surrogates; such a name is a ``UsageError``.
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise no_text(error) from error


def no_text(error: UnicodeEncodeError) -> UsageError:
    """Return what to say about a name that turned out to be no text."""
    shown = error.object[max(0, error.start - AROUND) : error.end + AROUND]
    if sys.getfilesystemencoding() == "utf-8":
        return UsageError(
            f"the name {shown!r} is not UTF-8", hint="rename that file or folder; `ls -b` shows its bytes"
        )
    return UsageError(
        f"the name {shown!r} cannot be read here: this locale knows {sys.getfilesystemencoding()} only",
        hint="say LC_ALL=C.UTF-8 or PYTHONUTF8=1 before the command",
    )
