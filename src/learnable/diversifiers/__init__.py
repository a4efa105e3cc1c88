"""One file per diversifier: examples in, new ones out, and a ledger of what was refused."""

from learnable.diversifiers.diversity import Diversity, diversity, plane
from learnable.diversifiers.drawing import Drawing, Tally
from learnable.diversifiers.gates import Avoided
from learnable.diversifiers.instructions import Wordings, find_instructions, first_user_turn, worded_tests
from learnable.diversifiers.kinds import Diversified, Diversifier, Ledger, counted
from learnable.diversifiers.table import DIVERSIFIERS, build_diversifier

__all__ = [
    "DIVERSIFIERS",
    "Avoided",
    "Diversified",
    "Diversifier",
    "Diversity",
    "Drawing",
    "Ledger",
    "Tally",
    "Wordings",
    "build_diversifier",
    "counted",
    "diversity",
    "find_instructions",
    "first_user_turn",
    "plane",
    "worded_tests",
]
