"""A run in, one self-contained HTML file out.

The pages are built from numbers that the caller already has (`SelectionFacts`, `ComparisonFacts`, `LessonFacts`,
`TrialFacts`); nothing is read, measured or written here. The modules `selection`, `comparison`, `lesson` and `trial` write
them; they draw, and so load slowly.
"""

from learnable.pages.comparison_facts import ComparisonFacts
from learnable.pages.comparison_warnings import comparison_warnings
from learnable.pages.contest import Asked
from learnable.pages.lesson_facts import LessonFacts, Made, Question, Way
from learnable.pages.lesson_warnings import lesson_warnings
from learnable.pages.selection_facts import SelectionFacts, examples_to_spell, view_of
from learnable.pages.trial_facts import TrialFacts, trial_warnings
from learnable.pages.warnings import selection_warnings

__all__ = [
    "Asked",
    "ComparisonFacts",
    "LessonFacts",
    "Made",
    "Question",
    "SelectionFacts",
    "TrialFacts",
    "Way",
    "comparison_warnings",
    "examples_to_spell",
    "lesson_warnings",
    "selection_warnings",
    "trial_warnings",
    "view_of",
]
