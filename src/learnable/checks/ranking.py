"""One order of all that checks found."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from learnable.checks.check import Check, Checked, Suspicion


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A row that may be wrong.

    Args:
        row: Its position.
        suspicion: In (0, 1], see ``suspects_of``.
        reasons: What each check says, by its name, the strongest first.
    """

    row: int
    suspicion: float
    reasons: Mapping[str, Suspicion]

    @property
    def other(self) -> int | None:
        """The position of the row that it collides with, if any: that of the strongest reason with one."""
        return next((each.other for each in self.reasons.values() if each.other is not None), None)


def suspects_of(checked: Checked, checks: Mapping[str, Check]) -> list[Suspect]:
    """Return the rows that any check suspects, the most suspect first.

    The suspicion is ``1 - product of (1 - strength)`` (noisy or): one strong reason goes before two weak ones, and reasons add up.
    Checks that measure say much the same of a name that a model does not know, so of these the strongest alone counts, and so of the
    findings of one check. Of equal suspicion, the row with more reasons comes first, then the earlier one.
    """
    found = defaultdict[int, dict[str, Suspicion]](dict)
    for name, check in checks.items():
        for each in check.look(checked):
            known = found[each.row].get(name)
            if known is None or each.strength > known.strength:
                found[each.row][name] = each
    suspects = []
    for row, reasons in found.items():
        ordered = dict(sorted(reasons.items(), key=lambda pair: -pair[1].strength))
        told = {
            "measured" if checks[name].needs else name: each.strength
            for name, each in reversed(ordered.items())
        }
        suspicion = 1 - math.prod(1 - strength for strength in told.values())
        suspects.append(Suspect(row=row, suspicion=suspicion, reasons=ordered))
    return sorted(suspects, key=lambda each: (-each.suspicion, -len(each.reasons), each.row))
