"""A run in, one self-contained HTML file out.

The pages are built from numbers that the caller already has (`SelectionFacts`, `ComparisonFacts`, `LessonFacts`,
`TrialFacts`); nothing is read, measured or written here. The modules `selection`, `comparison`, `lesson` and `trial` write
them; they draw, and so load slowly. What to distrust, `look` finds by the checks of each kind.
"""

from learnable.pages.comparison_facts import COMPARISON_CHECKS as COMPARISON_CHECKS
from learnable.pages.comparison_facts import ComparisonFacts as ComparisonFacts
from learnable.pages.contest import Asked as Asked
from learnable.pages.lesson_facts import LESSON_CHECKS as LESSON_CHECKS
from learnable.pages.lesson_facts import LessonFacts as LessonFacts
from learnable.pages.selection_facts import SelectionFacts as SelectionFacts
from learnable.pages.selection_facts import examples_to_spell as examples_to_spell
from learnable.pages.trial_facts import TRIAL_CHECKS as TRIAL_CHECKS
from learnable.pages.trial_facts import TrialFacts as TrialFacts
from learnable.pages.warnings import SELECTION_CHECKS as SELECTION_CHECKS
from learnable.pages.warnings import look as look
