"""The page of a lesson: whether a model learned a task or its template, in which way, at what cost, and what to distrust.

Everything is said in words and with its interval; what was not seen is said as plainly as what was.
"""

from learnable.reporting.lesson.cautions import warnings_of
from learnable.reporting.lesson.facts import LessonFacts, Made, Question, Way
from learnable.reporting.lesson.page import render

__all__ = ["LessonFacts", "Made", "Question", "Way", "render", "warnings_of"]
