"""What a lesson says in words: one sentence for each evaluation, against the baseline, with intervals."""

from collections.abc import Sequence

from learnable.experiments import FOR_THIS_SEED
from learnable.pages.contest import MUTE, counted
from learnable.pages.lesson_facts import ArmLine, Asking, LessonContest, Theme
from learnable.pages.words import enumeration, plural


def headline(lesson: LessonContest) -> str:
    """What came of the arm in focus, where the task is asked in words that it has not seen."""
    baseline = lesson.baseline
    if not any(each.compared for each in lesson.evaluated):
        return "One arm, and nothing to compare it with"
    unseen = [each for each in lesson.evaluated if each.asked == "unseen"]
    asked = unseen or [each for each in lesson.evaluated if not each.is_general] or lesson.evaluated
    where = "in unseen wordings" if unseen else "without unseen wordings"
    if lesson.trainings == 1:
        where += FOR_THIS_SEED
    focus = lesson.focus
    if focus is None:
        lines = [line for each in asked for line in each.compared]
        return f"{plural(len(lines), 'comparison')} with {baseline} {where}: {counted(lines)}"
    lines = [line for each in asked for line in each.compared if line.arm == focus]
    if len(lines) > 1 and all(line.outcome in ("no difference seen", "always the same") for line in lines):
        return f"No difference between {focus} and {baseline} was seen on {len(lines):,} evaluations {where}"
    if len(lines) > 1:
        return f"{focus} against {baseline} on {len(lines):,} evaluations {where}: {counted(lines)}"
    return {
        "better": f"{focus} was better than {baseline} {where}",
        "worse": f"{focus} was worse than {baseline} {where}",
        "no difference seen": f"No difference between {focus} and {baseline} was seen {where}",
        "always the same": f"Nothing that was graded can tell {focus} and {baseline} apart {where}",
    }.get(lines[0].outcome, f"{focus} and {baseline} could not be compared {where}")


def about(theme: Theme) -> str:
    """Say what the values are of one evaluation, in all the ways in which it was asked."""
    each = theme.evaluated[0]
    items = max(found.items for found in theme.evaluated)
    said = f"{each.unit}, {each.side}; {plural(items, 'item')} graded"
    return said if each.name == each.setting else f"{each.setting}: {said}"


def said_of(each: Asking, baseline: str) -> str:
    """Say which arms were better or worse than the baseline, and for which nothing was seen."""
    parts = []
    for kind in ("better", "worse"):
        lines = sorted(
            (line for line in each.compared if line.outcome == kind),
            key=lambda one: -abs(one.difference or 0),
        )
        if lines:
            who = enumeration([f"{line.arm} by {each.size(line)}" for line in lines])
            parts.append(f"{kind} than {baseline}: {who}")
    unseen = [line for line in each.compared if line.outcome == "no difference seen"]
    if unseen:
        who = enumeration([line.arm for line in unseen])
        parts.append(f"no difference seen: {who}{_would_have_been_seen(each, unseen)}")
    same = [line.arm for line in each.compared if line.outcome == "always the same"]
    if same:
        parts.append(f"graded as {baseline}, item by item: {enumeration(same)}")
    mute = [line.arm for line in each.compared if line.outcome in MUTE]
    if mute:
        parts.append(f"could not be judged: {enumeration(mute)}")
    said = "; ".join(parts) or f"nothing was compared with {baseline}"
    return said[0].upper() + said[1:] + "."


def _would_have_been_seen(each: Asking, lines: Sequence[ArmLine]) -> str:
    """Say how large a difference would have been seen, and for which arms none could have been."""
    blind = [line.arm for line in lines if not each.could_be_seen(line)]
    least = each.least_seen([line for line in lines if each.could_be_seen(line)])
    said = [f"one of {least} or more would have been"] if least else []
    if blind:
        whom = f"for {enumeration(blind)} " if said else ""
        said.append(f"{whom}the seeds differ too much for any to be")
    return f" ({'; '.join(said)})" if said else ""


def context_of(each: Asking, baseline: str) -> str:
    """Say what training itself did, and what an arm with as many tokens came to."""
    said = []
    if each.baseline.value is not None:
        said.append(f"For scale: {baseline} {each.figure(each.baseline.value)}{_untuned(each, baseline)}.")
    equal = each.equal_tokens
    if equal is not None and equal.outcome in ("better", "worse"):
        said.append(
            f"{equal.arm} was {equal.outcome} than as many tokens of the task alone, by {each.size(equal)}."
        )
    elif equal is not None and equal.outcome == "no difference seen":
        said.append(
            f"Between {equal.arm} and as many tokens of the task alone no difference was seen "
            f"({each.between(equal.low, equal.high, signed=True)})."
        )
    return " ".join(said)


def _untuned(each: Asking, baseline: str) -> str:
    words = {
        "better": f"better than {baseline}",
        "worse": f"worse than {baseline}",
        "no difference seen": "no difference seen",
        "always the same": "graded alike, item by item",
    }
    return "".join(
        f", {line.arm} {each.figure(line.value)}"
        + (f" ({words[line.outcome]})" if line.outcome in words else "")
        for line in each.untuned
        if line.value is not None
    )
