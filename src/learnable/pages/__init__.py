"""A run in, one self-contained HTML file out.

The pages are built from numbers that the caller already has (`Facts`, `ComparisonFacts`, `LessonFacts`); nothing is read,
measured or written here.
"""

from learnable.pages.cautions import warnings_of
from learnable.pages.comparison import ComparisonFacts
from learnable.pages.comparison import render as render_comparison
from learnable.pages.comparison import warnings_of as comparison_warnings_of
from learnable.pages.facts import Facts, Step, view_of
from learnable.pages.lesson import LessonFacts, Made, Question, Way
from learnable.pages.lesson import render as render_lesson
from learnable.pages.lesson import warnings_of as lesson_warnings_of
from learnable.pages.page import render
from learnable.pages.token_section import examples_to_spell

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
