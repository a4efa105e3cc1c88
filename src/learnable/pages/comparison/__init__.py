"""The page of a comparison: which ways to choose differ from a random draw, what they cost, and what to distrust.

Everything is said in words and with its interval; what was not seen is said as plainly as what was.
"""

from learnable.pages.comparison.cautions import warnings_of
from learnable.pages.comparison.facts import ComparisonFacts
from learnable.pages.comparison.page import render

__all__ = ["ComparisonFacts", "render", "warnings_of"]
