"""Evaluation on the tiny model: what is stored is not computed again, what has no grade says why."""

import json
import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import polars as pl
import pytest

from asking import texts_of
from learnable.errors import DataError, UsageError
from learnable.evaluators import Completion, build_evaluator, completions, evaluate, judged, parse
from learnable.evaluators.heldout import Heldout
from learnable.evaluators.multiple_choice import MultipleChoice
from learnable.measures import measure_of, take
from learnable.models.language_model import LanguageModel
from learnable.runs import progress
from learnable.runs.store import Store
from learnable.testing import tiny_model, toy_examples, write_messages
from learnable.types import Example, Grade, Message, ModelRef, Rendered


@dataclass(frozen=True, kw_only=True)
class Length:
    """A generation evaluator whose value is the number of characters."""

    kind: ClassVar[str] = "generation"
    unit: ClassVar[str] = "characters"
    higher_is_better: ClassVar[bool] = True
    max_new_tokens: int = 8

    def read(self, path):
        return toy_examples(12)

    def prompt(self, example):
        return example.messages[:1]

    def grade(self, example, completion):
        return Grade(value=float(len(completion)), answer=completion)


class Counting(LanguageModel):
    """A model that counts what it is asked to compute."""

    def __init__(self, ref):
        super().__init__(ref)
        self.passes, self.stop_after = 0, math.inf

    def begin(self, launch, rendered):
        self._count(len(rendered))
        return super().begin(launch, rendered)

    def answers(self, conversations, **options):
        for positions, answers in super().answers(conversations, **options):
            self._count(len(positions))
            yield positions, answers

    def _count(self, number):
        if self.passes >= self.stop_after:
            raise KeyboardInterrupt
        self.passes += number


@pytest.fixture
def model(tiny):
    return Counting(ModelRef(name=str(tiny), dtype="float32", device="cpu"))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def small_batches(monkeypatch, model):
    """Make batches of a few examples, each stored at once."""
    from learnable.models import generation

    monkeypatch.setattr(type(model), "batch_tokens", property(lambda _: 150))
    monkeypatch.setitem(generation.BATCH_TOKENS, "cpu", 150)
    monkeypatch.setattr("learnable.measures.keep.STORE_EVERY_S", 0.0)


def test_heldout_is_the_models_nll_per_token(model, store, tmp_path):
    path = write_messages(toy_examples(6, turns=2), tmp_path / "held.jsonl")
    examples = Heldout().read(str(path))
    frame = evaluate(model, Heldout(), examples, store=store, label="heldout")
    rendered = model.renderer.render(examples, max_length=500)
    expected = [model.nll([one])[0] / one.mask.sum() for one in rendered]
    np.testing.assert_allclose(frame["value"], expected, rtol=1e-4)
    assert frame["id"].to_list() == [example.id for example in examples]
    assert frame.schema == {
        "id": pl.String,
        "source": pl.String,
        "value": pl.Float32,
        "answer": pl.String,
        "why": pl.String,
    }
    assert frame["source"].unique().to_list() == ["held"]


def test_scores_and_heldout_share_their_passes(model, store):
    examples = toy_examples(5)
    rendered = model.renderer.render(examples, max_length=64)
    scored = measure_of(model.key, rendering=model.renderer.key, max_length=64)
    take(lambda: nullcontext(model), [scored], rendered, store=store, label="scores")
    evaluate(model, Heldout(), examples, store=store, max_length=64, label="heldout")
    assert model.passes == 5


@pytest.mark.parametrize("evaluator", [Heldout(), Length()])
def test_nothing_is_computed_twice(model, store, evaluator):
    examples = toy_examples(8)
    first = evaluate(model, evaluator, examples, store=store, label="first")
    assert model.passes == 8
    assert evaluate(model, evaluator, examples, store=store, label="again").equals(first)
    assert model.passes == 8
    more = evaluate(model, evaluator, toy_examples(10), store=store, label="more")
    assert model.passes == 10
    np.testing.assert_allclose(more["value"][:8], first["value"], rtol=1e-4)


@pytest.mark.parametrize("evaluator", [Heldout(), Length()])
def test_a_killed_run_goes_on(model, store, tmp_path, monkeypatch, evaluator):
    small_batches(monkeypatch, model)
    examples = toy_examples(12)
    whole = evaluate(model, evaluator, examples, store=Store(tmp_path / "whole"), label="whole")
    model.passes, model.stop_after = 0, 6
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, evaluator, examples, store=store, label="killed")
    before, model.stop_after = model.passes, math.inf
    assert 6 <= before < 12
    assert evaluate(model, evaluator, examples, store=store, label="on").equals(whole)
    assert model.passes <= 12 + 1, "the one batch that was being computed may be computed again"


