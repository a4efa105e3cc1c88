"""The page of a lesson: its words follow from the tables, and it holds for odd lessons too."""

import json
import math
import re
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest

from learnable.experiments import RATIOS, Measured, arm_table, buffering
from learnable.pages import LessonFacts
from learnable.pages import lesson_facts as answers
from learnable.pages.lesson import render_lesson, shelves
from learnable.pages.lesson_concepts import concepts_section
from learnable.pages.lesson_facts import shortened
from learnable.pages.lesson_gradients import gradients_section
from learnable.pages.lesson_pictures import SHOWN_POINTS, both_ends
from learnable.pages.page import Panels
from learnable.runs.price import Cost
from test_reporting import EVIL, Page


class Question(NamedTuple):
    """An evaluation: its label in the table, its name without what is asked, and how it asks."""

    label: str
    name: str
    asked: str


FORMAT, LOSS = "format@keys=thought,label", "heldout"
UNITS = {FORMAT: ("share correct", True), LOSS: ("nats per token", False)}
QUESTIONS = (
    Question(label=f"{FORMAT}, unseen wording", name=FORMAT, asked="unseen"),
    Question(label=f"{LOSS}, unseen wording", name=LOSS, asked="unseen"),
    Question(label=f"{FORMAT}, seen wording", name=FORMAT, asked="seen"),
    Question(label=f"{LOSS}, seen wording", name=LOSS, asked="seen"),
    Question(label=f"{LOSS} on general rows", name=LOSS, asked="general"),
)
ARMS = ("untuned", "common", "repeated", "no_buffer", "no_paraphrases", "delia")
LEVELS = {
    "unseen": {"untuned": 0.0, "common": 0.2, "repeated": 0.2, "no_buffer": 0.5, "no_paraphrases": 0.22, "delia": 0.9},
    "seen": {"untuned": 0.0, "common": 0.8, "repeated": 0.9, "no_buffer": 0.7, "no_paraphrases": 0.8, "delia": 0.85},
    "general": {"untuned": 0.0, "common": 0.4, "repeated": 0.6, "no_buffer": 0.4, "no_paraphrases": 0.1, "delia": 0.1},
}  # fmt: skip
"""Share of right answers; the loss falls by as much from 3 nats per token (and rises from it on general rows)."""
SIZES = {"common": (20, 20), "repeated": (100, 100), "no_buffer": (20, 20), "no_paraphrases": (100, 20), "delia": (100, 20)}  # fmt: skip
ROW_TOKENS = 50


def make_lesson(
    arms: tuple[str, ...] = ARMS,
    *,
    seeds: int = 3,
    items: int = 40,
    questions: tuple[Question, ...] = QUESTIONS,
    levels: dict[str, dict[str, float]] | None = None,
) -> LessonFacts:
    """A lesson of known values: 20 rows of the task, a buffer of 80, gradients that are measured by hand."""
    baseline = "common" if "common" in arms else next(label for label in arms if label != "untuned")
    trained = pl.DataFrame([_arm(label, seed) for label in arms for seed in range(1 if label.startswith("untuned") else seeds)],
                           schema_overrides={"model": pl.String})  # fmt: skip
    results = _results(trained, questions, levels or LEVELS, items)
    measured = [Measured(label=each.label, unit=UNITS[each.name][0], higher_is_better=UNITS[each.name][1]) for each in questions]  # fmt: skip
    return LessonFacts(
        title="lesson",
        command="learnable report lesson",
        model="SmolLM2-135M-Instruct",
        confidence=0.95,
        settings={"method": "lora", "epochs": 1.0},
        labels=arms,
        inits=dict.fromkeys(arms, "description"),
        baseline=baseline,
        questions={each.label: (each.name, each.asked) for each in questions},
        task=20,
        tests=items,
        buffer=80,
        tokens=["<sep>"],
        table=arm_table(results, trained, evaluations=measured, baseline=baseline),
        results=results,
        arms=trained,
        concepts=_concepts(trained),
        samples=_samples(trained, questions),
        buffering=_buffering(),
        wordings=_wordings(),
        diversity={
            "task": {"texts": 1, "distinct_1": 1.0, "distinct_2": 1.0},
            "paraphrases": {"texts": 20, "mean_distance": 0.3, "distinct_1": 0.5, "distinct_2": 0.7},
            "unseen": {"texts": 5, "mean_distance": 0.25, "distinct_1": 0.6, "distinct_2": 0.8},
            "buffer": {"texts": 80, "mean_distance": 0.8, "distinct_1": 0.4, "distinct_2": 0.9},
        },
        general_from_buffer=False,
        example={
            "seen": [{"role": "user", "content": "Is it so?\n\nAnswer in <sep>."}, {"role": "assistant", "content": "yes"}],
            "unseen": [{"role": "user", "content": "Is it so?\n\nThe <sep> way."}, {"role": "assistant", "content": "yes"}],
        },
        made=[("buffer", "self_sample, starter: 80 kept", Cost(tokens=40_000, seconds=300.0))],
        computed=100_000,
        seconds=1_200.0,
    )  # fmt: skip


