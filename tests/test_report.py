"""The report: its figures are those of the frames, its warnings fire when they should, and data texts stay texts."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from learnable.report import Facts, Step, cautions, charts, dots, render, tables, warnings_of
from learnable.report.facts import view_of

EVIL = '<script>window.hacked = 1; alert(1)</script><img src=x onerror="alert(2)">"onmouseover=\'alert(3)\' {{7*7}} ${7*7} <!-- '
LIMIT = "no response token: the prompt fills the length limit"


def make_facts(n: int = 300, keep: int = 60, *, sources: int = 3, seed: int = 0, evil: bool = False) -> Facts:
    """A clean run of n examples, two of them without a score; three rows are unreadable and five repeated."""
    rng = np.random.default_rng(seed)
    ids = [f"{i:08x}" for i in range(n)]
    source = [f"source {j}" for j in rng.integers(0, sources, n)]
    response = np.maximum(1, rng.lognormal(3, 0.8, n).astype(np.int64))
    tokens = response + rng.integers(10, 40, n)
    before = rng.gamma(6, 0.4, n) + 0.2
    score = np.clip(rng.normal(0.3, 0.2, n), -1, 0.9)
    score[:2] = np.nan
    after = before * (1 - score)
    before[:2] = np.nan
    order = np.argsort(np.where(np.isnan(score), np.inf, -score), kind="stable")[:keep]
    kept = set(order.tolist())
    texts = [
        [
            {"role": "user", "content": f"Question {i}?"},
            {"role": "assistant", "content": f"Answer {i}. " * (1 + i % 90)},
        ]
        for i in range(n)
    ]
    if evil:
        best, worst = int(order[0]), int(np.nanargmin(score))
        source[best] = EVIL
        texts[best] = [
            {"role": EVIL, "content": EVIL},
            {"role": "user", "content": EVIL},
            {"role": "assistant", "content": EVIL},
        ]
        texts[worst] = [{"role": "user", "content": EVIL}, {"role": "assistant", "content": EVIL * 20}]
    rest = [i for i in range(n) if i not in kept]
    return Facts(
        title="lobass",
        command="learnable run lobass data=my.jsonl model=starter budget=20%",
        model="SmolLM2-135M-Instruct",
        reference={"kind": "trained", "method": "lora", "folds": 2, "epochs": 1, "fraction": 1.0},
        by="learnability",
        higher_is_better=True,
        budget="20% of the examples",
        examples=pl.DataFrame({"id": ids, "source": source, "messages": texts}),
        rows=pl.DataFrame(
            {
                "file": [0] * n + [1] * 8,
                "row": [*range(n), *range(8)],
                "line": [*range(1, n + 1), *range(1, 7), None, None],
                "id": [*ids, None, None, None, *ids[:5]],
                "reason": [None] * n
                + [EVIL if evil else "no answer: keys seen are q, r"] * 3
                + ["seen before"] * 5,
            }
        ),
        files=["my.jsonl", "more.jsonl"],
        scores=pl.DataFrame(
            {
                "id": ids,
                "source": source,
                "tokens": tokens,
                "response_tokens": response,
                "truncated": [False] * n,
                "undefined": [LIMIT] * 2 + [None] * (n - 2),
                "loss_before": before.astype(np.float32),
                "loss_after": after.astype(np.float32),
                "learnability": score.astype(np.float32),
                "difference": (before - after).astype(np.float32),
            }
        ),
        scorers=["learnability", "difference"],
        kept=pl.DataFrame(
            {"id": [ids[i] for i in order], "rank": range(keep), "gain": score[order].astype(np.float32)}
        ),
        dropped=pl.DataFrame(
            {"id": [ids[i] for i in rest], "reason": [LIMIT if i < 2 else "below the budget" for i in rest]}
        ),
        steps=[
            Step(
                name="measure the base model",
                tokens=10_000,
                passes=1.0,
                seconds=2.0,
                peak_memory_bytes=2 << 30,
            ),
            Step(
                name="train the reference", tokens=30_000, passes=3.0, seconds=78.0, peak_memory_bytes=6 << 30
            ),
            Step(name="select", tokens=0, passes=0.0, seconds=0.0, peak_memory_bytes=0),
        ],
    )


@pytest.fixture(scope="module")
def facts() -> Facts:
    return make_facts()


@pytest.fixture(scope="module")
def page(facts: Facts) -> "Page":
    return Page(render(facts))


class Page(HTMLParser):
    """What a browser would make of the page: its tables by caption, its attributes, its scripts, its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self._rows: list[list[str]] = []
        self._caption = ""
        self._in: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self._rows, self._caption = [], ""
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")
        if tag not in ("meta", "link", "br"):
            self._in.append(tag)

    def handle_endtag(self, tag):
        while self._in and self._in.pop() != tag:
            pass
        if tag == "table":
            self.tables[" ".join(self._caption.split())] = [
                [" ".join(c.split()) for c in row] for row in self._rows
            ]

    def handle_data(self, data):
        if self._in and self._in[-1] == "script":
            self.scripts.append((self.tags[-1][1], data))
            return
        if self._in and self._in[-1] == "style":
            return
        self.text += data
        if "caption" in self._in:
            self._caption += data
        elif "td" in self._in or ("th" in self._in and "table" in self._in):
            self._rows[-1][-1] += data

    @property
    def plain(self) -> str:
        return " ".join(self.text.split())

    @property
    def chart_data(self) -> dict:
        return next(json.loads(text) for attrs, text in self.scripts if attrs.get("id") == "chart-data")