def test_likelihood_of_choices(model, store, tmp_path):
    rows = [
        {
            "question": "what is red",
            "A": "the sun",
            "B": "the big blue sea and sky",
            "C": "cat",
            "answer": letter,
        }
        for letter in "ABC"
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluator = MultipleChoice(candidates_are="texts")
    examples = evaluator.read(str(path))
    frame = evaluate(model, evaluator, examples, store=store, label="choices")
    assert model.passes == 3, "three rows share their three candidates"
    assert frame["value"].sum() == 1
    losses = []
    for candidate in evaluator.candidates(examples[0]):
        (one,) = model.renderer.render([Example(id="x", messages=candidate, source="s")], max_length=99)
        losses.append(model.nll([one])[0] / one.mask.sum())
    assert frame["answer"].unique().to_list() == ["ABC"[int(np.argmin(losses))]]


def test_what_does_not_fit_has_no_grade(model, store):
    examples = toy_examples(3)
    frame = evaluate(model, Heldout(), examples, store=store, max_length=3, label="short")
    assert frame["value"].is_nan().all()
    assert frame["why"].str.contains("the prompt fills the length limit of 3 tokens").all()
    cut = evaluate(model, Heldout(), examples, store=store, max_length=25, label="cut")
    assert "cut off at the length limit" in cut["why"].to_list()
    assert cut["value"].is_not_nan().any()


def test_choices_that_are_cut_off_are_not_compared(model, store):
    words = "the sun and the moon"
    meta = {"labels": ["A", "B"], "candidates": ["cat", words * 9], "correct": "A"}
    asked = Example(id="x", messages=(Message(role="user", content="who"),), source="s", meta=meta)
    frame = evaluate(model, MultipleChoice(), [asked], store=store, max_length=30, label="cut")
    assert frame["value"].is_nan().all()
    assert "does not fit" in frame["why"][0]


def test_prompts_without_room_have_no_grade_and_the_others_do(model, store):
    long = Example(id="long", messages=(Message(role="user", content="the sun " * 300),), source="s")
    examples = [*toy_examples(2), long]
    frame = evaluate(model, Length(), examples, store=store, label="room")
    assert frame["value"].is_nan().to_list() == [False, False, True]
    assert "do not fit the model's 256 positions" in frame["why"][2]


def test_prompts_that_the_template_refuses_have_no_grade(tmp_path, store):
    template = "{% for m in messages %}{{ raise_exception('no system') if m['role'] == 'system' else m['content'] }}{% endfor %}"
    model = Counting(
        ModelRef(name=str(tiny_model(tmp_path / "m", template=template)), dtype="float32", device="cpu")
    )
    system = Message(role="system", content="s")
    refused = [Example(id="r", messages=(system, *toy_examples(1)[0].messages), source="s")]
    for evaluator in (Heldout(), Length()):
        asked = (
            refused if evaluator.kind == "likelihood" else [Example(id="r", messages=(system,), source="s")]
        )
        frame = evaluate(model, evaluator, asked, store=store, label="refused")
        assert frame["value"].is_nan().all()
        assert "no system" in frame["why"][0]


def test_completions_are_the_models_answers(model, store):
    examples = toy_examples(4)
    found = completions(model, Length(), examples, store=store, label="answers")
    plain, asked = LanguageModel(model.ref), [example.messages[:1] for example in examples]
    assert [one.text for one in found] == texts_of(plain, asked, max_new_tokens=8)
    frame = evaluate(model, Length(), examples, store=store, label="graded")
    assert frame["answer"].to_list() == [one.text for one in found]
    evaluate(model, Length(max_new_tokens=9), examples, store=store, label="longer answers are others")
    assert model.passes == 8


def test_no_examples(model, store):
    for evaluator in (Heldout(), Length()):
        assert evaluate(model, evaluator, [], store=store, label="none").is_empty()
    assert model.passes == 0


@dataclass(frozen=True, kw_only=True)
class AllAtOnce(Length):
    """The same, with a way to grade all at once."""

    calls: ClassVar[list[int]] = []

    def grade_all(self, examples, completions):
        self.calls.append(len(completions))
        return [self.grade(*pair) for pair in zip(examples, completions, strict=True)]


def test_answers_are_graded_all_at_once_where_there_is_a_way_to(model, store):
    long = Example(id="long", messages=(Message(role="user", content="the sun " * 300),), source="s")
    examples = [long, *toy_examples(2)]
    frame = evaluate(model, AllAtOnce(), examples, store=store, label="all")
    assert frame.equals(evaluate(model, Length(), examples, store=store, label="each"))
    assert AllAtOnce.calls == [2]


@dataclass(frozen=True, kw_only=True)
class Longer:
    """A judge that prefers the longer answer."""

    kind: ClassVar[str] = "judge"
    asked: ClassVar[list[str]] = []

    def judge_pairs(self, examples, ones, others):
        self.asked.extend(example.id for example in examples)
        return [Grade(value=float(len(one) > len(other))) for one, other in zip(ones, others, strict=True)]


def test_judge_leaves_out_what_was_not_answered(model, store):
    long = Example(id="long", messages=(Message(role="user", content="the sun " * 300),), source="s")
    examples = [*toy_examples(2), long]
    ones = completions(model, Length(), examples, store=store, label="one")
    others = completions(model, Length(max_new_tokens=2), examples, store=store, label="other")
    frame = judged(Longer(), examples, ones, others, store=store)
    assert frame["value"].to_list()[:2] == [1.0, 1.0]
    assert math.isnan(frame["value"][2])
    assert "do not fit" in frame["why"][2]
    with pytest.raises(UsageError, match="two models"):
        evaluate(model, Longer(), examples, store=store, label="alone")


def test_a_pair_is_judged_once(store):
    examples = toy_examples(3)
    ones = [Completion(text=text) for text in ("a longer one", "b", "the same")]
    others = [Completion(text=text) for text in ("short", "another", "the same")]
    Longer.asked.clear()
    first = judged(Longer(), examples, ones, others, store=store)
    again = judged(Longer(), examples, ones, others, store=store)
    assert first["value"].to_list() == again["value"].to_list() == [1.0, 0.0, 0.5]
    assert Longer.asked == [example.id for example in examples[:2]]


# lm-eval

TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {rows}}}
  cache_dir: {cache}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: brier_score, aggregation: brier_score, higher_is_better: false}}
