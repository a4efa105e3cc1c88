"""Checks of a page that compares: each looks for one thing to distrust."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

Read = TypeVar("Read")


@dataclass(frozen=True, kw_only=True)
class Cautions:
    """What was found: sentences, names of the checks that stayed silent, names of those that could not be made."""

    warnings: tuple[str, ...]
    clear: tuple[str, ...]
    impossible: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Check(Generic[Read]):
    """One thing that is looked for: sentences, none where all is well; None says that it could not be looked for."""

    name: str
    find: Callable[[Read], list[str] | None]


def checked(checks: Iterable[Check[Read]], read: Read) -> Cautions:
    """Make every check."""
    warnings, clear, impossible = list[str](), list[str](), list[str]()
    for check in checks:
        found = check.find(read)
        if found is None:
            impossible.append(check.name)
        elif found:
            warnings += found
        else:
            clear.append(check.name)
    return Cautions(warnings=tuple(warnings), clear=tuple(clear), impossible=tuple(impossible))