# ---------------------------------------------------------------- figures


def test_the_headline_has_the_figures_of_the_frames(facts: Facts, page: Page) -> None:
    kept_tokens = facts.scores.join(facts.kept, on="id", how="semi")["tokens"].sum()
    tiles = re.findall(r"<dt>([\w ]+)</dt><dd>([\d,]+)<small>([^<]*)", page.html)[:6]
    assert tiles == [
        ("rows read", "308", "8 repeated or unreadable"),
        ("examples", "300", "3 sources"),
        ("scored", "298", "99.3% of the examples"),
        ("undefined", "2", "no score, never chosen"),
        ("kept", "60", "20.0% of the examples"),
        ("tokens kept", f"{kept_tokens:,}", tiles[5][2]),
    ]
    assert tiles[5][2].endswith(f"of {facts.scores['tokens'].sum():,}")
    for said in ("60 of 300 examples chosen", "20% of the examples", "SmolLM2-135M-Instruct", facts.command):
        assert said in page.plain


def test_the_sources_table_is_the_group_by(facts: Facts, page: Page) -> None:
    frame = facts.scores.join(facts.kept.with_columns(k=pl.lit(1)), on="id", how="left")
    expected = {
        name: [f"{part.height:,}", f"{part['k'].sum()}", f"{part['k'].sum() / 60 / (part.height / 300):.2f}",
               f"{100 * part['k'].sum() / part.height:.1f}%", f"{part['tokens'].sum():,}",
               f"{part['learnability'].fill_nan(None).mean():.3f}"]
        for (name,), part in frame.group_by("source")
    }  # fmt: skip
    header, *rows = page.tables["Pool and selection per source"]
    assert header == ["source", "examples", "kept", "lift", "kept share", "tokens", "mean learnability"]
    assert {name: figures for name, *figures in rows} == expected
    assert [int(row[1]) for row in rows] == sorted((int(row[1]) for row in rows), reverse=True)


def test_length_bins_part_the_pool(facts: Facts) -> None:
    groups = tables.by_length(view_of(facts))
    assert sum(group.examples for group in groups) == 300
    assert sum(group.kept for group in groups) == 60
    for group in groups:
        low, _, high = group.name.replace(",", "").partition("\N{EN DASH}")
        inside = facts.scores["response_tokens"].is_between(int(low), int(high or low))
        assert group.examples == inside.sum()


def test_spearman_by_hand() -> None:
    frame = pl.DataFrame({"a": [1.0, 2.0, 3.0, 4.0, 5.0, None], "b": [2, 1, 4, 3, 5, 9], "same": [1] * 6})
    assert tables.spearman(frame, "a", "b") == (pytest.approx(0.8), 5)
    assert tables.spearman(frame, "a", "same") == (None, 5)
    assert tables.spearman(frame, "a", "absent") == (None, 0)


