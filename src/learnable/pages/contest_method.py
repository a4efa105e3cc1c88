"""What the pages of arms say at their end: how differences are made, and what they cannot say."""

from collections.abc import Sequence

from learnable.pages.contest import ContestFacts
from learnable.pages.html import bullets, settings_table
from learnable.pages.page import Section
from learnable.pages.warnings import kept_apart


def method_section(
    contest: ContestFacts,
    *,
    first: str,
    widened_for: str,
    alone: str = "",
    last: Sequence[str],
) -> Section:
    """Return how differences are made and what they cannot say, between what only one kind of page has to say."""
    notes = [
        first,
        "A difference is paired: the same items, the same seeds. Its interval holds the chance of the items and of the training, "
        f"and is widened for the number of {widened_for}, so that with {100 * contest.confidence:g}% confidence all differences of one "
        "evaluation are inside together; p is corrected likewise. Several evaluations are not corrected for each "
        f"other{alone}.",
        f"The interval of a value stands for that value alone. Do not compare {contest.arm_word}s by whether these overlap; the "
        "differences are for that.",
        "“No difference seen” is no proof that there is none. It says that a difference smaller than half the interval cannot "
        "be told from chance here.",
        *([] if contest.avoided is None else [kept_apart(contest.avoided, contest.read)]),
        *last,
    ]
    shown = settings_table("Settings of every training", contest.settings, label="Training")
    title = "How this was made, and what it cannot say"
    return Section(id="method", nav="method", title=title, parts=[bullets(notes), *shown])
