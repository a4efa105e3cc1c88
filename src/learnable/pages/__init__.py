"""A run in, one self-contained HTML file out.

The pages are built from numbers that the caller already has (`SelectionFacts`, `ComparisonFacts`, `LessonFacts`); nothing
is read, measured or written here.
"""

from learnable.pages.comparison import render_comparison
from learnable.pages.comparison_facts import ComparisonFacts
from learnable.pages.comparison_warnings import comparison_warnings
from learnable.pages.lesson import render_lesson
from learnable.pages.lesson_facts import Asked, LessonFacts, Made, Question, Way
from learnable.pages.lesson_warnings import lesson_warnings
from learnable.pages.selection import examples_to_spell, render_selection
from learnable.pages.selection_facts import CostRow, SelectionFacts, view_of
from learnable.pages.warnings import selection_warnings

__all__ = [
    "Asked",
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
