"""The page of a comparison: its words follow from the table, and it holds for odd comparisons too."""

import json
import math
import re
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from finished_steps import finished_step
from learnable.commands import load, report
from learnable.data.overlap import jaccard
from learnable.errors import StoreError
from learnable.experiments import Measured, SelectionCost, arm_table
from learnable.pages import COMPARISON_CHECKS, ComparisonFacts, look
from learnable.pages import comparison_facts as answers
from learnable.pages.comparison import render_comparison
from test_reporting import EVIL, Page

LOSS = Measured(label="heldout:eval.jsonl", unit="nats per token", higher_is_better=False)
EXACT = Measured(label="exact_match:gsm.jsonl", unit="share correct", higher_is_better=True)
LONG = "learnability@folds=2/diverse_top_k"
EFFECTS = {"good": -0.3, "bad": 0.3, LONG: 0.0}
COSTS = {"good": SelectionCost(score_tokens=3_000, score_s=4.0, reference_tokens=3_000, reference_s=8.0)}


def make_comparison(
    effects: dict[str, float] | None = None,
    *,
    budgets: tuple[int, ...] = (600,),
    seeds: int = 3,
    items: int = 40,
    evaluations: tuple[Measured, ...] = (LOSS,),
    pool: int = 60,
) -> ComparisonFacts:
    """A comparison with known effects (added to the loss of random), out of a pool of 60 examples of 50 tokens."""
    given = tuple((EFFECTS if effects is None else effects).items())
    return _made(given, budgets, seeds, items, evaluations, pool)


