"""The page of a lesson: whether a model learned a task or its template, in which way, at what cost, and what to distrust.

Everything is said in words and with its interval; what was not seen is said as plainly as what was.
"""

from learnable.pages.lesson.cautions import warnings_of
from learnable.pages.lesson.facts import LessonFacts, Made, Question, Way
from learnable.pages.lesson.page import render

__all__ = ["LessonFacts", "Made", "Question", "Way", "render", "warnings_of"]
