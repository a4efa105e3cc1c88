"""Runs an evaluator on a model: measures or generates what is missing, stores it at once, and grades."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
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
from learnable.measures import Found, fill, known, lengths, measure_of, take
from learnable.runs.identity import example_id, fingerprint
from learnable.runs.store import Store
from learnable.types import Example, Grade, Measure, Message, Rendered

JUDGED_AT_ONCE = 64
"""Pairs that a judge is asked for together."""
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
    prompted = list(fitting)

    def generated(missing: Collection[int]) -> Iterator[Found]:
        new = evaluator.max_new_tokens
        for positions, found in model.completions(list(fitting.values()), max_new_tokens=new, only=missing):
            yield Found(positions, [{"completion": (text,)} for text in found])

    fill([measure], prompted, generated, store=store, label=label, size=lambda place: tokens[prompted[place]])
    texts = dict(known(measure, prompted, store=store).iter_rows())
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
    pairs = list(asked)

    def verdicts(missing: Collection[int]) -> Iterator[Found]:
        numbered = sorted(missing)
        for start in range(0, len(numbered), JUDGED_AT_ONCE):
            numbers = numbered[start : start + JUDGED_AT_ONCE]
            places = [asked[pairs[number]][0] for number in numbers]
            found = evaluator.judge_pairs(
                [examples[place] for place in places],
                [ones[place].text or "" for place in places],
                [others[place].text or "" for place in places],
            )
            for number, grade in zip(numbers, found, strict=True):
                grades.update(dict.fromkeys(asked[pairs[number]], grade))
            yield Found(
                numbers,
                [{} if np.isnan(grade.value) else {"verdict": (grade.value, grade.why)} for grade in found],
            )

    fill([measure], pairs, verdicts, store=store, label="judging", size=lambda _: 1)
    stored = [identity for identity, places in asked.items() if places[0] not in grades]
    for row in known(measure, stored, store=store).iter_rows(named=True):
        grades |= dict.fromkeys(asked[row["id"]], Grade(value=row["value"], why=row["why"]))
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
    measure = measure_of(model.key, rendering=model.renderer.key, max_length=max_length)
    take(lambda: nullcontext(model), [measure], rendered, store=store, label=label, counts=False)
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
    nll: dict[str, float] = dict(known(measure, defined, store=store).iter_rows())
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
