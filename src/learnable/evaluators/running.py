"""Evaluations: evaluators with their data, read, and run on a model, which is asked for what is not stored yet."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from learnable.errors import ModelError, UsageError
from learnable.evaluators.kinds import GRADES, ungraded
from learnable.evaluators.table import Specification, build_evaluator, parse
from learnable.measures import Found, fill, known, lengths, nll_of
from learnable.runs.identity import example_id, fingerprint
from learnable.runs.store import Store
from learnable.settings import Sampling
from learnable.types import Example, Grade, Measure, Message

JUDGED_AT_ONCE = 64
"""Pairs that a judge is asked for together."""
MAX_LENGTH = 2_048


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An evaluator with its data, read."""

    label: str
    evaluator: Any
    examples: list[Example]

    @property
    def identity(self) -> str:
        """Fingerprint of the evaluator's settings and of the examples."""
        return fingerprint(
            [self.label, fingerprint(self.evaluator), [example.id for example in self.examples]]
        )


def wants_heldout(written: Sequence[str]) -> bool:
    """Tell whether an evaluation is on the rows that the data itself sets aside: ``heldout`` without a file."""
    return any(_is_heldout(parse(text)) for text in written)


def _is_heldout(specification: Specification) -> bool:
    return specification.name == "heldout" and specification.path is None


def check_place(asked: Sequence[Specification], on: str | None) -> None:
    """Check evaluations before data is read: whether they are known, and whether they can run where the model does."""
    for specification in asked:
        if build_evaluator(specification).kind == "harness" and on is not None:
            raise UsageError(
                f"{specification.label} runs the model itself, and with --on {on} there is none here",
                hint=f"evaluate {specification.name} by itself, without --on",
            )


def evaluations_of(written: Sequence[str], *, heldout: Path | None = None) -> list[Evaluation]:
    """Return the evaluations that were asked for, their data read; ``heldout`` are the rows that were set aside."""
    specifications = {text: parse(text) for text in dict.fromkeys(written)}
    labels = [specification.label for specification in specifications.values()]
    found = []
    for text, specification in specifications.items():
        # Files of one name in two folders are told apart by their paths.
        label = specification.label if labels.count(specification.label) == 1 else text
        if heldout is not None and _is_heldout(specification):
            settings = {"source_column": "source", **specification.settings}
            specification = replace(specification, path=str(heldout), settings=settings)
        evaluator = build_evaluator(specification)
        examples = evaluator.read(specification.path)
        found.append(Evaluation(label=label, evaluator=evaluator, examples=examples))
    return found


def graded_all(
    model: Any, evaluations: Sequence[Evaluation], *, store: Store, max_length: int, what: str = ""
) -> pl.DataFrame:
    """Return ``evaluation`` and the columns of ``evaluate``, of one model as it is now (its adapter on or off)."""
    nothing: dict[str, Any] = {"evaluation": pl.String, **GRADES}
    grades = [pl.DataFrame(schema=nothing)]
    for each in evaluations:
        label, asked = f"{each.label}{what}", each.examples
        frame = evaluate(model, each.evaluator, asked, store=store, max_length=max_length, label=label)
        grades.append(frame.select(pl.lit(each.label).alias("evaluation"), pl.all()))
    return pl.concat(grades)