@cache
def _made(given, budgets, seeds, items, evaluations, pool) -> ComparisonFacts:
    effects = dict(given)
    rng = np.random.default_rng(0)
    ids = [f"{i:08x}" for i in range(pool)]
    arms, picks = [], []
    for number, method in enumerate(["random", *effects]):
        for budget in budgets:
            for seed in range(seeds):
                chosen = [
                    ids[(number * 7 + seed * 5 * (number == 0) + i) % pool] for i in range(budget // 50)
                ]
                arms.append(_arm(method, budget, seed, len(chosen), model=f"{number}-{budget}-{seed}"))
                picks += [(method, budget, seed, rank, name) for rank, name in enumerate(chosen)]
    arms += [
        _arm("untuned", None, 0, 0, model=None),
        *(_arm("full", None, s, pool, model=f"full-{s}") for s in range(seeds)),
    ]
    noise = {(arm["method"], arm["budget_tokens"], arm["seed"]): rng.normal(0, 0.01, items) for arm in arms}
    hard = rng.normal(3, 0.3, items)
    levels = {**effects, "random": 0.0, "untuned": 1.0, "full": -0.5}
    results = [
        (
            method,
            budget,
            seed,
            each.label,
            f"i{i}",
            f"source {i % 2}",
            sign * (hard[i] + levels[method] + error),
            "",
            "",
        )
        for each in evaluations
        for sign in [1 if each is LOSS else -1]
        for (method, budget, seed), errors in noise.items()
        for i, error in enumerate(errors)
    ]
    schema = {"method": pl.String, "budget_tokens": pl.Int64, "seed": pl.Int64}
    frame = pl.DataFrame(
        results,
        schema={**schema, "evaluation": pl.String, "id": pl.String, "source": pl.String, "value": pl.Float32, "answer": pl.String, "why": pl.String},
        orient="row",
    )  # fmt: skip
    trained = pl.DataFrame(arms, schema_overrides={**schema, "model": pl.String})
    return ComparisonFacts(
        title="comparison",
        command="learnable report comparison",
        model="SmolLM2-135M-Instruct",
        confidence=0.95,
        settings={"method": "lora", "epochs": 1.0},
        methods=["untuned", "random", *effects, "full"],
        table=arm_table(
            frame.rename({"method": "arm"}),
            trained.rename({"method": "arm"}),
            evaluations=list(evaluations),
            baseline="random",
            costs=COSTS,
        ).rename({"arm": "method"}),
        results=frame,
        arms=trained,
        selections=pl.DataFrame(picks, schema={**schema, "rank": pl.Int64, "id": pl.String}, orient="row"),
        scores=pl.DataFrame(
            {
                "id": ids,
                "source": ["a", "b", "c"] * (pool // 3),
                "tokens": [50] * pool,
                "response_tokens": list(range(1, pool + 1)),
                "undefined": pl.Series([None] * pool, dtype=pl.String),
                "loss_before": [2.0] * pool,
            }
        ),
        overlap=pl.DataFrame(
            schema=dict.fromkeys(("evaluation", "item", "pool", "kind", "shared"), pl.String)
            | {"pool_rows": pl.Int64}
        ),
        examples=pl.DataFrame(
            {"id": ids, "source": ["a"] * pool, "messages": [_texts(i) for i in range(pool)]}
        ),
        computed=10_000,
        seconds=12.0,
    )


def _arm(method: str, budget: int | None, seed: int, examples: int, *, model: str | None) -> dict:
    tokens = examples * 50
    return {"method": method, "budget_tokens": budget, "seed": seed, "examples": examples, "tokens": tokens,
            "response_tokens": tokens // 2, "steps": examples // 4, "seconds": tokens / 100, "model": model}  # fmt: skip


def _texts(i: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Question {i}?"}, {"role": "assistant", "content": f"Answer {i}."}]


def with_table(facts: ComparisonFacts, **columns) -> ComparisonFacts:
    return replace(facts, table=facts.table.with_columns(**columns))


@pytest.fixture(scope="module")
def facts() -> ComparisonFacts:
    return make_comparison()


@pytest.fixture(scope="module")
def page(facts: ComparisonFacts) -> Page:
    return Page(render_comparison(facts))


@pytest.fixture(scope="module")
def curve() -> ComparisonFacts:
    return make_comparison(budgets=(300, 600), evaluations=(LOSS, EXACT))


# ---------------------------------------------------------------- the answer


def findings(facts: ComparisonFacts, number: int = 0) -> dict[str, str]:
    return {outcome: who for outcome, _, who in facts.seen_on(facts.evaluated[number])}


def test_the_headline_counts_what_was_seen(facts: ComparisonFacts) -> None:
    said = answers.headline(facts)
    assert said == "3 comparisons with a random draw: 1 better, 1 worse and 1 with no difference seen"


def test_the_headline_says_plainly_that_nothing_was_seen() -> None:
    nothing = make_comparison({LONG: 0.0})
    assert answers.headline(nothing) == "No difference to a random draw was seen"


def test_the_headline_names_the_evaluation_that_could_not_be_judged() -> None:
    facts = make_comparison({LONG: 0.0}, evaluations=(LOSS, EXACT))
    first = pl.col("evaluation") == facts.table["evaluation"][0]
    columns = {name: pl.when(first).then(math.nan).otherwise(name) for name in ("low", "high", "p")}
    mute = with_table(facts, **columns, items=pl.when(first).then(4).otherwise("items"))
    one, other = (each.label for each in mute.evaluated)
    assert (
        answers.headline(mute)
        == f"No difference to a random draw was seen on {other}; {one} could not be judged"
    )


def test_the_headline_keeps_apart_what_could_not_be_judged(facts: ComparisonFacts) -> None:
    bad = pl.col("method") == "bad"
    nothing = with_table(facts, difference=pl.when(bad).then(math.nan).otherwise("difference"))
    assert answers.headline(nothing).endswith(
        ": 1 better, 1 with no difference seen and 1 that could not be judged"
    )


def test_what_is_better_is_said_with_its_size_interval_and_p(facts: ComparisonFacts) -> None:
    better = findings(facts)["better"]
    line = facts.table.filter(pl.col("method") == "good").row(0, named=True)
    size, low, high = (f"{abs(line[name]):.4f}" for name in ("difference", "high", "low"))
    assert better == f"good by {size} ({low} to {high}; p < 0.001)"


def test_what_one_training_says_is_said_of_it_alone() -> None:
    comparison = single_seed()
    assert "with a random draw for this seed" in answers.headline(comparison)
    assert findings(single_seed())["better"].endswith(") for this seed")
    lines = {line.arm: line.words for each in comparison.evaluated for line in each.compared}
    assert lines["good"] == "better for this seed"
    assert "better for this seed" in Page(render_comparison(single_seed())).plain


@pytest.mark.parametrize(
    ("items", "kind", "words"),
    [(4, "too few", "too few items to say"), (40, "all alike", "all pairs differ alike: no interval")],
)
def test_without_an_interval_the_reason_is_said(
    facts: ComparisonFacts, items: int, kind: str, words: str
) -> None:
    good = pl.col("method") == "good"
    columns = {name: pl.when(good).then(math.nan).otherwise(name) for name in ("low", "high", "p")}
    case = with_table(facts, **columns, items=pl.when(good).then(items).otherwise("items"))
    assert [line.words for line in case.evaluated[0].compared if line.arm == "good"] == [words]
    assert findings(case)[kind] == "good"
    assert answers.headline(case).endswith("1 that could not be judged")


def test_better_is_up_where_higher_is_better(curve: ComparisonFacts) -> None:
    assert "share correct, higher is better" in Page(render_comparison(curve)).plain
    assert findings(curve, 1)["better"].startswith("good at ")


def test_what_was_not_seen_comes_with_what_would_have_been(facts: ComparisonFacts) -> None:
    line = facts.table.filter(pl.col("method") == LONG).row(0, named=True)
    half = f"{(line['high'] - line['low']) / 2:.4f}"
    assert findings(facts)["no difference seen"].startswith(
        f"{LONG} (one of {half} or more, half the width of the interval, would have been)"
    )


def test_budgets_are_named_where_the_outcome_depends_on_them(curve: ComparisonFacts) -> None:
    small = (pl.col("method") == "good") & (pl.col("budget_tokens") == 300)
    unseen = with_table(curve, verdict=pl.when(small).then(pl.lit("no difference seen")).otherwise("verdict"))
    found = findings(unseen)
    assert found["no difference seen"].startswith(f"{LONG}; good (at 300 tokens) (")
    assert found["better"].startswith("good at 600 tokens by ")


def test_models_that_are_all_alike_are_no_finding() -> None:
    same = with_table(make_comparison({"twin": 0.0}), difference=pl.lit(0.0), low=pl.lit(0.0), high=pl.lit(0.0),
                      verdict=pl.lit("no difference seen"))  # fmt: skip
    assert answers.headline(same) == "Nothing that was graded can tell the methods apart"
    assert list(findings(same)) == ["always the same"]


# ---------------------------------------------------------------- tables and pictures


def test_the_table_is_sorted_by_value_with_other_budgets_apart(page: Page) -> None:
    _, *rows = page.tables["Values on heldout:eval.jsonl (nats per token, lower is better)"]
    names = [row[0] for row in rows]
    assert (names[0], set(names[1:3]), names[3]) == ("good", {"random", LONG}, "bad")
    assert names[4:] == ["other budgets, not part of the contest", "untuned", "full"]


def test_a_line_of_the_table_has_the_figures_of_the_frame(facts: ComparisonFacts, page: Page) -> None:
    line = facts.table.filter(pl.col("method") == "bad").row(0, named=True)
    rows = page.tables["Values on heldout:eval.jsonl (nats per token, lower is better)"]
    (shown,) = [row for row in rows if row[0] == "bad"]
    difference = f"+{line['difference']:.4f}+{line['low']:.4f} to +{line['high']:.4f}"
    value = f"{line['value']:.4f}{line['value_low']:.4f} to {line['value_high']:.4f}"
    assert shown == ["bad", "worse", difference, "< 0.001", value, "600", "12", "3", "0"]


def test_random_is_the_baseline_and_has_no_difference(page: Page) -> None:
    rows = page.tables["Values on heldout:eval.jsonl (nats per token, lower is better)"]
    (shown,) = [row for row in rows if row[0] == "random"]
    assert shown[1:4] == ["the baseline", "\N{EN DASH}", "\N{EN DASH}"]


def test_the_curve_is_there_with_several_budgets_only(page: Page, curve: ComparisonFacts) -> None:
    several = Page(render_comparison(curve)).chart_data["charts"]
    assert set(page.chart_data["charts"]) == {"differences-0", "seconds"}
    assert {name for name in several if name.startswith("curve")} == {
        f"curve-{each}-{method}" for each in range(2) for method in range(3)
    }


def test_every_chart_has_words_for_those_who_cannot_see(page: Page) -> None:
    charted = [
        attrs for _, attrs in page.tags if (attrs.get("id") or "").startswith("chart-") and attrs.get("role")
    ]
    assert len(charted) == len(page.chart_data["charts"])
    assert all(len(attrs["aria-label"]) > 30 for attrs in charted)


def test_headings_go_down_one_level_at_a_time(curve: ComparisonFacts) -> None:
    levels = [int(tag[1]) for tag, _ in Page(render_comparison(curve)).tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_every_table_has_a_caption_of_its_own(curve: ComparisonFacts) -> None:
    page = Page(render_comparison(curve))
    assert len(page.tables) == sum(tag == "table" for tag, _ in page.tags)
    assert "" not in page.tables


def test_the_page_does_not_grow_with_the_items() -> None:
    few, many = (len(render_comparison(make_comparison(items=n))) for n in (40, 2_000))
    assert many < few + 2_000


# ---------------------------------------------------------------- cost


def test_payback_is_spoken_of_only_where_a_difference_was_seen(facts: ComparisonFacts) -> None:
    good, worse, rest = answers.paybacks(facts)
    assert good.startswith("good at 600 tokens: ")
    assert worse == "bad: seen to be worse, never to be better, so nothing pays back."
    assert rest == f"{LONG}: no difference seen, so nothing to pay back."


def test_the_cost_table_has_tokens_and_seconds(page: Page) -> None:
    (rows,) = (rows for caption, rows in page.tables.items() if caption.startswith("Tokens and time"))
    (shown,) = [row for row in rows if row[0] == "good"]
    assert shown[:5] == ["good", "3,0004.0 s", "3,0008.0 s", "6006.0 s", "2.0"]


def test_what_was_not_timed_says_so(facts: ComparisonFacts) -> None:
    untimed = with_table(facts, score_s=pl.lit(math.nan), reference_s=pl.lit(math.nan))
    (rows,) = (
        rows
        for caption, rows in Page(render_comparison(untimed)).tables.items()
        if caption.startswith("Tokens")
    )
    (shown,) = [row for row in rows if row[0] == "good"]
    assert shown[1:5] == ["3,000not timed", "3,000not timed", "6006.0 s", "\N{EN DASH}"]


# ---------------------------------------------------------------- choices and sources


def test_the_make_up_of_a_selection_is_counted_by_hand(page: Page) -> None:
    _, pool, random, *_ = page.tables["Make-up of the selections beside the pool"]
    assert pool == ["the pool", "60", "3,000", "30", "2.000", *["33.3%"] * 3]
    assert random == ["random", "12", "600", "6", "2.000", *["33.3%"] * 3]


def test_the_overlap_is_the_jaccard_index_of_the_first_seed(facts: ComparisonFacts, page: Page) -> None:
    (caption,) = (caption for caption in page.tables if caption.startswith("Jaccard index"))
    methods = ["random", "good", "bad", LONG]
    first, *others = facts.first(600).values()
    expected = [jaccard(first, other) for other in others]
    head, random, *rest = page.tables[caption]
    assert head == ["method", "1", "2", "3", "4"]
    assert [row[0] for row in [random, *rest]] == [f"{n} {name}" for n, name in enumerate(methods, start=1)]
    assert random[1:] == ["·", *(f"{value:.2f}" for value in expected)]
    assert caption.endswith(f"Two random draws of this size share about {0.2 / 1.8:.2f}.")


def test_examples_of_one_method_only_are_read_from_the_pool(facts: ComparisonFacts, page: Page) -> None:
    good, bad, long = re.findall(r"(\S+): (\d+) of 12 chosen by no other", page.plain)
    assert (good, bad, long) == (("good", "7"), ("bad", "2"), (LONG, "7"))
    assert "chosen by good only loss before2.000 response tokens8 id00000007" in page.plain
    assert "Question Question 7? Answer Answer 7." in page.plain
    first = facts.first(600)
    alone = [one for one in first["good"] if one not in {*first["bad"], *first[LONG]}]
    shown = re.findall(r"chosen by good only \D*[\d.]+ response tokens\d+ id(\d+)", page.plain)
    assert len(alone) == 7
    assert shown == alone[: len(shown)] != []


def test_differences_per_source_are_paired_means(facts: ComparisonFacts, page: Page) -> None:
    head, *rows = page.tables["Difference per source on heldout:eval.jsonl (nats per token, lower is better)"]
    assert head == ["method", "source 0 20 items", "source 1 20 items"]
    values = facts.results.filter((pl.col("source") == "source 1") & (pl.col("budget_tokens") == 600))
    by_method = dict(values.group_by("method").agg(pl.col("value").cast(pl.Float64).mean()).iter_rows())
    assert {row[0]: row[2] for row in rows}["bad"] == f"+{by_method['bad'] - by_method['random']:.4f}"


def test_one_source_makes_no_table(facts: ComparisonFacts) -> None:
    one = replace(facts, results=facts.results.with_columns(source=pl.lit("all")))
    assert "Differences per source" not in Page(render_comparison(one)).plain


# ---------------------------------------------------------------- what to distrust


def test_a_clean_comparison_has_few_warnings() -> None:
    clean = make_comparison({"good": -0.3}, seeds=5, evaluations=(LOSS, EXACT))
    assert [said.split(":")[0] for said in look(COMPARISON_CHECKS, clean).warnings] == [
        "good makes one selection for all seeds"
    ]


def few_seeds() -> ComparisonFacts:
    return make_comparison(seeds=2)


def single_seed() -> ComparisonFacts:
    return make_comparison(seeds=1)


def few_items() -> ComparisonFacts:
    return make_comparison(items=12)


def no_effect() -> ComparisonFacts:
    untuned = pl.col("method") == "untuned"
    return with_table(
        make_comparison(), verdict=pl.when(untuned).then(pl.lit("no difference seen")).otherwise("verdict")
    )


def did_not_move() -> ComparisonFacts:
    facts = make_comparison({"twin": 0.0})
    return replace(facts, results=facts.results.with_columns(value=pl.lit(2.0)))


def missed() -> ComparisonFacts:
    return with_table(
        make_comparison(), tokens=pl.when(pl.col("method") == "bad").then(500.0).otherwise("tokens")
    )


def long_answers() -> ComparisonFacts:
    longer = pl.when(pl.col("method") == "good").then(600.0).otherwise("response_tokens")
    return with_table(make_comparison(), response_tokens=longer)


def twins() -> ComparisonFacts:
    facts = make_comparison()
    good = facts.selections.filter(pl.col("method") == "good")
    others = facts.selections.filter(pl.col("method") != "bad")
    return replace(facts, selections=pl.concat([others, good.with_columns(method=pl.lit("bad"))]))


def in_the_pool() -> ComparisonFacts:
    row = {
        "evaluation": LOSS.label,
        "item": "i3",
        "pool": "00000001",
        "kind": "same prompt",
        "shared": "why",
        "pool_rows": 1,
    }
    return replace(make_comparison(), overlap=pl.DataFrame([row]))


def some_ungraded() -> ComparisonFacts:
    facts = make_comparison()
    bad = (pl.col("method") == "bad") & (pl.col("id") == "i0")
    return replace(
        with_table(facts, ungraded=pl.when(pl.col("method") == "bad").then(3).otherwise(0)),
        results=facts.results.with_columns(value=pl.when(bad).then(math.nan).otherwise("value")),
    )


def undefined() -> ComparisonFacts:
    facts = make_comparison()
    broken = pl.when(pl.int_range(pl.len()) < 6).then(pl.lit("too long"))
    return replace(facts, scores=facts.scores.with_columns(undefined=broken))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (few_seeds, "Only 2 trainings of each method"),
        (single_seed, "Only one training of each method"),
        (few_items, "Fewer than 30 graded items: heldout:eval.jsonl (12)"),
        (no_effect, "no difference was seen between untuned ("),
        (did_not_move, "At 600 tokens every trained model is graded exactly as the untuned one"),
        (missed, "bad 500 of 600 (\N{MINUS SIGN}17%)"),
        (long_answers, "good at 600 (2.00 times)"),
        (twins, "good and bad at 600 tokens"),
        (in_the_pool, "1 item of heldout:eval.jsonl (2.5% of 40) stands in the pool"),
        (
            some_ungraded,
            "3 answers of 640 on heldout:eval.jsonl could not be graded (0.0% to 2.5% by method: bad 3)",
        ),
        (undefined, "10.0% of the pool (6 of 60 examples) could not be scored"),
        (make_comparison, f"good, bad, {LONG} make one selection for all seeds"),
        (make_comparison, "Only one evaluation set, heldout:eval.jsonl"),
        (make_comparison, "Only losses stand for what the model will be asked"),
    ],
)
def test_what_to_distrust(make, said: str) -> None:
    assert said in " ".join(look(COMPARISON_CHECKS, make()).warnings)


def test_the_page_lists_the_same_warnings(facts: ComparisonFacts, page: Page) -> None:
    shown = re.search(r'<ul class="warnings">(.*?)</ul>', page.html, re.DOTALL)
    assert shown is not None
    assert shown[1].count("<li>") == len(look(COMPARISON_CHECKS, facts).warnings)


def test_items_in_the_pool_are_named(facts: ComparisonFacts) -> None:
    assert (
        "i3 of heldout:eval.jsonl: same prompt as 00000001: why"
        in Page(render_comparison(in_the_pool())).plain
    )


# ---------------------------------------------------------------- odd comparisons


def ungraded() -> ComparisonFacts:
    columns = ("value", "value_low", "value_high", "difference", "low", "high", "p")
    facts = make_comparison(budgets=(300, 600))
    nothing = with_table(
        facts, **{name: pl.lit(math.nan) for name in columns}, items=pl.lit(0), ungraded=pl.lit(120)
    )
    return replace(nothing, results=facts.results.with_columns(value=pl.lit(math.nan)))


def one_item() -> ComparisonFacts:
    return make_comparison(items=1)


def only_random() -> ComparisonFacts:
    return make_comparison({})


def without_texts() -> ComparisonFacts:
    facts = make_comparison()
    return replace(facts, examples=None, scores=facts.scores.drop("loss_before"))


def without_full_pool() -> ComparisonFacts:
    facts = make_comparison(budgets=(300, 600))
    return replace(facts, table=facts.table.filter(pl.col("method") != "full"))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (ungraded, "Nothing could be graded"),
        (ungraded, "could not be judged, so no payback is known"),
        (ungraded, "There is no value of heldout:eval.jsonl"),
        (one_item, "Too few items to say"),
        (only_random, "Nothing was compared with a random draw"),
        (without_texts, "the texts were not given"),
        (without_full_pool, "For scale: random at 600 tokens"),
    ],
)
def test_odd_comparisons_have_a_page(make, said: str) -> None:
    assert said in Page(render_comparison(make())).plain


def evil() -> ComparisonFacts:
    """Texts that want to be markup, wherever texts of others can stand."""
    facts = make_comparison({f"ifd@where=loss<3,{EVIL}": -0.3, "good": 0.0}, budgets=(300, 600))
    row = {
        "evaluation": EVIL,
        "item": EVIL,
        "pool": EVIL,
        "kind": "same prompt",
        "shared": EVIL,
        "pool_rows": 2,
    }
    messages = [[{"role": EVIL, "content": EVIL}, {"role": "assistant", "content": EVIL * 20}]] * 60
    return replace(
        with_table(facts, evaluation=pl.lit(EVIL), unit=pl.lit(EVIL), payback=pl.lit(EVIL)),
        title=EVIL,
        command=EVIL,
        model=EVIL,
        settings={EVIL: EVIL},
        results=facts.results.with_columns(evaluation=pl.lit(EVIL), source=pl.col("source") + EVIL),
        scores=facts.scores.with_columns(source=pl.col("source") + EVIL),
        overlap=pl.DataFrame([row]),
        examples=facts.examples.with_columns(messages=pl.Series(messages)),
    )


def test_texts_from_the_data_stay_texts() -> None:
    page = Page(render_comparison(evil()))
    assert [
        tag for tag, attrs in page.tags if tag == "img" or any(name.startswith("on") for name in attrs)
    ] == []
    assert len(page.scripts) == 3
    assert EVIL.strip() in page.text


def test_the_page_may_run_its_own_scripts_only(page: Page) -> None:
    (policy,) = [attrs["content"] for tag, attrs in page.tags if tag == "meta" and attrs.get("http-equiv")]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert "unsafe-inline'; img-src" in policy


# ---------------------------------------------------------------- the command


@pytest.fixture
def folder(tmp_path, facts: ComparisonFacts) -> str:
    lines = [json.dumps({"messages": _texts(i)}) for i in range(3)]
    (tmp_path / "pool.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    pool = load([str(tmp_path / "pool.jsonl")], output=str(tmp_path / "pool"))

    def write(folder: Path) -> None:
        for name in ("table", "results", "arms", "selections", "scores", "overlap"):
            getattr(facts, name).write_parquet(folder / f"{name}.parquet")

    known = {
        "model": "tiny",
        "confidence": 0.95,
        "methods": facts.methods,
        "tuning": {"method": "lora", "seed": 0},
    }
    depends = {"inputs": {"pool": pool.identity}, "links": {"pool": pool.folder}}
    return finished_step("compare", tmp_path / "comparison", facts=known, write=write, **depends).path


def test_report_takes_a_comparison(folder: str, facts: ComparisonFacts, tmp_path) -> None:
    done = report(folder, output=str(tmp_path / "report"))
    assert (
        "3 comparisons with a random draw"
        in Page((tmp_path / "report" / "report.html").read_text("utf-8")).plain
    )
    assert done.facts["warnings"] == look(COMPARISON_CHECKS, facts).warnings


def test_what_is_neither_selection_nor_comparison_is_refused(folder: str, tmp_path) -> None:
    with pytest.raises(StoreError, match="is the output of `learnable load`") as refused:
        report(str(tmp_path / "pool"), output=str(tmp_path / "report"))
    assert "`learnable select`" in (refused.value.hint or "")


def test_a_folder_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(StoreError, match="there is no folder"):
        report(str(tmp_path / "absent"), output=str(tmp_path / "report"))
