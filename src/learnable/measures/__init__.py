"""Measures: expensive passes, done once and stored by example id.

A kind is what its pass computes, what the store keeps of it, and its columns in a table of scores (``kinds``). One loop
fills the store for all (``keep``), and ``passes`` makes the batches of rendered examples. A second input, such as a
target's rows, is part of a measure's parameters, and of what asks for it.
"""

from learnable.measures.extrapolation import extrapolated as extrapolated
from learnable.measures.importance import log_importance as log_importance
from learnable.measures.keep import Found as Found
from learnable.measures.keep import fill as fill
from learnable.measures.keep import known as known
from learnable.measures.kinds import AIMED as AIMED
from learnable.measures.kinds import COLUMNS as COLUMNS
from learnable.measures.kinds import LISTS as LISTS
from learnable.measures.kinds import PASSES as PASSES
from learnable.measures.kinds import Role as Role
from learnable.measures.kinds import end_of_turn as end_of_turn
from learnable.measures.kinds import kinds_of as kinds_of
from learnable.measures.kinds import numbers_of as numbers_of
from learnable.measures.kinds import roles_of as roles_of
from learnable.measures.passes import column as column
from learnable.measures.passes import measure_of as measure_of
from learnable.measures.passes import nll_of as nll_of
from learnable.measures.passes import planned as planned
from learnable.measures.passes import take as take
from learnable.measures.rendered import answers_alone as answers_alone
from learnable.measures.rendered import lengths as lengths
