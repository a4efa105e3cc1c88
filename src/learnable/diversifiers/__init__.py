"""One file per diversifier: examples in, new ones out, and a ledger of what was refused."""

from learnable.diversifiers.diversity import diversity as diversity
from learnable.diversifiers.diversity import plane as plane
from learnable.diversifiers.drawing import Drawing as Drawing
from learnable.diversifiers.drawing import Tally as Tally
from learnable.diversifiers.gates import Avoided as Avoided
from learnable.diversifiers.instructions import Wordings as Wordings
from learnable.diversifiers.instructions import find_instructions as find_instructions
from learnable.diversifiers.instructions import first_user_turn as first_user_turn
from learnable.diversifiers.instructions import worded_tests as worded_tests
from learnable.diversifiers.kinds import Diversified as Diversified
from learnable.diversifiers.kinds import Diversifier as Diversifier
from learnable.diversifiers.kinds import Ledger as Ledger
from learnable.diversifiers.kinds import counted as counted
from learnable.diversifiers.table import DIVERSIFIERS as DIVERSIFIERS
from learnable.diversifiers.table import build_diversifier as build_diversifier