def _arm(label: str, seed: int) -> dict:
    examples, task = SIZES.get(label.partition("@")[0], (0, 0))
    tokens = examples * ROW_TOKENS
    return {"arm": label, "seed": seed, "examples": examples, "task_examples": task, "stages": 1, "tokens": tokens,
            "response_tokens": tokens // 2, "steps": examples // 4, "seconds": tokens / 100,
            "model": f"{label}-{seed}" if tokens else None}  # fmt: skip


def _results(arms: pl.DataFrame, questions: tuple[Question, ...], levels, items: int) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for each in questions:
        hard = rng.permutation((np.arange(items) + 0.5) / items)
        for arm, seed in arms.select("arm", "seed").iter_rows():
            level = levels[each.asked][arm.partition("@")[0]]
            values = (hard + rng.normal(0, 0.03, items) < level).astype(float)
            if each.name == LOSS:
                sign = 1 if each.asked == "general" else -1
                values = 3 + sign * level + hard + rng.normal(0, 0.02, items)
            rows += [
                (arm, seed, each.label, f"i{i}", "test", value, "", "") for i, value in enumerate(values)
            ]
    names = {"arm": pl.String, "seed": pl.Int64, "evaluation": pl.String, "id": pl.String, "source": pl.String,
             "value": pl.Float32, "answer": pl.String, "why": pl.String}  # fmt: skip
    return pl.DataFrame(rows, schema=names, orient="row")


def _concepts(arms: pl.DataFrame) -> pl.DataFrame:
    """Distances that grow with the layer; `delia` is nearer to both words by 1, `common` by 0.2."""
    nearer = {"delia": 1.0, "common": 0.2}
    rows = [
        (arm, seed, "<sep>", words, layer, 2.0 + layer + 0.01 * seed - nearer.get(arm, 0.0), 32)
        for arm, seed in arms.select("arm", "seed").iter_rows()
        for words in ("json", "thought")
        for layer in range(7)
    ]
    names = {"arm": pl.String, "seed": pl.Int64, "token": pl.String, "words": pl.String, "layer": pl.Int64,
             "distance": pl.Float64, "prompts": pl.Int64}  # fmt: skip
    return pl.DataFrame(rows, schema=names, orient="row")


def _samples(arms: pl.DataFrame, questions: tuple[Question, ...]) -> pl.DataFrame:
    rows = [
        (
            arm,
            0,
            each.label,
            f"i{i}",
            f"Is {i} so?\n\nAnswer {each.asked}.",
            f"{arm} says {i}",
            float(arm == "delia"),
        )
        for arm in arms["arm"].unique(maintain_order=True)
        for each in questions
        if each.name == FORMAT
        for i in range(6)
    ]
    names = {"arm": pl.String, "seed": pl.Int64, "evaluation": pl.String, "id": pl.String, "prompt": pl.String,
             "completion": pl.String, "value": pl.Float32}  # fmt: skip
    return pl.DataFrame(rows, schema=names, orient="row")


class Gradients:
    """Rows of vectors as ``buffering`` wants them: eight parts each."""

    def __init__(self, rows: np.ndarray, sets: dict[str, np.ndarray]) -> None:
        self.lengths = np.linalg.norm(rows, axis=1)
        self.part = np.arange(len(rows)) % 8
        self.products = {name: self._sums(rows) @ self._sums(other).T for name, other in sets.items()}

    @staticmethod
    def _sums(rows: np.ndarray) -> np.ndarray:
        return np.stack([rows[np.arange(len(rows)) % 8 == part].sum(axis=0) for part in range(8)])