def test_the_correlation_table_has_every_scorer(facts: Facts, page: Page) -> None:
    (rows,) = (rows for caption, rows in page.tables.items() if caption.startswith("Spearman"))
    assert [row[0] for row in rows[1:]] == ["learnability used", "difference"]
    finite = facts.scores.filter(pl.col("learnability").is_finite())
    rho = finite.select(pl.corr("difference", "loss_before", method="spearman")).item()
    assert rows[2][3:] == [f"{rho:.2f}".replace("-", "\N{MINUS SIGN}"), "298"]


def test_the_histogram_counts_every_scored_example_and_parts_at_the_cutoff(facts: Facts) -> None:
    view = view_of(facts)
    bars = tables.histogram(view).bars
    assert (sum(bar.kept for bar in bars), sum(bar.rest for bar in bars)) == (60, 238)
    assert not any(bar.kept and bar.rest for bar in bars)
    assert any(bar.low == pytest.approx(view.cutoff) for bar in bars)


def test_what_was_left_out_adds_up(page: Page) -> None:
    assert "308 rows read = 300 examples + 5 repeated rows + 3 unreadable rows." in page.plain
    assert "300 examples = 60 kept + 240 left out." in page.plain
    assert page.tables["Why rows and examples were left out"][1:] == [
        ["reading", "no answer: keys seen are q, r", "3"],
        ["reading", "repeats an earlier example", "5"],
        ["selecting", "below the budget", "238"],
        ["selecting", LIMIT, "2"],
    ]
    assert "more.jsonl:1 no answer" in page.plain
    assert f"my.jsonl:1 {LIMIT}" in page.plain


def test_what_is_not_accounted_for_is_said(facts: Facts) -> None:
    text = Page(render(replace(facts, dropped=facts.dropped.head(200)))).plain
    assert "(that makes 260: 40 examples not accounted for)" in text


def test_the_cost_table_sums_up(facts: Facts, page: Page) -> None:
    rows = page.tables["Cost per step"]
    assert rows[1] == ["measure the base model", "2.0 s", "10,000", "1.00", "5,000", "2.0 GiB"]
    assert rows[3] == ["select", *["\N{EN DASH}"] * 5]
    assert rows[4] == ["together", "1 min 20 s", "40,000", "4.00", "500", "6.0 GiB"]
    assert f"{40_000 / facts.scores['tokens'].sum():.2f} epochs over the pool" in page.plain


def test_examples_to_read_are_best_border_and_worst(facts: Facts) -> None:
    from learnable.report.excerpts import shelves

    best, just_in, just_out, worst = shelves(view_of(facts))
    order = (
        facts.scores.filter(pl.col("learnability").is_finite())
        .sort("learnability", descending=True)["id"]
        .to_list()
    )
    assert [e.id for e in best.excerpts] == order[:8]
    assert [e.id for e in just_in.excerpts] == order[56:60]
    assert [e.id for e in just_out.excerpts] == order[60:64]
    assert [e.id for e in worst.excerpts] == order[:-9:-1]
    assert best.excerpts[0].state == "chosen, pick 1"
    assert just_out.excerpts[0].state == "not chosen: below the budget"


def test_long_texts_are_folded_and_very_long_ones_say_what_is_missing(facts: Facts) -> None:
    from learnable.report.excerpts import shelves

    long = [
        [{"role": "user", "content": "q"}] * 11
        + [{"role": "assistant", "content": "x" * 9_000}, {"role": "user", "content": ""}]
    ]
    examples = facts.examples.with_columns(messages=pl.Series(long * 300))
    excerpt = shelves(view_of(replace(facts, examples=examples)))[0].excerpts[0]
    assert (excerpt.left_out, excerpt.turns[-1].left_out, len(excerpt.turns[-1].text)) == (1, 1_000, 8_000)
    assert excerpt.turns[-1].preview.endswith("…")
    assert not excerpt.turns[0].preview


# ---------------------------------------------------------------- charts


def test_the_dots_are_a_fixed_sample_with_all_the_chosen() -> None:
    view = view_of(make_facts(6_000, 500))
    drawn = dots.points(view)
    assert {len(column) for column in drawn.values()} == {dots.SHOWN_POINTS}
    assert drawn["group"].count("chosen") == 500
    assert drawn == dots.points(view)
    assert "4,000 of 5,998 scored examples are drawn, all 500 chosen" in charts.plane(view).remark


