"""The course of a lesson: what is taught and what is asked, as rows, before any model is loaded."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from learnable import data as rows
from learnable import diversifiers
from learnable.data import read_made
from learnable.data.decontamination import SPAN
from learnable.data.overlap import contamination
from learnable.deferred import models
from learnable.errors import ModelError, UsageError
from learnable.evaluators import Evaluation, Specification, build_evaluator, parse
from learnable.mixing import Material, Mixing
from learnable.runs.files import write_json_lines
from learnable.runs.identity import fingerprint
from learnable.runs.progress import say
from learnable.types import Example

GENERAL_SHARE, GENERAL_MOST = 0.1, 100
"""Share of the buffer that is set aside to see what was forgotten, and the most rows of it."""
SEEN, UNSEEN, GENERAL = "seen wording", "unseen wording", "general"


@dataclass(frozen=True, kw_only=True)
class Course:
    """What is taught, and what is asked: rows, before any model is loaded."""

    task: list[Example]
    material: Material
    tests: diversifiers.Wordings
    general: list[Example]

    @property
    def asked(self) -> list[Example]:
        """The test rows in a wording that no training sees, else as they are."""
        return self.tests.unseen or self.tests.seen

    @property
    def identity(self) -> dict[str, str]:
        """What each set is made of, by its name."""
        named = ("task", "paraphrases", "buffer", "facts", "constrained")
        parts = {name: getattr(self.material, name) for name in named}
        parts |= {"seen": self.tests.seen, "unseen": self.tests.unseen, "general rows": self.general}
        return {name: fingerprint([each.id for each in examples]) for name, examples in parts.items()}


def read_course(
    task: list[Example],
    *,
    test: str | None,
    heldout: Path,
    made: dict[str, str | None],
    general: str | None,
    mixing: Mixing,
) -> Course:
    """Read all rows, and set aside what is asked; refuse a task of too few rows, or without rows to ask."""
    task = _ordered(task)
    given: dict[str, Any] = {name: _ordered(read_made(path)) if path else [] for name, path in made.items()}
    if test is None and not heldout.is_file():
        raise UsageError(
            f"{heldout.parent} was loaded without rows to test on",
            hint="load it with --holdout 0.2, or name a file: --test FILE",
        )
    tests = list[Example]()
    if test is not None or heldout.stat().st_size:  # of one row, nothing is set aside
        asked = rows.read([test or str(heldout)], source_column=None if test else "source")
        tests = _ordered(asked.iter_examples())
    if len(task) < 2 or len(tests) < 2:
        raise UsageError(
            f"rows of the task: {len(task)} to train on and {len(tests)} to test on; it takes two of each",
            hint="give more rows, or rows to test on: --test FILE",
        )
    # Facts of a row that is asked would give its answer away; facts without a row are of a text.
    known = {example.id for example in task}
    given["facts"] = [each for each in given["facts"] if each.meta.get("parent") in (None, *known)]
    wordings = diversifiers.worded_tests(task, tests, given["paraphrases"], reserve=test is None)
    given["paraphrases"] = wordings.paraphrases
    forgotten = _ordered(rows.read([general]).iter_examples()) if general else []
    if not general and given["buffer"]:
        aside = min(GENERAL_MOST, round(GENERAL_SHARE * len(given["buffer"])))
        ordered = sorted(given["buffer"], key=lambda each: fingerprint(["general", each.id]))
        forgotten, given["buffer"] = ordered[:aside], ordered[aside:]
    material = Material(task=task, mixing=mixing, **given)
    return Course(task=task, material=material, tests=wordings, general=forgotten)


def _ordered(examples: Iterable[Example]) -> list[Example]:
    """Return examples by identity, so that nothing depends on the order of the rows in a file."""
    return sorted(examples, key=lambda each: each.id)


def usual_evaluations(task: Sequence[Example]) -> list[str]:
    """Return what a task is asked when nothing is said: the format, if all its answers have one, and the loss."""
    for syntax in ("json", "python"):
        grader: Any = build_evaluator(parse(f"format@syntax={syntax},check=parses"))
        if all(grader.grade(each, each.messages[-1].content).value == 1 for each in task):
            return [f"format@syntax={syntax}", "heldout"]
    return ["heldout"]


def evaluations_here(course: Course, asked: Sequence[Specification], folder: Path) -> list[Evaluation]:
    """Return the evaluations on the test rows, and the loss on general rows; what is asked is written to ``folder``."""
    found = []
    usual = [each for each in asked if each.path is None]
    sets = {UNSEEN: course.tests.unseen, SEEN: course.tests.seen, GENERAL: course.general}
    for name, examples in sets.items():
        if not examples:
            continue
        path = folder / f"{name.replace(' ', '_')}.jsonl"
        write_rows(examples, path)
        for specification in [parse("heldout")] if name == GENERAL else usual:
            evaluator = build_evaluator(specification)
            label = "heldout on general rows" if name == GENERAL else f"{specification.label}, {name}"
            found.append(Evaluation(label=label, evaluator=evaluator, examples=evaluator.read(str(path))))
    return found


def write_rows(examples: Sequence[Example], path: Path) -> None:
    """Write conversations with their sources as JSON lines."""
    write_json_lines(path, map(rows.as_row, examples))


def instruction_map(course: Course) -> tuple[pl.DataFrame, dict[str, dict[str, float]]]:
    """Return instructions and questions of the buffer as points of a map, and how diverse each kind is."""
    task = diversifiers.find_instructions(course.task)
    unseen = (
        diversifiers.find_instructions(course.tests.unseen, where=task.where).distinct
        if course.tests.unseen
        else []
    )
    rewrites = [str(each.meta.get("instruction", "")) for each in course.material.paraphrases]
    texts = {
        "task": task.distinct,
        "paraphrases": list(dict.fromkeys(filter(None, rewrites))),
        "unseen": unseen,
        "buffer": list(dict.fromkeys(map(diversifiers.first_user_turn, course.material.buffer))),
    }
    texts = {name: found for name, found in texts.items() if found}
    lines = [(name, text) for name, found in texts.items() for text in found]
    frame = pl.DataFrame(lines, schema={"kind": pl.String, "text": pl.String}, orient="row")
    try:
        embedder = models.StaticEmbedder()
    except ModelError as error:
        say(f"no map of the instructions: {error}")
        return frame, {}
    vectors = embedder.embed_texts([text for _, text in lines])
    points = diversifiers.plane(vectors)
    figures = {}
    for name, found in texts.items():
        known = diversifiers.diversity(found, vectors[(frame["kind"] == name).to_numpy()])
        # One text has no distance.
        figures[name] = {key: value for key, value in known.items() if not math.isnan(value)}
    return frame.with_columns(x=points[:, 0], y=points[:, 1]), figures


def notes_on(course: Course) -> list[str]:
    """Return what must be known to read the results: what could not be asked, and what training has seen."""
    notes, seen, unseen = [], len(course.tests.seen), len(course.tests.unseen)
    if not unseen:
        notes.append(
            "no wordings to ask in that training has not seen: give paraphrases, or rows in others with --test"
        )
    elif unseen < seen:
        notes.append(
            f"{seen - unseen:,} of {seen:,} test rows are asked in the seen wording only: there is no other for them"
        )
    if not seen:
        notes.append(
            "the instruction of the test rows could not be told from their content, so they are asked as they are"
        )
    if not course.general:
        notes.append("what was forgotten was not asked: give --general FILE, or a buffer of ten rows or more")
    return [*notes, *_overlaps(course)]


def _overlaps(course: Course) -> Iterator[str]:
    """Yield of how many rows that are asked the question stands in what is trained on."""
    where = diversifiers.find_instructions(course.task).where
    tests = course.tests.seen or course.tests.unseen
    places = diversifiers.find_instructions([*course.task, *tests], where=where).places
    # A turn of one paragraph is all instruction, and yet what its row is about.
    contents = [(place.before + place.after).strip() or place.instruction for place in places]
    task, buffer, general = map(_questions, (course.task, course.material.buffer, course.general))
    content = "content" if where != "whole" else "content, the instruction included"
    for what, part, items, trained, pool in (
        ("test", content, contents[len(task) :], "task", contents[: len(task)]),
        ("test", content, contents[len(task) :], "buffer", buffer),
        ("general", "question", general, "task", task),
        ("general", "question", general, "buffer", buffer),
    ):
        if found := contamination(_texts(pool), _texts(items), n=SPAN).height:
            yield (
                f"{found:,} of {len(items):,} {what} rows share {SPAN} words in a row of their {part}, or all of "
                f"it, with the {trained}"
            )


def _questions(examples: Sequence[Example]) -> list[str]:
    return ["\n".join(turn.content for turn in each.messages if turn.role == "user") for each in examples]


def _texts(texts: Sequence[str]) -> pl.DataFrame:
    lines = [(str(place), text) for place, text in enumerate(texts)]
    return pl.DataFrame(lines, schema={"id": pl.String, "text": pl.String}, orient="row")