def _buffering(pull: float = 0.0) -> pl.DataFrame:
    """Gradients of 40 rows each in 40 dimensions; those of the buffer have ``pull`` along the task's direction."""
    rng = np.random.default_rng(1)
    task, buffer = rng.normal(0, 0.2, (40, 40)), rng.normal(0, 0.2, (40, 40))
    task[:, 0] += 2
    buffer[:, 1] += 1
    buffer[:, 0] += pull
    sets = {"task": task, "buffer": buffer}
    sums = {name: Gradients(rows, sets) for name, rows in sets.items()}
    return buffering(sums, ratios=RATIOS).select(pl.lit("task").alias("wording"), pl.all())


def _wordings() -> pl.DataFrame:
    sizes = {"task": 1, "paraphrases": 20, "unseen": 5, "buffer": 80}
    rng = np.random.default_rng(2)
    rows = [
        (kind, f"{kind} {i} in <sep>", *rng.normal(0, 1, 2)) for kind, n in sizes.items() for i in range(n)
    ]
    return pl.DataFrame(rows, schema=["kind", "text", "x", "y"], orient="row")


def with_table(facts: LessonFacts, **columns) -> LessonFacts:
    return replace(facts, table=facts.table.with_columns(**columns))


@cache
def usual() -> LessonFacts:
    """All arms, all evaluations."""
    return make_lesson()


@cache
def small() -> LessonFacts:
    """Two arms, one evaluation, in unseen wordings."""
    return make_lesson(("untuned", "common", "delia"), questions=QUESTIONS[:1])


@pytest.fixture(scope="module")
def facts() -> LessonFacts:
    return usual()


@pytest.fixture(scope="module")
def page(facts: LessonFacts) -> Page:
    return Page(render_lesson(facts))


# ---------------------------------------------------------------- the answer


def unseen_only(name: str = FORMAT) -> tuple[Question, ...]:
    return tuple(each for each in QUESTIONS if each.asked == "unseen" and each.name == name)


def headline(facts: LessonFacts) -> str:
    return answers.headline(facts)


def said(facts: LessonFacts, name: str, asked: str) -> str:
    found = facts.seen_on(asking(facts, name, asked))
    return "; ".join(f"{what}: {who}" for _, what, who in found)


def context(facts: LessonFacts, name: str, asked: str) -> str:
    return facts.context_of(asking(facts, name, asked))


def asking(facts: LessonFacts, name: str, asked: str):
    (found,) = (each for each in facts.evaluated if (each.name, each.asked) == (name, asked))
    return found


def test_the_headline_is_about_delia_in_unseen_wordings(facts: LessonFacts) -> None:
    assert headline(facts).endswith("delia against common on 2 evaluations in unseen wordings: 2 better")


@pytest.mark.parametrize(
    ("untuned", "said"),
    [
        (0.0, "The task was learnt (untuned 0.03, common 0.21, higher is better). delia"),
        (0.2, "The task was not seen to be learnt (untuned 0.2"),
        (0.9, "Training made the task worse (untuned 0.9"),
    ],
)
def test_the_headline_says_first_whether_the_task_was_learnt(untuned: float, said: str) -> None:
    levels = {"unseen": LEVELS["unseen"] | {"untuned": untuned}}
    facts = make_lesson(("untuned", "common", "delia"), questions=unseen_only(), levels=levels)
    assert headline(facts).startswith(said)


def test_the_headline_of_one_evaluation_is_a_sentence() -> None:
    said = headline(make_lesson(questions=unseen_only()))
    assert said.endswith(". delia was better than common in unseen wordings")


def test_the_headline_says_worse_as_plainly_as_better() -> None:
    worse = {"unseen": LEVELS["unseen"] | {"common": 0.9, "delia": 0.1}}
    facts = make_lesson(("common", "delia"), questions=unseen_only(), levels=worse)
    assert headline(facts) == "delia was worse than common in unseen wordings"


def test_the_headline_says_that_nothing_was_seen() -> None:
    same = {"unseen": LEVELS["unseen"] | {"delia": 0.2}}
    facts = make_lesson(("common", "delia"), questions=unseen_only(LOSS), levels=same)
    assert headline(facts) == "No difference between delia and common was seen in unseen wordings"