def test_many_chosen_leave_room_for_the_others() -> None:
    view = view_of(make_facts(6_000, 5_000))
    assert dots.points(view)["group"].count("chosen") == dots.SHOWN_CHOSEN
    assert "2,000 of the 5,000 chosen" in charts.length(view).remark


def test_five_thousand_examples_stay_below_three_megabytes() -> None:
    facts = make_facts(5_000, 300)
    wordy = [
        [
            {"role": "user", "content": "問" * 300},
            {"role": "assistant", "content": "An answer as they are, x < 3 at times. " * 100},
        ]
    ] * 5_000
    html = render(replace(facts, examples=facts.examples.with_columns(messages=pl.Series(wordy))))
    assert len(html.encode()) < 3_000_000


def test_all_charts_are_there_with_words_for_those_who_cannot_see(page: Page) -> None:
    assert set(page.chart_data["charts"]) == {"plane", "spread", "length", "sources", "lengths"}
    charted = [
        attrs for _, attrs in page.tags if (attrs.get("id") or "").startswith("chart-") and attrs.get("role")
    ]
    assert len(charted) == 5
    assert all(attrs["role"] == "img" and len(attrs["aria-label"]) > 30 for attrs in charted)


def test_headings_go_down_one_level_at_a_time_and_tables_have_captions(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(page.tables) == sum(tag == "table" for tag, _ in page.tags)
    assert "" not in page.tables
    assert all(attrs.get("scope") in ("row", "col") for tag, attrs in page.tags if tag == "th")


# ---------------------------------------------------------------- warnings


def changed(facts: Facts, **columns) -> Facts:
    return replace(facts, scores=facts.scores.with_columns(**columns))


def no_warning(facts: Facts) -> Facts:
    return facts


def memorized(facts: Facts) -> Facts:
    return replace(changed(facts, loss_after=pl.lit(0.05)), reference={"kind": "trained", "folds": 0})


def learned_nothing(facts: Facts) -> Facts:
    return changed(facts, learnability=pl.col("learnability") - 0.5)


def short_chosen(facts: Facts) -> Facts:
    is_kept = pl.col("id").is_in(facts.kept["id"].to_list())
    return changed(facts, response_tokens=pl.when(is_kept).then(3).otherwise(20))


def follows_length(facts: Facts) -> Facts:
    return changed(facts, response_tokens=(100 - 100 * pl.col("learnability").fill_nan(0)).cast(pl.Int64))


def truncated(facts: Facts) -> Facts:
    return changed(facts, truncated=pl.int_range(pl.len()) < 16)


def undefined(facts: Facts) -> Facts:
    return changed(
        facts, learnability=pl.when(pl.int_range(pl.len()) < 16).then(float("nan")).otherwise("learnability")
    )


def duplicated(facts: Facts) -> Facts:
    again = facts.rows.head(20).with_columns(reason=pl.lit("seen before"))
    return replace(facts, rows=pl.concat([facts.rows, again]))


def lost_source(facts: Facts) -> Facts:
    rest = facts.dropped["id"].to_list()[:26]
    return changed(facts, source=pl.when(pl.col("id").is_in(rest)).then(pl.lit("poems")).otherwise("source"))


def tiny(facts: Facts) -> Facts:
    return replace(facts, kept=facts.kept.head(9))


def short_of_budget(facts: Facts) -> Facts:
    return replace(facts, shortfall="only 60 examples are above the threshold 0.4. Lower it.")


FIRES = [
    (memorized, "The reference seems to have memorized part of the pool", "Use reference.folds=2"),
    (learned_nothing, "of the learnability scores", "more epochs or with a higher learning rate"),
    (short_chosen, "its median response has 3 tokens, the pool's has 20", "the same share of every length"),
    (
        follows_length,
        "Spearman correlation of learnability with response tokens is",
        "choosing short answers",
    ),
    (truncated, "5.3% of the examples (16 of 300) were cut", "Raise the length limit"),
    (undefined, "5.3% of the examples (16 of 300) have no score", "repair the data"),
    (duplicated, "7.6% of the rows read (25 of 328) repeat", "no file was given twice"),
    (lost_source, "1 source is gone from the selection: poems (26 examples)", "select per source"),
    (tiny, "Only 9 examples were chosen, fewer than 10", "Raise the budget"),
    (short_of_budget, "smaller than asked (20% of the examples): only 60 examples", "Lower it."),
]


def test_a_clean_run_has_no_warning(facts: Facts, page: Page) -> None:
    assert warnings_of(facts) == []
    assert "Nothing suspicious seen" in page.plain
    for check in cautions.CHECKS:
        assert check.name in page.plain


@pytest.mark.parametrize(("change", "figure", "advice"), FIRES, ids=[case[0].__name__ for case in FIRES])
def test_a_warning_fires_with_its_figure_and_what_to_do(
    facts: Facts, change, figure: str, advice: str
) -> None:
    case = change(facts)
    found = [warning for warning in warnings_of(case) if figure in warning]
    assert len(found) == 1
    assert advice in found[0]
    assert found[0] in Page(render(case)).plain


def test_every_check_has_a_case_that_fires(facts: Facts) -> None:
    fired = {
        check.name for case, _, _ in FIRES for check in cautions.CHECKS if check.find(view_of(case(facts)))
    }
    assert fired == {check.name for check in cautions.CHECKS}


def test_thresholds_are_not_crossed_when_met(facts: Facts) -> None:
    fifteen = pl.int_range(pl.len()) < 15  # exactly 5% of 300
    assert warnings_of(changed(facts, truncated=fifteen)) == []
    assert warnings_of(replace(facts, kept=facts.kept.head(10))) == []


def test_a_cross_fitted_reference_cannot_have_memorized(facts: Facts) -> None:
    assert warnings_of(replace(memorized(facts), reference={"kind": "trained", "folds": 2})) == []
    (given,) = warnings_of(replace(memorized(facts), reference={"kind": "given"}))
    assert "If the reference was trained on these examples" in given


def test_in_sample_is_a_note_not_a_warning(facts: Facts) -> None:
    case = replace(facts, reference={"kind": "trained", "folds": 0})
    assert warnings_of(case) == []
    assert "The reference is in-sample" in Page(render(case)).plain


def test_a_lower_is_better_score_that_follows_length_is_named_rightly(facts: Facts) -> None:
    (warning,) = (
        w for w in warnings_of(replace(follows_length(facts), higher_is_better=False)) if "Spearman" in w
    )
    assert "choosing long answers" in warning


# ---------------------------------------------------------------- odd inputs


@pytest.mark.parametrize(
    "missing",
    [
        ["loss_after", "learnability", "difference"],
        ["loss_before", "loss_after"],
        ["response_tokens", "tokens"],
        ["truncated", "undefined", "source"],
        [
            "source",
            "tokens",
            "response_tokens",
            "truncated",
            "undefined",
            "loss_before",
            "loss_after",
            "difference",
        ],
        [
            "source",
            "tokens",
            "response_tokens",
            "truncated",
            "undefined",
            "loss_after",
            "learnability",
            "difference",
        ],
    ],
    ids=lambda names: "-".join(names),
)
def test_missing_columns_leave_parts_out(facts: Facts, missing: list[str]) -> None:
    scores = facts.scores.drop(missing)
    by = "learnability" if "learnability" not in missing else "loss_before"
    case = replace(
        facts,
        scores=scores,
        by=by,
        scorers=[s for s in facts.scorers if s not in missing],
        rows=None,
        examples=None,
    )
    page = Page(render(case))
    assert ("plane" in page.chart_data["charts"]) == ({"loss_before", "loss_after"} <= set(scores.columns))
    assert ("length" in page.chart_data["charts"]) == ("response_tokens" in scores.columns)
    assert "Could not be looked for" in page.plain
    assert "the scores came from a table without texts" in page.plain


def test_a_score_that_is_no_column_is_said(facts: Facts) -> None:
    page = Page(render(replace(facts, by="learnability - loss_before")))
    assert "there is no column learnability - loss_before" in page.plain
    assert "60 of 300 examples chosen" in page.plain


def test_an_empty_selection(facts: Facts) -> None:
    page = Page(render(replace(facts, kept=facts.kept.clear())))
    assert "0 of 300 examples chosen" in page.plain
    assert "No example was chosen" in page.plain
    assert set(page.chart_data["charts"]) == {"plane", "spread", "length"}


def test_all_undefined(facts: Facts) -> None:
    nan = pl.lit(float("nan"), dtype=pl.Float32)
    case = changed(facts, learnability=nan, difference=nan, loss_before=nan, loss_after=nan)
    page = Page(render(replace(case, kept=facts.kept.clear())))
    assert "100.0% of the examples (300 of 300) have no score" in page.plain
    assert page.scripts == []
    assert "no example has a value of learnability" in page.plain


@pytest.mark.parametrize(
    ("n", "keep", "sources"), [(0, 0, 1), (5, 1, 1), (5, 0, 3), (40, 40, 1), (600, 60, 60)]
)
def test_extremes(n: int, keep: int, sources: int) -> None:
    facts = make_facts(max(n, 5), min(keep, max(n, 5)), sources=sources)
    if n == 0:
        facts = replace(
            facts, scores=facts.scores.clear(), kept=facts.kept.clear(), dropped=facts.dropped.clear()
        )
        facts = replace(
            facts, examples=facts.examples.clear(), rows=facts.rows.clear(), steps=[], reference={}
        )
    page = Page(render(facts))
    assert f"{keep:,} of {n:,} examples chosen" in page.plain
    assert ("All 60 sources as a table" in page.plain) == (sources == 60)


def test_one_row(facts: Facts) -> None:
    one = facts.kept["id"][0]
    parts = {
        name: getattr(facts, name).filter(pl.col("id") == one)
        for name in ("examples", "rows", "scores", "kept")
    }
    page = Page(render(replace(facts, **parts, dropped=facts.dropped.clear())))
    assert "1 of 1 example chosen" in page.plain
    assert page.chart_data["points"]["group"] == ["chosen"]


def test_extreme_values_do_not_squeeze_the_pictures(facts: Facts) -> None:
    first = pl.int_range(pl.len()) == 5
    wild = {"learnability": -1e6, "loss_after": 1e6}
    case = changed(
        facts, **{name: pl.when(first).then(value).otherwise(name) for name, value in wild.items()}
    )
    view = view_of(replace(case, kept=facts.kept.filter(pl.col("id") != facts.scores["id"][5])))
    assert tables.histogram(view).below == 1
    assert tables.histogram(view).bars[0].low > -2
    assert "1 with higher losses lie" in charts.plane(view).remark


def test_a_scorer_may_be_called_score(facts: Facts) -> None:
    case = replace(
        facts,
        scores=facts.scores.rename({"learnability": "score"}),
        scorers=["score", "difference"],
        by="score",
    )
    assert "score used" in [row[0] for rows in Page(render(case)).tables.values() for row in rows]


def test_a_column_called_score_is_not_the_score_used(facts: Facts) -> None:
    case = replace(facts, scores=facts.scores.with_columns(score=1.0), by="absent")
    assert not view_of(case).has("score")
    assert "there is no column absent" in Page(render(case)).plain


# ---------------------------------------------------------------- nothing from data runs, nothing from outside is asked for


def test_data_texts_stay_texts() -> None:
    facts = make_facts(evil=True)
    facts = replace(
        facts, title=EVIL, command=EVIL, model=EVIL, budget=EVIL, shortfall=EVIL, files=[EVIL, EVIL]
    )
    facts = replace(facts, reference={"kind": "trained", "folds": 0, EVIL: EVIL})
    page = Page(render(facts))
    assert "<script>window.hacked" not in page.html
    assert "<img src=x" not in page.html
    assert sum(tag == "script" for tag, _ in page.tags) == 3
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert "{{7*7}} ${7*7}" in page.plain
    assert any(name.startswith("<script>window.hacked") for name in page.chart_data["points"]["source"])
    (data,) = (text for attrs, text in page.scripts if attrs.get("id") == "chart-data")
    assert not re.search(r"[<>]", data)


def test_only_the_scripts_of_the_page_may_run_and_nothing_may_be_loaded(page: Page) -> None:
    (policy,) = (a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert "script-src 'unsafe-inline'" not in policy
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    own = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for a, text in page.scripts if not a
    ]
    assert own == allowed
    addresses = [a[name] for _, a in page.tags for name in ("src", "href") if a.get(name)]
    assert all(address.startswith(("#", "data:")) for address in addresses)


def test_the_same_facts_give_the_same_page(facts: Facts, page: Page) -> None:
    assert render(facts) == page.html
