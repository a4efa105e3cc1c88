"""Runs an evaluator on a model: measures or generates what is missing, stores it at once, and grades."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import polars as pl

from learnable.errors import ModelError, UsageError
from learnable.evaluators.kinds import (
    GRADES,
    EvaluatedModel,
    Evaluator,
    GenerationEvaluator,
    HarnessEvaluator,
    JudgeEvaluator,
    LikelihoodEvaluator,
)
from learnable.measure import lengths, measure_of, plan, run
from learnable.runs.identity import example_id, fingerprint
from learnable.runs.progress import bar
from learnable.runs.store import Store
from learnable.types import Example, Grade, Measure, Message, Rendered

STORE_EVERY_S = 10.0
JUDGED_AT_ONCE = 64
"""Pairs after which verdicts are stored."""
MAX_LENGTH = 2_048


def evaluate(
    model: EvaluatedModel,
    evaluator: Evaluator,
    examples: Sequence[Example],
    *,
    store: Store,
    max_length: int = MAX_LENGTH,
    label: str,
) -> pl.DataFrame:
    """Return the grade of every example.

    What a model pass costs is stored by the identity of the conversation, so nothing is measured or generated twice
    for the same model, and a killed run goes on where it was.

    Args:
        model: A loaded model, wearing the adapter that is evaluated, if any.
        evaluator: A likelihood, generation or harness evaluator.
        examples: What its ``read`` gave.
        store: Where losses and completions are kept.
        max_length: Longest scored conversation in tokens (likelihood).
        label: Shown beside the progress.

    Returns:
        Columns ``id``, ``source``, ``value`` (float32, NaN where it could not be graded), ``answer``, ``why``; one row
        per example, in their order.

    Raises:
        UsageError: If the evaluator is a judge, which compares two models: see ``completions`` and ``judged``.
    """
    if evaluator.kind == "likelihood":
        scored = cast("LikelihoodEvaluator", evaluator)
        return _table(examples, _likelihoods(model, scored, examples, store, max_length, label))
    if evaluator.kind == "generation":
        answered = cast("GenerationEvaluator", evaluator)
        found = completions(model, answered, examples, store=store, label=label)
        return _table(examples, _graded_texts(answered, examples, found))
    if evaluator.kind == "harness":
        harness = cast("HarnessEvaluator", evaluator)
        if not examples:
            return _table([], [])
        frame = harness.run(
            model.network, model.renderer.tokenizer, examples, batch_tokens=model.batch_tokens
        )
        return frame.select(pl.col(name).cast(kind) for name, kind in GRADES.items())
    raise UsageError(
        "a judge compares the answers of two models, and there is only one here", hint="use it in `compare`"
    )


@dataclass(frozen=True, kw_only=True)
class Completion:
    """The answer of a model; ``text`` is None where there is none, and ``why`` says why."""

    text: str | None
    why: str = ""


def completions(
    model: EvaluatedModel,
    evaluator: GenerationEvaluator | JudgeEvaluator,
    examples: Sequence[Example],
    *,
    store: Store,
    label: str,
) -> list[Completion]:
    """Return the model's greedy answer to each example, from the store where it is there.

    Args:
        model: A loaded model.
        evaluator: Gives the prompts and the length of the answers.
        examples: n examples.
        store: Where completions are kept.
        label: Shown beside the progress.

    Returns:
        n completions; without a text where the chat template refuses the prompt or the model has no room for it.
    """
    measure = Measure(
        kind="completion",
        model=model.key,
        parameters={
            "rendering": model.renderer.key,
            "max_new_tokens": evaluator.max_new_tokens,
            "temperature": 0.0,
        },
    )
    prompts = [evaluator.prompt(example) for example in examples]
    ids = [example_id(prompt) for prompt in prompts]
    refused: dict[str, str] = {}
    fitting: dict[str, tuple[Message, ...]] = {}
    tokens: dict[str, int] = {}
    for identity, prompt in zip(ids, prompts, strict=True):
        if identity in tokens or identity in refused:
            continue
        count, why = _room(model, prompt, evaluator.max_new_tokens)
        if why:
            refused[identity] = why
        else:
            fitting[identity], tokens[identity] = prompt, count
    _generate_missing(model, measure, fitting, tokens, store=store, label=label)
    texts: dict[str, str] = {}
    if fitting:
        stored = store.read(measure, pl.Series("id", list(fitting), dtype=pl.String))
        texts = dict(zip(stored["id"], stored["completion"], strict=True))
    return [Completion(text=texts.get(identity), why=refused.get(identity, "")) for identity in ids]


def judged(
    evaluator: JudgeEvaluator,
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
            grades[position] = _ungraded(one.why or other.why)
        elif one.text == other.text:
            grades[position] = Grade(value=0.5, why="the same answer")
        else:
            asked.setdefault(fingerprint([example.id, one.text, other.text]), []).append(position)
    missing = store.missing(measure, pl.Series("id", list(asked), dtype=pl.String)).to_list()
    for start in range(0, len(missing), JUDGED_AT_ONCE):
        ids = missing[start : start + JUDGED_AT_ONCE]
        places = [asked[identity][0] for identity in ids]
        found = evaluator.judge_pairs(
            [examples[place] for place in places],
            [ones[place].text or "" for place in places],
            [others[place].text or "" for place in places],
        )
        graded = dict(zip(ids, found, strict=True))
        grades |= {place: graded[identity] for identity in ids for place in asked[identity]}
        kept = [(name, grade.value, grade.why) for name, grade in graded.items() if not np.isnan(grade.value)]
        schema = {"id": pl.String, "value": pl.Float64, "why": pl.String}
        if kept:
            store.write(measure, pl.DataFrame(kept, schema=schema, orient="row"))
    stored = [identity for identity, places in asked.items() if places[0] not in grades]
    if stored:
        known = store.read(measure, pl.Series("id", stored, dtype=pl.String))
        for row in known.iter_rows(named=True):
            grade = Grade(value=row["value"], why=row["why"])
            grades |= dict.fromkeys(asked[row["id"]], grade)
    return _table(examples, [grades[position] for position in range(len(examples))])


def _likelihoods(
    model: EvaluatedModel,
    evaluator: LikelihoodEvaluator,
    examples: Sequence[Example],
    store: Store,
    max_length: int,
    label: str,
) -> list[Grade]:
    candidates = [evaluator.candidates(example) for example in examples]
    ids = [
        [example_id(messages, tools=example.tools) for messages in group]
        for example, group in zip(examples, candidates, strict=True)
    ]
    distinct: dict[str, Example] = {}
    for example, group, identities in zip(examples, candidates, ids, strict=True):
        for identity, messages in zip(identities, group, strict=True):
            distinct[identity] = replace(example, id=identity, messages=messages)
    rendered = model.renderer.render(list(distinct.values()), max_length=max_length, skip_refused=True)
    measure = measure_of(model, rendering=model.renderer.key, max_length=max_length)
    todo = plan(measure, rendered, store=store, batch_tokens=model.batch_tokens)
    run(todo, model, rendered, store=store, label=label, counts=False)
    scored = _scored(measure, rendered, store)
    return [_graded(evaluator, e, [scored[i] for i in group]) for e, group in zip(examples, ids, strict=True)]


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """A candidate as measured; ``why`` is set where it has no loss."""

    nll: float
    tokens: int
    truncated: bool
    why: str


def _scored(measure: Measure, rendered: Sequence[Rendered], store: Store) -> dict[str, _Scored]:
    frame = lengths(rendered)
    defined = frame.filter(pl.col("response_tokens") > 0)["id"]
    nll: dict[str, float] = {}
    if len(defined):
        stored = store.read(measure, defined)
        nll = dict(zip(stored["id"], stored["nll"], strict=True))
    return {
        row["id"]: _Scored(
            nll=nll.get(row["id"], float("nan")),
            tokens=row["response_tokens"],
            truncated=row["truncated"],
            why=row["undefined"] or "",
        )
        for row in frame.iter_rows(named=True)
    }


def _graded(evaluator: LikelihoodEvaluator, example: Example, scored: Sequence[_Scored]) -> Grade:
    why = next((one.why for one in scored if one.why), "")
    if why:
        return _ungraded(why)
    if len(scored) > 1 and any(one.truncated for one in scored):
        return _ungraded("a candidate does not fit the length limit, so they cannot be compared")
    nll = np.asarray([one.nll for one in scored], dtype=np.float64)
    grade = evaluator.grade(example, nll, np.asarray([one.tokens for one in scored], dtype=np.int64))
    if scored and scored[0].truncated and not grade.why:
        return Grade(value=grade.value, answer=grade.answer, why="cut off at the length limit")
    return grade


def _graded_texts(
    evaluator: GenerationEvaluator, examples: Sequence[Example], found: Sequence[Completion]
) -> list[Grade]:
    """Return the grade of each completion, of all at once where the evaluator has a way to do that."""
    grades = {place: _ungraded(each.why) for place, each in enumerate(found) if each.text is None}
    texts = {place: each.text for place, each in enumerate(found) if each.text is not None}
    asked, all_at_once = [examples[place] for place in texts], getattr(evaluator, "grade_all", None)
    if all_at_once is not None:
        made = all_at_once(asked, list(texts.values()))
    else:
        made = [evaluator.grade(*pair) for pair in zip(asked, texts.values(), strict=True)]
    grades |= dict(zip(texts, made, strict=True))
    return [grades[place] for place in range(len(found))]


def _room(model: EvaluatedModel, prompt: Sequence[Message], max_new_tokens: int) -> tuple[int, str]:
    """Return the tokens of a prompt, and why it cannot be answered, if so."""
    try:
        count = len(model.renderer.prompt_ids(prompt))
    except ModelError as error:
        return 0, error.message
    limit = model.position_limit
    if limit is not None and count + max_new_tokens > limit:
        return (
            0,
            f"{count:,} prompt tokens and {max_new_tokens:,} new ones do not fit the model's {limit:,} positions",
        )
    return count, ""


def _generate_missing(
    model: EvaluatedModel,
    measure: Measure,
    prompts: dict[str, tuple[Message, ...]],
    tokens: dict[str, int],
    *,
    store: Store,
    label: str,
) -> None:
    """Generate what is not stored yet; parts are written every few seconds."""
    ids = list(prompts)
    missing = set(store.missing(measure, pl.Series("id", ids, dtype=pl.String)).to_list())
    if not missing:
        return
    write = _Parts(lambda part: store.write(measure, part))
    only = {position for position, identity in enumerate(ids) if identity in missing}
    with bar(label, sum(tokens[ids[position]] for position in only)) as progress:
        new = int(measure.parameters["max_new_tokens"])
        for positions, texts in model.completions(list(prompts.values()), max_new_tokens=new, only=only):
            write.add([ids[position] for position in positions], texts)
            progress.advance(sum(tokens[ids[position]] for position in positions))
    write.flush()


class _Parts:
    """Collects completions and hands them on every ``STORE_EVERY_S`` seconds."""

    def __init__(self, write: Callable[[pl.DataFrame], None]) -> None:
        self._write, self._last = write, time.monotonic()
        self._ids: list[str] = []
        self._texts: list[str] = []

    def add(self, ids: Sequence[str], texts: Sequence[str]) -> None:
        self._ids.extend(ids)
        self._texts.extend(texts)
        if time.monotonic() - self._last >= STORE_EVERY_S:
            self.flush()

    def flush(self) -> None:
        if self._ids:
            schema = {"id": pl.String, "completion": pl.String}
            self._write(pl.DataFrame({"id": self._ids, "completion": self._texts}, schema=schema))
        self._ids, self._texts, self._last = [], [], time.monotonic()


def _ungraded(why: str) -> Grade:
    return Grade(value=float("nan"), why=why or "there is no answer to grade")


def _table(examples: Sequence[Example], grades: Sequence[Grade]) -> pl.DataFrame:
    columns = {
        "id": [example.id for example in examples],
        "source": [example.source for example in examples],
        "value": [grade.value for grade in grades],
        "answer": [grade.answer for grade in grades],
        "why": [grade.why for grade in grades],
    }
    return pl.DataFrame(columns, schema=GRADES)