"""


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("task")
    rows = [
        {"question": f"what is {word}", "choices": ["the sun", "a cat"], "label": 0}
        for word in ("red", "blue", "big")
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    file = folder / "toy.yaml"
    file.write_text(TASK.format(name="toy", rows=folder / "rows.jsonl", cache=folder / "cache"))
    return file


def test_lm_eval_runs_a_local_task(model, store, task):
    specification = parse(f"lm_eval:{task}")
    evaluator = build_evaluator(specification)
    examples = evaluator.read(specification.path)
    assert [example.messages[0].content for example in examples] == [
        "what is red",
        "what is blue",
        "what is big",
    ]
    frame = evaluate(model, evaluator, examples, store=store, label="toy")
    assert frame["id"].to_list() == [example.id for example in examples]
    assert frame["source"].to_list() == ["toy"] * 3
    expected = []
    tokenizer = model.renderer.tokenizer
    for example in examples:
        losses = []
        for choice in (" the sun", " a cat"):
            start = tokenizer(example.messages[0].content)["input_ids"]
            ids = tokenizer(example.messages[0].content + choice)["input_ids"]
            mask = np.arange(len(ids)) >= len(start)
            one = Rendered(id="x", ids=np.array(ids, dtype=np.int32), mask=mask, truncated=False)
            losses.append(model.nll([one])[0])
        expected.append(float(losses[0] < losses[1]))
    assert frame["value"].to_list() == expected


def test_lm_eval_shows_our_bar_and_none_of_its_own(model, store, task, capfd, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # lm-eval asks git about it
    monkeypatch.setattr(progress, "pauses", lambda: iter([0.0, 60.0]))
    evaluator = build_evaluator(parse(f"lm_eval:{task}"))
    examples = evaluator.read(str(task))
    capfd.readouterr()  # rows are read with a bar of datasets, which the command line switches off
    evaluate(model, evaluator, examples, store=store, label="toy")
    lines = [line for line in capfd.readouterr().err.splitlines() if "train split" not in line]
    assert all(line.startswith(f"lm_eval:{task}: ") and " of 6 requests" in line for line in lines), lines
    assert lines


def test_lm_eval_draws_by_hash_and_names_its_metrics(model, store, task):
    drawn = build_evaluator(parse(f"lm_eval:{task}@n=2,chat=true,metric=acc"))
    examples = drawn.read(str(task))
    frame = evaluate(model, drawn, examples, store=store, label="drawn")
    assert frame["id"].to_list() == [example.id for example in examples]
    assert frame.height == 2
    for metric, words in {"acc_norm": "no metric 'acc_norm'", "brier_score": "more is better"}.items():
        with pytest.raises(UsageError, match=words):
            evaluate(model, replace(drawn, metric=metric), examples, store=store, label="x")


def test_lm_eval_tasks_that_cannot_be_loaded(task, tmp_path):
    (tmp_path / "bad.yaml").write_text(
        TASK.format(name="bad", rows=tmp_path / "no.jsonl", cache=tmp_path / "c")
    )
    for path, words in {
        tmp_path / "no.yaml": "there is no file",
        tmp_path / "bad.yaml": "cannot load",
    }.items():
        with pytest.raises(DataError, match=words):
            build_evaluator(parse(f"lm_eval:{path}")).read(str(path))
    with pytest.raises(UsageError, match="needs a task"):
        build_evaluator(parse("lm_eval")).read(None)
