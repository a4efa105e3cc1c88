"""One colour for each arm on the whole page: CSS variables, so that light, dark and print just follow."""

from dataclasses import dataclass

from learnable.pages.lesson.facts import Lesson

SHADES = 6
"""Colours of ``lesson.css`` for arms that are neither the baseline, nor DELIA, nor untuned."""
DASHES = ((1, 0), (6, 3), (2, 3))


@dataclass(frozen=True, kw_only=True)
class Style:
    """How the line of an arm is drawn."""

    arm: str
    colour: str
    dash: tuple[int, int]


def styles(lesson: Lesson) -> dict[str, Style]:
    """Return the style of each arm: the baseline in the colour of text, the arm in focus strong, untuned ones grey."""
    found, others, untuned = {}, 0, 0
    for label in lesson.ways:
        if label not in lesson.trained:
            colour, dash = "var(--rest)", DASHES[untuned % len(DASHES)]
            untuned += 1
        elif label == lesson.facts.baseline:
            colour, dash = "var(--text)", DASHES[0]
        elif label == lesson.focus:
            colour, dash = "var(--chosen)", DASHES[0]
        else:
            colour, dash = f"var(--arm-{others % SHADES})", DASHES[others // SHADES % len(DASHES)]
            others += 1
        found[label] = Style(arm=label, colour=colour, dash=dash)
    return found
