"""A run in, one self-contained HTML file out.

The page is built from numbers that the caller already has (`Facts`); nothing is read, measured or written here.
"""

from learnable.reporting.cautions import warnings_of
from learnable.reporting.facts import Facts, Step
from learnable.reporting.page import render

__all__ = ["Facts", "Step", "render", "warnings_of"]
