"""All kinds of measures, and the columns that they give a table of scores. To add one, give it a line here."""

from collections.abc import Collection, Mapping

from learnable.measures.embedding import EMBEDDING
from learnable.measures.kinds import MeasureKind, Role
from learnable.measures.losses import END_NLL, NLL, TOKEN_NLL
from learnable.measures.texts import COMPLETION, DRAW, VERDICT

MEASURES: Mapping[str, MeasureKind] = {
    kind.name: kind for kind in (NLL, END_NLL, TOKEN_NLL, EMBEDDING, COMPLETION, VERDICT, DRAW)
}
COUNTS = ("response_tokens", "tokens", "end_tokens")
"""Columns that rendering alone gives."""
_MEASURED = {column: (kind, role) for kind in MEASURES.values() for column, role in kind.columns.items()}
COLUMNS = (*_MEASURED, *COUNTS)
"""What a scorer may need."""
LISTS = tuple(name for name, (kind, _) in _MEASURED.items() if not kind.is_number)
"""Those of one list for each example: they stay in the store, a table of scores has one number in each cell."""
NUMBERS = tuple(name for name in COLUMNS if name not in LISTS)
"""What a selection may go by beside scores."""


def roles_of(columns: Collection[str]) -> set[Role]:
    """Return what some columns are measured under: each costs a pass."""
    return {_MEASURED[name][1] for name in columns if name in _MEASURED}


def kinds_of(columns: Collection[str], role: Role) -> list[MeasureKind]:
    """Return the kinds of measures that give some columns under a role."""
    found = [_MEASURED[name] for name in _MEASURED if name in columns]
    return [kind for kind, under in found if under == role]


def column_of(kind: MeasureKind, role: Role) -> str:
    """Return the name of a kind's column under a role."""
    return next(name for name, under in kind.columns.items() if under == role)