def evaluate(
    model: Any,
    evaluator: Any,
    examples: Sequence[Example],
    *,
    store: Store,
    max_length: int = MAX_LENGTH,
    label: str,
) -> pl.DataFrame:
    """Return the grade of every example.

    Losses and completions are stored by model and conversation: nothing is computed twice, and a killed run goes on.
    The model wears the adapter that is evaluated, if any. A judge compares two models instead: see ``judged``. A
    conversation of more than ``max_length`` tokens is scored as far as it fits.

    Returns:
        Columns ``id``, ``source``, ``value`` (float32, NaN where it could not be graded), ``answer``, ``why``; one row
        per example, in their order.
    """
    if evaluator.kind == "likelihood":
        return _table(examples, _likelihoods(model, evaluator, examples, store, max_length, label))
    if evaluator.kind == "generation":
        found = completions(model, evaluator, examples, store=store, label=label)
        asked = [example for example, one in zip(examples, found, strict=True) if one.text is not None]
        texts = [one.text for one in found if one.text is not None]
        # Of all at once where the evaluator has a way to do that.
        all_at_once = hasattr(evaluator, "grade_all")
        grades = (
            iter(evaluator.grade_all(asked, texts)) if all_at_once else map(evaluator.grade, asked, texts)
        )
        return _table(examples, [_unanswered(one.why) if one.text is None else next(grades) for one in found])
    if evaluator.kind != "harness":
        raise UsageError(
            "a judge compares the answers of two models, and there is only one here",
            hint="use it in `compare`",
        )
    if not examples:
        return _table([], [])
    tokenizer = model.renderer.tokenizer
    frame: pl.DataFrame = evaluator.run(model.network, tokenizer, examples, batch_tokens=model.batch_tokens)
    return frame.select(pl.col(name).cast(kind) for name, kind in GRADES.items())


class Completion(NamedTuple):
    """The answer of a model; ``text`` is None where there is none, and ``why`` says why."""

    text: str | None
    why: str = ""


def completions(
    model: Any, evaluator: Any, examples: Sequence[Example], *, store: Store, label: str
) -> list[Completion]:
    """Return the model's greedy answer to each of n examples, from the store where it is there.

    It is without a text where the chat template refuses the prompt or the model has no room for it. The evaluator
    gives the prompts and the length of the answers.
    """
    new = evaluator.max_new_tokens
    parameters = {"rendering": model.renderer.key, "max_new_tokens": new, "temperature": 0.0}
    measure = Measure(kind="completion", model=model.key, parameters=parameters)
    prompts = [evaluator.prompt(example) for example in examples]
    ids = [example_id(prompt) for prompt in prompts]
    distinct = dict(zip(ids, prompts, strict=True))
    rooms = {identity: room(model, prompt, new) for identity, prompt in distinct.items()}
    fitting = [identity for identity, (_, why) in rooms.items() if not why]
    asked = [distinct[identity] for identity in fitting]

    def generated(missing: Collection[int]) -> Iterator[Found]:
        greedy = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=new)
        for positions, found in model.answers(asked, sampling=greedy, seeds=(), only=missing):
            yield Found(positions, [{"completion": (answer.text,)} for answer in found])

    fill([measure], fitting, generated, store=store, label=label, size=lambda place: rooms[fitting[place]][0])
    texts = dict(known(measure, fitting, store=store).iter_rows())
    return [Completion(text=texts.get(identity), why=rooms[identity][1]) for identity in ids]


def room(model: Any, prompt: Sequence[Message], new: int) -> tuple[int, str]:
    """Return the tokens of a prompt, and why ``new`` ones cannot follow, if so."""
    try:
        count = len(model.renderer.prompt_ids(prompt))
    except ModelError as error:
        return 0, f"refused by the chat template: {error.message}"
    limit = getattr(model, "position_limit", None)
    if limit is None or count + new <= limit:
        return count, ""
    return (
        0,
        f"too long: {count:,} prompt tokens and {new:,} new ones do not fit the model's {limit:,} positions",
    )


