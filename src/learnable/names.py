"""Names that become paths, wherever they come from: a recipe file, a record of a run, the rows."""

from pathlib import Path

from learnable.errors import UsageError


def component(name: str, what: str) -> str:
    """Return a name that is to be one component of a path, and so cannot lead out of its folder.

    Args:
        name: Of a file or folder.
        what: What it names, for the error: ``a step of my.yaml``.

    Raises:
        UsageError: If it is none: empty, ``.`` or ``..``, or with a separator in it.
    """
    if name in ("", "..") or "\0" in name or Path(name).name != name:
        raise UsageError(
            f"{name!r} cannot be the name of {what}: it becomes the name of a file or folder",
            hint="take letters, digits, - and _",
        )
    return name
