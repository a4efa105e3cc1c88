"""One file per diversifier: examples in, new ones out, and a ledger of what was refused."""

from learnable.diversifiers.diversity import Diversity, diversity, plane
from learnable.diversifiers.drawing import Drawing
from learnable.diversifiers.gates import Avoided
from learnable.diversifiers.instructions import find_instructions, first_user_turn
from learnable.diversifiers.kinds import Diversified, Diversifier, counted
from learnable.diversifiers.table import DIVERSIFIERS, build_diversifier
from learnable.diversifiers.wordings import Wordings, worded_tests

__all__ = [
    "DIVERSIFIERS",
    "Avoided",
    "Diversified",
    "Diversifier",
    "Diversity",
    "Drawing",
    "Wordings",
    "build_diversifier",
    "counted",
    "diversity",
    "find_instructions",
    "first_user_turn",
    "plane",
    "worded_tests",
]
