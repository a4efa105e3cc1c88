"""Measures: expensive passes, done once and stored by example id.

A kind is what its pass computes, what the store keeps of it, and its columns in a table of scores (``kinds``). One loop
fills the store for all (``keep``), and ``passes`` makes the batches of rendered examples. A second input, such as a
target's rows, is part of a measure's parameters, and of what asks for it.
"""

from learnable.measures.extrapolation import extrapolated
from learnable.measures.importance import log_importance
from learnable.measures.keep import Found, fill, known
from learnable.measures.kind import AIMED, PASSES, MeasureKind, Role
from learnable.measures.kinds import (
    COLUMNS,
    LISTS,
    MEASURES,
    column_of,
    kinds_of,
    known_beside,
    numbers_of,
    roles_of,
)
from learnable.measures.kinds.losses import end_of_turn
from learnable.measures.passes import column, measure_of, nll_of, planned, take
from learnable.measures.rendered import answers_alone, lengths

__all__ = [
    "AIMED",
    "COLUMNS",
    "LISTS",
    "MEASURES",
    "PASSES",
    "Found",
    "MeasureKind",
    "Role",
    "answers_alone",
    "column",
    "column_of",
    "end_of_turn",
    "extrapolated",
    "fill",
    "kinds_of",
    "known",
    "known_beside",
    "lengths",
    "log_importance",
    "measure_of",
    "nll_of",
    "numbers_of",
    "planned",
    "roles_of",
    "take",
]
