"""One file per diversifier: examples in, new ones out, and a ledger of what was refused."""

from learnable.diversifying.diversity import Diversity, diversity, plane
from learnable.diversifying.drawing import Drawing, NoGenerator
from learnable.diversifying.gates import Avoided
from learnable.diversifying.instructions import find_instructions, first_user_turn
from learnable.diversifying.kinds import Diversified, Diversifier, counted
from learnable.diversifying.table import DIVERSIFIERS, build_diversifier
from learnable.diversifying.wordings import Wordings, worded_tests

__all__ = [
    "DIVERSIFIERS",
    "Avoided",
    "Diversified",
    "Diversifier",
    "Diversity",
    "Drawing",
    "NoGenerator",
    "Wordings",
    "build_diversifier",
    "counted",
    "diversity",
    "find_instructions",
    "first_user_turn",
    "plane",
    "worded_tests",
]
