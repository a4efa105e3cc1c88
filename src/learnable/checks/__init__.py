"""What can be wrong with a row: a table of checks, each a small function, and one order of what they find.

To add one, write a function that yields suspicions, and give it a line in a table: of single texts (``texts``), of rows against each
other (``alike``), of what models measured (``measured``).
"""

from learnable.checks.alike import ALIKE
from learnable.checks.check import Check, Checked, CheckedRow, Suspicion
from learnable.checks.measured import MEASURED
from learnable.checks.ranking import Suspect, suspects_of
from learnable.checks.texts import TEXTS

CHECKS = {**MEASURED, **TEXTS, **ALIKE}
"""All checks by name."""

__all__ = ["CHECKS", "Check", "Checked", "CheckedRow", "Suspect", "Suspicion", "suspects_of"]