def judged(
    evaluator: Any,
    examples: Sequence[Example],
    ones: Sequence[Completion],
    others: Sequence[Completion],
    *,
    store: Store,
) -> pl.DataFrame:
    """Return the verdicts over two models' completions, in the columns of ``evaluate``; 1 where ``ones`` win.

    A pair is judged once and its verdict stored; two equal answers are a tie without asking. A verdict that could not
    be read is not stored: the next run asks again.
    """
    measure = Measure(kind="verdict", model=fingerprint(evaluator))
    grades: dict[int, Grade] = {}
    asked: dict[str, list[int]] = {}
    for position, (example, one, other) in enumerate(zip(examples, ones, others, strict=True)):
        if one.text is None or other.text is None:
            grades[position] = _unanswered(one.why or other.why)
        elif one.text == other.text:
            grades[position] = Grade(value=0.5, why="the same answer")
        else:
            asked.setdefault(fingerprint([example.id, one.text, other.text]), []).append(position)
    pairs = list(asked.values())

    def verdicts(missing: Collection[int]) -> Iterator[Found]:
        numbered = sorted(missing)
        for start in range(0, len(numbered), JUDGED_AT_ONCE):
            numbers = numbered[start : start + JUDGED_AT_ONCE]
            places = [pairs[number][0] for number in numbers]
            found = evaluator.judge_pairs(
                [examples[place] for place in places],
                [ones[place].text or "" for place in places],
                [others[place].text or "" for place in places],
            )
            for number, grade in zip(numbers, found, strict=True):
                grades.update(dict.fromkeys(pairs[number], grade))
            stored = [{} if np.isnan(one.value) else {"verdict": (one.value, one.why)} for one in found]
            yield Found(numbers, stored)

    fill([measure], list(asked), verdicts, store=store, label="judging", size=lambda _: 1)
    stored = [identity for identity, places in asked.items() if places[0] not in grades]
    for row in known(measure, stored, store=store).iter_rows(named=True):
        grades |= dict.fromkeys(asked[row["id"]], Grade(value=row["value"], why=row["why"]))
    return _table(examples, [grades[position] for position in range(len(examples))])


def _likelihoods(
    model: Any, evaluator: Any, examples: Sequence[Example], store: Store, max_length: int, label: str
) -> list[Grade]:
    ids: list[list[str]] = []
    distinct: dict[str, Example] = {}
    for example in examples:
        group = evaluator.candidates(example)
        ids.append([example_id(messages, tools=example.tools) for messages in group])
        for identity, messages in zip(ids[-1], group, strict=True):
            distinct[identity] = replace(example, id=identity, messages=messages)
    rendered = model.renderer.render(list(distinct.values()), max_length=max_length, skip_refused=True)
    nll, _ = nll_of(model, rendered, max_length=max_length, store=store, label=label, counts=False)
    losses: dict[str, float] = dict(nll.iter_rows())
    scored = {
        row["id"]: {**row, "nll": losses.get(row["id"], float("nan"))}
        for row in lengths(rendered).iter_rows(named=True)
    }
    return [_graded(evaluator, e, [scored[i] for i in group]) for e, group in zip(examples, ids, strict=True)]


def _graded(evaluator: Any, example: Example, scored: Sequence[Mapping[str, Any]]) -> Grade:
    """Return the grade of an example by its candidates: the columns of ``lengths``, and ``nll``."""
    if why := next((one["undefined"] for one in scored if one["undefined"]), None):
        return _unanswered(why)
    if len(scored) > 1 and any(one["truncated"] for one in scored):
        return _unanswered("a candidate does not fit the length limit, so they cannot be compared")
    nll = np.asarray([one["nll"] for one in scored], dtype=np.float64)
    tokens = np.asarray([one["response_tokens"] for one in scored], dtype=np.int64)
    grade: Grade = evaluator.grade(example, nll, tokens)
    if scored and scored[0]["truncated"] and not grade.why:
        return replace(grade, why="cut off at the length limit")
    return grade


def _unanswered(why: str) -> Grade:
    return ungraded(why or "there is no answer to grade")


def _table(examples: Sequence[Example], grades: Sequence[Grade]) -> pl.DataFrame:
    rows = [
        (example.id, example.source, grade.value, grade.answer, grade.why)
        for example, grade in zip(examples, grades, strict=True)
    ]
    return pl.DataFrame(rows, schema=GRADES, orient="row")
