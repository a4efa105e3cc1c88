"""One file per measure, or family of them, each with what it computes: to add one, write its file here."""

from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from pkgutil import iter_modules

from learnable.measures.kind import MeasureKind, Role


def _kinds() -> Iterator[MeasureKind]:
    for file in iter_modules(__path__, prefix=f"{__name__}."):
        yield from (each for each in vars(import_module(file.name)).values() if isinstance(each, MeasureKind))


MEASURES: Mapping[str, MeasureKind] = {kind.name: kind for kind in _kinds()}
COUNTS = ("response_tokens", "tokens", "end_tokens")
"""Columns that rendering alone gives."""
_MEASURED = {column: (kind, role) for kind in MEASURES.values() for column, role in kind.columns.items()}
COLUMNS = (*_MEASURED, *COUNTS)
"""What a scorer may need."""
LISTS = tuple(name for name, (kind, _) in _MEASURED.items() if not kind.is_number)
"""Those of one list for each example: they stay in the store, a table of scores has one number in each cell."""


def roles_of(columns: Collection[str]) -> set[Role]:
    """Return what some columns are measured under: each costs a pass."""
    return {_MEASURED[name][1] for name in columns if name in _MEASURED}


def kinds_of(columns: Collection[str], role: Role) -> list[MeasureKind]:
    """Return the kinds of measures that give some columns under a role."""
    found = [_MEASURED[name] for name in _MEASURED if name in columns]
    return [kind for kind, under in found if under == role]


def known_beside(kinds: Collection[MeasureKind], role: Role, *, ends: bool) -> list[MeasureKind]:
    """Return the kinds whose numbers the passes of others give at no cost under a role.

    ``ends`` says whether the tokens that end a turn are told apart, as where models are compared.
    """
    launches = {kind.launch for kind in kinds}
    given = [kind for kind in MEASURES.values() if kind.launch in launches and role in kind.columns.values()]
    new = [kind for kind in given if kind.is_number and kind not in kinds]
    return [kind for kind in new if ends or kind.name != "end_nll"]


def numbers_of(columns: Collection[str]) -> set[str]:
    """Return all columns of numbers that a table of scores has whose scorers need some columns."""
    roles, numbers = roles_of(columns), set(COUNTS)
    for role in roles:
        needed = kinds_of(columns, role)
        kinds = [*needed, *known_beside(needed, role, ends="reference" in roles)]
        numbers |= {column_of(kind, role) for kind in kinds if kind.is_number}
    return numbers if "reference" in roles else numbers - {"end_tokens"}


def column_of(kind: MeasureKind, role: Role) -> str:
    """Return the name of a kind's column under a role."""
    return next(name for name, under in kind.columns.items() if under == role)
