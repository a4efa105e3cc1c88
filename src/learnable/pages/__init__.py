"""A run in, one self-contained HTML file out.

The pages are built from numbers that the caller already has (`SelectionFacts`, `ComparisonFacts`, `LessonFacts`); nothing
is read, measured or written here.
"""

from learnable.pages.comparison import ComparisonFacts
from learnable.pages.comparison import render as render_comparison
from learnable.pages.comparison import warnings_of as comparison_warnings
from learnable.pages.lesson import LessonFacts, Made, Question, Way
from learnable.pages.lesson import render as render_lesson
from learnable.pages.lesson import warnings_of as lesson_warnings
from learnable.pages.selection import examples_to_spell, render_selection
from learnable.pages.selection_facts import CostRow, SelectionFacts, view_of
from learnable.pages.warnings import selection_warnings

__all__ = [
    "ComparisonFacts",
    "CostRow",
    "LessonFacts",
    "Made",
    "Question",
    "SelectionFacts",
    "Way",
    "comparison_warnings",
    "examples_to_spell",
    "lesson_warnings",
    "render_comparison",
    "render_lesson",
    "render_selection",
    "selection_warnings",
    "view_of",
]