def test_the_headline_says_that_nothing_was_seen_on_several_evaluations() -> None:
    same = {"unseen": LEVELS["unseen"] | {"delia": 0.2}, "seen": LEVELS["seen"], "general": LEVELS["general"]}
    said = headline(make_lesson(("common", "delia"), levels=same))
    assert said == "No difference between delia and common was seen on 2 evaluations in unseen wordings"


def test_the_headline_counts_where_no_arm_stands_out() -> None:
    said = headline(make_lesson(("common", "no_buffer", "no_paraphrases"), questions=unseen_only()))
    assert said == "2 comparisons with common in unseen wordings: 1 better and 1 with no difference seen"


def test_the_headline_says_that_unseen_wordings_were_not_asked() -> None:
    seen = tuple(each for each in QUESTIONS if each.asked == "seen" and each.name == FORMAT)
    assert headline(make_lesson(questions=seen)).endswith("without unseen wordings")


def test_names_of_evaluations_leave_out_what_all_of_a_kind_share() -> None:
    names = [
        "format@syntax=python,keys=a,b,n=9",
        "format@syntax=python,keys=a,b,n=9,label=b",
        "heldout",
        "exact_match@n=5",
    ]
    assert list(shortened(names).values()) == ["format", "format@label=b", "heldout", "exact_match"]


def test_what_is_better_is_said_with_its_size_interval_and_p(facts: LessonFacts) -> None:
    line = facts.table.filter(evaluation=QUESTIONS[0].label, arm="delia").row(0, named=True)
    size, low, high = (f"{abs(line[name]):.2f}" for name in ("difference", "low", "high"))
    words = said(facts, "format", "unseen")
    assert words.startswith(
        f"better than common: delia by {size} ({low} to {high}; p = {line['p']:.3f}) and "
    )


def test_what_was_not_seen_comes_with_what_would_have_been(facts: LessonFacts) -> None:
    table = facts.table.filter(evaluation=QUESTIONS[0].label)
    halves = [
        f"{float(table.filter(arm=arm).select((pl.col('high') - pl.col('low')) / 2).item()):.2f}"
        for arm in ("repeated", "no_paraphrases")
    ]
    words = said(facts, "format", "unseen")
    assert words.endswith(
        f"no difference seen: repeated and no_paraphrases (one of {' to '.join(sorted(halves))} or more, half the width of the interval, would have been)"
    )


def test_seeds_that_differ_too_much_are_said_to_tell_nothing(facts: LessonFacts) -> None:
    blind = pl.col("arm") == "repeated"
    wide = with_table(
        facts, low=pl.when(blind).then(-2.0).otherwise("low"), high=pl.when(blind).then(2.0).otherwise("high")
    )
    words = said(wide, "format", "unseen")
    assert words.endswith(
        ", half the width of the interval, would have been; for repeated the seeds differ too much for any to be)"
    )


def test_the_untuned_model_is_for_scale_and_no_finding(facts: LessonFacts) -> None:
    assert "untuned" not in said(facts, LOSS, "general")
    assert "untuned 3.497 (better than common)" in context(facts, LOSS, "general")


def test_delia_is_held_beside_as_many_tokens(facts: LessonFacts) -> None:
    arms = facts.arms.filter(pl.col("arm").is_in(["delia", "repeated"]))
    measured = Measured(label=QUESTIONS[0].label, unit="share correct", higher_is_better=True)
    (line,) = arm_table(facts.results, arms, evaluations=[measured], baseline="repeated").filter(arm="delia").to_dicts()  # fmt: skip
    assert f"delia was better than as many tokens of the task alone, by {line['difference']:.2f}" in (
        context(facts, "format", "unseen")
    )


def test_without_an_arm_of_as_many_tokens_nothing_is_said_of_it() -> None:
    assert "as many tokens" not in context(make_lesson(("common", "delia")), "format", "unseen")


# ---------------------------------------------------------------- tables and pictures


def test_unseen_wordings_stand_beside_the_seen_one(facts: LessonFacts, page: Page) -> None:
    over, _, *rows = page.tables["Values on format (share correct, higher is better)"]
    assert over == ["arm", "in unseen wordings", "in the wording of the task", ""]
    shown = {row[0]: row[1:] for row in rows}
    assert list(shown) == list(ARMS)
    values = dict(facts.table.filter(evaluation=QUESTIONS[0].label).select("arm", "value").iter_rows())
    assert shown["delia"][0].startswith(f"{values['delia']:.2f}")
    assert shown["common"][1:3] == ["\N{EN DASH}", "the baseline"]


