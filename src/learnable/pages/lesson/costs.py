"""What each arm was trained on, and what that took."""

from dataclasses import dataclass

from learnable.pages.lesson.facts import Lesson


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Means over the seeds; ``ratio`` is of other examples to those of the task, ``times`` of tokens to the baseline's."""

    arm: str
    examples: float
    task_examples: float
    ratio: float | None
    tokens: float
    times: float | None
    response_tokens: float
    steps: float
    seconds: float


def costs(lesson: Lesson) -> list[Cost]:
    """One line per trained arm, in the order asked for."""
    base = lesson.means[lesson.facts.baseline]["tokens"]
    found = []
    for arm in lesson.trained:
        means = lesson.means[arm]
        others = means["examples"] - means["task_examples"]
        found.append(
            Cost(
                arm=arm,
                examples=means["examples"],
                task_examples=means["task_examples"],
                ratio=others / means["task_examples"] if means["task_examples"] else None,
                tokens=means["tokens"],
                times=means["tokens"] / base if base else None,
                response_tokens=means["response_tokens"],
                steps=means["steps"],
                seconds=means["seconds"],
            )
        )
    return found
