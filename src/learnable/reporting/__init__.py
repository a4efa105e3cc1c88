"""A run in, one self-contained HTML file out.

The pages are built from numbers that the caller already has (`Facts`, `ComparisonFacts`, `LessonFacts`); nothing is read,
measured or written here.
"""

from learnable.reporting.cautions import warnings_of
from learnable.reporting.comparison import ComparisonFacts
from learnable.reporting.comparison import render as render_comparison
from learnable.reporting.comparison import warnings_of as comparison_warnings_of
from learnable.reporting.facts import Facts, Step, view_of
from learnable.reporting.lesson import LessonFacts, Made, Question, Way
from learnable.reporting.lesson import render as render_lesson
from learnable.reporting.lesson import warnings_of as lesson_warnings_of
from learnable.reporting.page import render
from learnable.reporting.token_section import examples_to_spell

__all__ = [
    "ComparisonFacts",
    "Facts",
    "LessonFacts",
    "Made",
    "Question",
    "Step",
    "Way",
    "comparison_warnings_of",
    "examples_to_spell",
    "lesson_warnings_of",
    "render",
    "render_comparison",
    "render_lesson",
    "view_of",
    "warnings_of",
]