def test_what_other_words_cost_is_a_plain_difference(facts: LessonFacts, page: Page) -> None:
    _, _, *rows = page.tables["Values on format (share correct, higher is better)"]
    unseen, seen = (
        facts.table.filter(evaluation=f"{FORMAT}, {asked} wording", arm="common")["value"].item()
        for asked in ("unseen", "seen")
    )
    (common,) = [row for row in rows if row[0] == "common"]
    assert common[-1] == f"\N{MINUS SIGN}{seen - unseen:.2f}"


def dots(spec: dict) -> dict[str, dict]:
    (marks,) = [values for values in spec["datasets"].values() if "seen" in values[0]]
    return {mark["arm"]: mark for mark in marks}


def test_whiskers_are_intervals_of_the_difference_laid_at_the_baseline(
    facts: LessonFacts, page: Page
) -> None:
    marks = dots(page.chart_data["charts"]["values-0-0"])
    table = {row["arm"]: row for row in facts.table.filter(evaluation=QUESTIONS[0].label).to_dicts()}
    base = table["common"]["value"]
    assert marks["delia"]["low"] == pytest.approx(base + table["delia"]["low"])
    assert (marks["common"]["low"], marks["untuned"]["low"]) == (None, None)


def test_hollow_dots_are_no_difference_seen(page: Page) -> None:
    marks = dots(page.chart_data["charts"]["values-0-0"])
    assert marks["repeated"]["fill"] == "var(--page)"
    assert marks["delia"]["fill"] == marks["delia"]["shade"] == "var(--fine-edge)"


def test_ticks_are_the_means_of_the_seeds(facts: LessonFacts, page: Page) -> None:
    datasets = page.chart_data["charts"]["values-0-0"]["datasets"].values()
    (ticks,) = [values for values in datasets if "seed" in values[0]]
    delia = facts.results.filter(evaluation=QUESTIONS[0].label, arm="delia")
    means = (
        delia.group_by("seed").agg(pl.col("value").cast(pl.Float64).mean()).sort("seed")["value"].to_list()
    )
    assert [tick["value"] for tick in ticks if tick["arm"] == "delia"] == pytest.approx(means)
    assert not [tick for tick in ticks if tick["arm"] == "untuned"]


def test_an_axis_does_not_reach_beyond_what_there_can_be(facts: LessonFacts) -> None:
    wide = with_table(facts, low=pl.col("difference") - 3, high=pl.col("difference") + 3)
    low, high = domain(Page(render_lesson(wide)), "values-0-0")
    assert -0.1 < low < 0
    assert 1 < high < 1.1


def domain(page: Page, name: str) -> list[float]:
    (scale,) = [
        layer["encoding"]["x"]["scale"]["domain"]
        for layer in page.chart_data["charts"][name]["layer"]
        if layer["mark"]["type"] == "point"
    ]
    return scale


def test_panels_of_one_evaluation_share_their_axis(page: Page) -> None:
    assert domain(page, "values-0-0") == domain(page, "values-0-1") != domain(page, "values-1-0")


def test_a_far_untuned_model_does_not_press_all_else_together() -> None:
    far = {"unseen": LEVELS["unseen"] | {"untuned": -20.0}}
    page = Page(render_lesson(make_lesson(questions=unseen_only(LOSS), levels=far)))
    assert "untuned" not in dots(page.chart_data["charts"]["values-0-0"])
    assert re.search(r"untuned, at 23\.\d+, lies outside, to the right\.", page.plain)


def test_arms_that_are_all_alike_have_no_picture() -> None:
    facts = make_lesson(("common", "delia"), questions=unseen_only())
    same = with_table(facts, difference=pl.lit(0.0), low=pl.lit(0.0), high=pl.lit(0.0))
    page = Page(render_lesson(same))
    assert not [name for name in page.chart_data["charts"] if name.startswith("values")]
    assert "No picture: every arm is graded alike on every item." in page.plain


def test_every_chart_has_words_for_those_who_cannot_see(page: Page) -> None:
    charted = [
        attrs for _, attrs in page.tags if (attrs.get("id") or "").startswith("chart-") and attrs.get("role")
    ]
    assert len(charted) == len(page.chart_data["charts"]) == 12
    assert all(len(attrs["aria-label"]) > 30 for attrs in charted)


def test_headings_go_down_one_level_at_a_time(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_every_table_has_a_caption_of_its_own(page: Page) -> None:
    assert len(page.tables) == sum(tag == "table" for tag, _ in page.tags)
    assert "" not in page.tables


def test_links_of_the_page_lead_to_a_part_of_it(page: Page) -> None:
    places = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {attrs["href"][1:] for tag, attrs in page.tags if tag == "a"} <= places


def test_the_page_does_not_grow_with_the_items() -> None:
    few, many = (
        len(render_lesson(make_lesson(("common", "delia"), items=n, questions=QUESTIONS[:1])))
        for n in (40, 1_000)
    )
    assert many < few + 2_000


# ---------------------------------------------------------------- concepts


def near(facts: LessonFacts) -> str:
    """Return what is said of the first token and word."""
    return Page(concepts_section(facts).parts[3]).text


def test_distances_are_means_with_the_range_of_the_seeds(page: Page) -> None:
    json_, _ = (
        rows for caption, rows in page.tables.items() if caption.startswith("Distance (L2) of <sep> and")
    )
    assert "over 32 prompts of the test" in page.plain
    assert json_[0] == ["arm", "embeddings", "layer 1", "layer 2", "layer 3", "layer 6"]
    shown = {row[0]: row[2] for row in json_[1:]}
    assert shown["delia"] == "2.012.00 to 2.02"
    assert shown["untuned"] == "3.00"


def test_the_layers_of_the_paper_are_said_against_the_baseline(facts: LessonFacts) -> None:
    assert near(facts) == (
        "At layer 1 delia 2.01, common 2.81 (28% nearer, in every seed); at layer 2 delia 3.01, common 3.81 (21% nearer, in every seed)."
    )


def test_what_differs_between_seeds_says_so(facts: LessonFacts) -> None:
    delia = pl.col("arm") == "delia"
    mixed = facts.concepts.with_columns(
        distance=pl.when(delia).then(1.9 + 0.3 * pl.col("seed")).otherwise(2.0)
    )
    assert "10% farther, but not in every seed" in near(replace(facts, concepts=mixed))


def test_distances_are_held_beside_those_of_the_same_seed(facts: LessonFacts) -> None:
    ten, delia = 10.0 ** pl.col("seed"), pl.col("arm") == "delia"
    scattered = facts.concepts.with_columns(distance=pl.when(delia).then(0.9 * ten).otherwise(ten))
    assert "10% nearer, in every seed" in near(replace(facts, concepts=scattered))


def test_a_hair_is_no_finding_even_in_every_seed(facts: LessonFacts) -> None:
    hair = pl.when(pl.col("arm") == "delia").then(2.0).otherwise(2.01)
    assert "alike within 1%" in near(replace(facts, concepts=facts.concepts.with_columns(distance=hair)))


def test_distances_that_are_undefined_everywhere_have_no_section(facts: LessonFacts) -> None:
    nothing = replace(facts, concepts=facts.concepts.with_columns(distance=pl.lit(math.nan)))
    assert "How near a new token has come" not in Page(render_lesson(nothing)).plain


# ---------------------------------------------------------------- gradients


def said_of_gradients(facts: LessonFacts) -> str:
    return Page(gradients_section(facts).parts[0]).text


def test_gradients_are_said_at_the_ratio_that_was_trained_on(facts: LessonFacts) -> None:
    row = facts.buffering.filter(quantity="coherence", estimate="debiased", ratio=4.0).row(0, named=True)
    digits = 3 if row["error"] < 0.01 else 2
    said = said_of_gradients(facts).replace("\u00a0", " ")
    assert (
        f"to {row['value']:.{digits}f} ± {row['error']:.{digits}f} mixed with 4 rows of the buffer each"
        in said
    )
    assert "where 0.200 is what a buffer without any relation to the task leaves" in said


@pytest.mark.parametrize(
    ("pull", "said"),
    [
        (0.0, "no pull with it or against it is seen"),
        (0.5, "pulls the same way"),
        (-0.5, "pulls against the task"),
    ],
)
def test_what_the_buffer_does_to_the_task(facts: LessonFacts, pull: float, said: str) -> None:
    assert said in said_of_gradients(replace(facts, buffering=_buffering(pull)))


def test_gradients_without_an_error_say_nothing(facts: LessonFacts) -> None:
    unknown = replace(facts, buffering=facts.buffering.with_columns(error=pl.lit(math.nan)))
    assert "too few gradients to tell" in said_of_gradients(unknown)


def marks_of(facts: LessonFacts) -> list[str]:
    (panels,) = (part for part in gradients_section(facts).parts if isinstance(part, Panels))
    coherence = panels.pictures[0]
    assert coherence.name == "gradients-coherence"
    texts = re.findall(r'"text": "([^"]+)"', json.dumps(coherence.spec))
    return list(dict.fromkeys(texts))


def test_both_ratios_are_marked(facts: LessonFacts) -> None:
    assert marks_of(facts) == ["trained", "DELIA"]


def test_a_ratio_near_the_papers_shares_its_mark(facts: LessonFacts) -> None:
    buffered = pl.col("arm").is_in(["delia", "no_paraphrases"])
    near_it = replace(
        facts, arms=facts.arms.with_columns(examples=pl.when(buffered).then(20 * 251).otherwise("examples"))
    )
    assert marks_of(near_it) == ["trained, as in DELIA"]


# ---------------------------------------------------------------- wordings, samples, costs


def test_a_large_kind_is_sampled_and_said(facts: LessonFacts) -> None:
    rng = np.random.default_rng(0)
    many = pl.DataFrame(
        {"kind": "buffer", "text": [str(i) for i in range(1_000)], "x": rng.normal(size=1_000), "y": 0.0}
    )
    page = Page(render_lesson(replace(facts, wordings=pl.concat([facts.wordings, many]))))
    assert f"Drawn at random: {SHOWN_POINTS} of 1,080 of the questions of the buffer." in page.plain
    (values,) = page.chart_data["charts"]["wordings"]["datasets"].values()
    assert len(values) == SHOWN_POINTS + 26


def test_a_long_text_is_told_by_both_ends() -> None:
    shown = both_ends("begin " + "x" * 500 + " end")
    assert shown.startswith("begin xxx")
    assert shown.endswith("xxx end")
    assert len(shown) < 200


def test_a_single_instruction_has_no_distance(page: Page) -> None:
    (rows,) = (rows for caption, rows in page.tables.items() if caption.startswith("Diversity"))
    assert rows[1] == ["instructions of the task", "1", "\N{EN DASH}", "1.000", "1.000"]


def test_samples_are_the_first_items_by_way_to_ask(facts: LessonFacts, page: Page) -> None:
    (unseen, frame), (seen, _) = shelves(facts)
    assert (unseen, seen) == ("In unseen wordings", "In the wording of the task")
    assert set(frame["evaluation"]) == {QUESTIONS[0].label}
    asked = re.findall(r"Is (\d) so\? Answer unseen\.", page.plain)
    assert asked == ["0", "1", "2"]


def test_every_arm_has_its_text_and_its_mark(page: Page) -> None:
    first = page.plain[page.plain.index("Item 1") : page.plain.index("Item 2")]
    texts = [f"{arm} {'✓ right' if arm == 'delia' else '✗ wrong'} {arm} says 0" for arm in ARMS]
    assert [arm for arm, text in zip(ARMS, texts, strict=True) if text not in first] == []


def test_one_text_that_two_evaluations_graded_is_shown_once() -> None:
    facts = make_lesson(("common", "delia"))
    other = Question(label="exact_match, unseen wording", name="exact_match", asked="unseen")
    again = facts.samples.filter(evaluation=QUESTIONS[0].label).with_columns(
        id=pl.lit("other ") + pl.col("id"), evaluation=pl.lit(other.label), value=pl.lit(math.nan, pl.Float32)
    )
    table = facts.table.filter(evaluation=QUESTIONS[0].label).with_columns(evaluation=pl.lit(other.label))
    twice = replace(
        facts,
        questions=facts.questions | {other.label: (other.name, other.asked)},
        table=pl.concat([facts.table, table]),
        samples=pl.concat([facts.samples, again]),
    )
    plain = Page(render_lesson(twice)).plain
    assert "delia ✓ right: format not graded: exact_match delia says 0" in plain
    assert plain.count("delia says 0") == 2


def test_costs_say_the_ratio_and_the_tokens_beside_the_baseline(page: Page) -> None:
    (rows,) = (rows for caption, rows in page.tables.items() if caption.startswith("Cost of each arm"))
    assert rows[-1][:9] == ["delia", "100", "20", "4.00", "5,000", "5.0", "2,500", "25", "50 s"]


def test_what_the_material_took_is_shown(page: Page) -> None:
    rows = page.tables["What the material took to make, when it was made"]
    assert rows[1] == ["buffer", "self_sample, starter: 80 kept", "40,000", "5 min 00 s"]


# ---------------------------------------------------------------- odd lessons


def alone() -> LessonFacts:
    return make_lesson(("untuned", "common"), questions=QUESTIONS[:1])


def ungraded() -> LessonFacts:
    columns = ("value", "value_low", "value_high", "difference", "low", "high", "p")
    facts = usual()
    nothing = with_table(
        facts, **{name: pl.lit(math.nan) for name in columns}, items=pl.lit(0), ungraded=pl.lit(120)
    )
    return replace(nothing, results=facts.results.with_columns(value=pl.lit(math.nan)))


def one_item() -> LessonFacts:
    return make_lesson(items=1, questions=QUESTIONS[:1])


def bare() -> LessonFacts:
    facts = make_lesson(("common", "no_buffer"))
    return replace(facts, concepts=None, samples=None, buffering=None, wordings=None, diversity={}, tokens=[], buffer=0, made=(), example={}, seconds=0.0)  # fmt: skip


@cache
def bare_page() -> Page:
    return Page(render_lesson(bare()))


def without_map() -> LessonFacts:
    facts = small()
    return replace(facts, wordings=facts.wordings.drop("x", "y"), diversity={})


def several_untuned() -> LessonFacts:
    return make_lesson(("untuned", "untuned@init=mean", "common", "delia"), questions=QUESTIONS[:1])


def elsewhere() -> LessonFacts:
    label = "exact_match:gsm.jsonl"
    facts = small()
    return replace(facts, questions=facts.questions | {label: (label, "elsewhere")},
                   table=pl.concat([facts.table, facts.table.filter(evaluation=QUESTIONS[0].label).with_columns(evaluation=pl.lit(label))]))  # fmt: skip


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (ungraded, "2 that could not be judged"),
        (one_item, "Too few items to say: repeated, no_buffer, no_paraphrases and delia."),
        (alone, "One arm, and nothing to compare it with"),
        (bare, "no_buffer against common on 2 evaluations"),
        (several_untuned, "untuned@init=mean"),
        (elsewhere, "exact_match:gsm.jsonl"),
    ],
)
def test_odd_lessons_have_a_page(make, said: str) -> None:
    assert said in Page(render_lesson(make())).plain


@pytest.mark.parametrize(
    "part", ["How near", "Does the buffer buffer?", "How diverse", "What the models wrote", "One of the rows"]
)
def test_what_is_missing_leaves_its_section_out(part: str) -> None:
    assert part not in bare_page().plain


def test_wordings_without_places_have_no_map() -> None:
    page = Page(render_lesson(without_map()))
    assert "wordings" not in page.chart_data["charts"]
    assert "How diverse" not in page.plain


def evil() -> LessonFacts:
    """Texts that want to be markup, wherever texts of others can stand."""
    facts = make_lesson(("untuned", "common", "repeated", "delia"))
    turns = [{"role": EVIL, "content": EVIL}, {"role": "assistant", "content": EVIL * 20}]
    text = {"prompt": pl.lit(EVIL * 20) + pl.col("prompt"), "completion": pl.lit(EVIL)}
    return replace(
        with_table(facts, unit=pl.lit(EVIL)),
        title=EVIL,
        command=EVIL,
        model=EVIL,
        settings={EVIL: EVIL},
        tokens=[EVIL],
        questions={label: (name + EVIL, asked) for label, (name, asked) in facts.questions.items()},
        concepts=facts.concepts.with_columns(token=pl.lit(EVIL), words=pl.col("words") + EVIL),
        samples=facts.samples.with_columns(**text),
        wordings=facts.wordings.with_columns(text=pl.lit(EVIL)),
        example={"seen": turns, "unseen": turns},
        made=[(EVIL, EVIL, Cost(tokens=1, seconds=1.0))],
        notes=[EVIL],
    )


def test_texts_from_the_data_stay_texts() -> None:
    page = Page(render_lesson(evil()))
    assert [
        tag for tag, attrs in page.tags if tag == "img" or any(name.startswith("on") for name in attrs)
    ] == []
    assert len(page.scripts) == 3
    assert EVIL.strip() in page.text
