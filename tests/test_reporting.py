"""The report: its figures, texts and pictures are those of the frames. Also the run that its other tests change."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from learnable.pages import SelectionFacts
from learnable.pages import selection_pictures as pictures
from learnable.pages.html import turns_of
from learnable.pages.selection import render_selection as render
from learnable.pages.selection_facts import by_length, spearman, to_read
from learnable.pages.selection_others import other_choices
from learnable.runs.price import Cost

EVIL = '<script>window.hacked = 1; alert(1)</script><img src=x onerror="alert(2)">"onmouseover=\'alert(3)\' {{7*7}} ${7*7} <!-- '
LIMIT = "no response token: the prompt fills the length limit"


def make_facts(
    n: int = 300, keep: int = 60, *, sources: int = 3, seed: int = 0, evil: bool = False
) -> SelectionFacts:
    """A clean run of n examples, two of them without a score; three rows are unreadable and five repeated."""
    scores = make_scores(n, sources=sources, seed=seed)
    ids = scores["id"].to_list()
    texts = [
        [
            {"role": "user", "content": f"Question {i}?"},
            {"role": "assistant", "content": f"Answer {i}. " * (1 + i % 90)},
        ]
        for i in range(n)
    ]
    ranked = (
        scores.with_row_index("place").fill_nan(None).sort("learnability", descending=True, nulls_last=True)
    )
    if evil:
        best, worst = ranked["place"][0], ranked["place"][n - 3]
        source = scores["source"].to_list()
        source[best] = EVIL
        scores = scores.with_columns(source=pl.Series(source))
        texts[best] = [{"role": role, "content": EVIL} for role in (EVIL, "user", "assistant")]
        texts[worst] = [{"role": "user", "content": EVIL}, {"role": "assistant", "content": EVIL * 20}]
    kept = ranked.head(keep).select("id", rank=pl.int_range(pl.len()), gain="learnability")
    dropped = scores.join(kept, on="id", how="anti", maintain_order="left")
    return SelectionFacts(
        title="lobass",
        command="learnable run lobass data=my.jsonl model=starter budget=20%",
        model="SmolLM2-135M-Instruct",
        reference={"kind": "trained", "method": "lora", "folds": 2, "epochs": 1, "fraction": 1.0},
        by="learnability",
        higher_is_better=True,
        budget="20% of the examples",
        examples=scores.select("id", "source", messages=pl.Series(texts)),
        rows=make_rows(ids, "no answer: keys seen are q, r" if not evil else EVIL),
        files=["my.jsonl", "more.jsonl"],
        scores=scores,
        scorers=["learnability", "difference"],
        kept=kept,
        dropped=dropped.select("id", reason=pl.col("undefined").fill_null("below the budget")),
        steps=[
            (
                "measure the base model",
                Cost(tokens=10_000, passes=1.0, seconds=2.0, peak_memory_bytes=2 << 30),
            ),
            ("train the reference", Cost(tokens=30_000, passes=3.0, seconds=78.0, peak_memory_bytes=6 << 30)),
            ("select", Cost()),
        ],
    )


def make_scores(n: int, *, sources: int, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    source = [f"source {j}" for j in rng.integers(0, sources, n)]
    response = np.maximum(1, rng.lognormal(3, 0.8, n).astype(np.int64))
    tokens = response + rng.integers(10, 40, n)
    before = rng.gamma(6, 0.4, n) + 0.2
    score = np.clip(rng.normal(0.3, 0.2, n), -1, 0.9)
    before[:2] = score[:2] = np.nan
    after = before * (1 - score)
    numbers = {
        "loss_before": before,
        "loss_after": after,
        "learnability": score,
        "difference": before - after,
        "end_nll_before": before,  # one token like any other
        "end_nll_after": after,
    }
    return pl.DataFrame(
        {
            "id": [f"{i:08x}" for i in range(n)],
            "source": source,
            "tokens": tokens,
            "response_tokens": response,
            "truncated": [False] * n,
            "undefined": [LIMIT] * 2 + [None] * (n - 2),
        }
    ).with_columns(pl.Series(name, values, dtype=pl.Float32) for name, values in numbers.items())


def make_rows(ids: list[str], reason: str) -> pl.DataFrame:
    n = len(ids)
    return pl.DataFrame(
        {
            "file": [0] * n + [1] * 8,
            "row": [*range(n), *range(8)],
            "line": [*range(1, n + 1), *range(1, 7), None, None],
            "id": [*ids, None, None, None, *ids[:5]],
            "reason": [None] * n + [reason] * 3 + ["seen before"] * 5,
        }
    )


def changed(facts: SelectionFacts, **columns) -> SelectionFacts:
    return replace(facts, scores=facts.scores.with_columns(**columns))


@pytest.fixture(scope="module")
def facts() -> SelectionFacts:
    return make_facts()


@pytest.fixture(scope="module")
def page(facts: SelectionFacts) -> "Page":
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


def test_the_headline_has_the_figures_of_the_frames(facts: SelectionFacts, page: Page) -> None:
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


def test_the_sources_table_is_the_group_by(facts: SelectionFacts, page: Page) -> None:
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


def test_length_bins_part_the_pool(facts: SelectionFacts) -> None:
    groups = by_length(facts)
    assert (groups["examples"].sum(), groups["kept"].sum()) == (300, 60)
    for name, examples in groups.select("name", "examples").iter_rows():
        low, _, high = name.replace(",", "").partition("\N{EN DASH}")
        inside = facts.scores["response_tokens"].is_between(int(low), int(high or low))
        assert examples == inside.sum()


def test_spearman_by_hand() -> None:
    frame = pl.DataFrame({"a": [1.0, 2.0, 3.0, 4.0, 5.0, None], "b": [2, 1, 4, 3, 5, 9], "same": [1] * 6})
    assert spearman(frame, "a", "b") == (pytest.approx(0.8), 5)
    assert spearman(frame, "a", "same") == (None, 5)
    assert spearman(frame, "a", "absent") == (None, 0)


def test_the_correlation_table_has_every_scorer(facts: SelectionFacts, page: Page) -> None:
    (rows,) = (rows for caption, rows in page.tables.items() if caption.startswith("Spearman"))
    assert [row[0] for row in rows[1:]] == ["learnability used", "difference"]
    finite = facts.scores.filter(pl.col("learnability").is_finite())
    rho = finite.select(pl.corr("difference", "loss_before", method="spearman")).item()
    assert rows[2][3:] == [f"{rho:.2f}".replace("-", "\N{MINUS SIGN}"), "298"]


def test_the_histogram_counts_every_scored_example_and_parts_at_the_cutoff(facts: SelectionFacts) -> None:
    edges, counts, _ = pictures.histogram(facts)
    assert [sum(numbers) for numbers in zip(*counts, strict=True)] == [60, 238]
    assert not any(kept and rest for kept, rest in counts)
    assert any(edge == pytest.approx(facts.cutoff) for edge in edges)


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


def test_what_is_not_accounted_for_is_said(facts: SelectionFacts) -> None:
    text = Page(render(replace(facts, dropped=facts.dropped.head(200)))).plain
    assert "(that makes 260: 40 examples not accounted for)" in text


def test_the_cost_table_sums_up(facts: SelectionFacts, page: Page) -> None:
    rows = page.tables["Cost per step"]
    assert rows[1] == ["measure the base model", "2.0 s", "10,000", "1.00", "5,000", "2.0 GiB"]
    assert rows[3] == ["select", *["\N{EN DASH}"] * 5]
    assert rows[4] == ["together", "1 min 20 s", "40,000", "4.00", "500", "6.0 GiB"]
    assert f"{40_000 / facts.scores['tokens'].sum():.2f} epochs over the pool" in page.plain


def test_examples_to_read_are_best_border_and_worst(facts: SelectionFacts) -> None:
    best, just_in, just_out, worst = [frame for _, _, frame in to_read(facts)]
    order = (
        facts.scores.filter(pl.col("learnability").is_finite())
        .sort("learnability", descending=True)["id"]
        .to_list()
    )
    assert best["id"].to_list() == order[:8]
    assert just_in["id"].to_list() == order[56:60]
    assert just_out["id"].to_list() == order[60:64]
    assert worst["id"].to_list() == order[:-9:-1]


def test_an_example_says_whether_it_was_chosen_or_why_not(page: Page) -> None:
    assert "chosen, pick 1 " in page.plain
    assert "not chosen: below the budget" in page.plain


def test_long_texts_are_folded_and_very_long_ones_say_what_is_missing() -> None:
    long = [{"role": "assistant", "content": "x" * 9_000}, {"role": "user", "content": ""}]
    *turns, rest = turns_of([{"role": "user", "content": "q"}] * 11 + long)
    last = Page(turns[-1])
    assert len(turns) == 12
    assert "whole text, 9,000 characters" in last.plain
    assert "… and 1,000 more characters, not in this page." in last.plain
    assert last.plain.count("x" * 8_000) == 1
    assert "whole text" not in turns[0]
    assert "… and 1 more message, not in this page." in rest


# ---------------------------------------------------------------- charts


def test_the_dots_are_a_fixed_sample_with_all_the_chosen() -> None:
    facts = make_facts(6_000, 500)
    drawn = pictures.points(facts)
    assert {len(column) for column in drawn.values()} == {pictures.SHOWN_POINTS}
    assert drawn["group"].count("chosen") == 500
    assert drawn == pictures.points(facts)
    assert "4,000 of 5,998 scored examples are drawn, all 500 chosen" in pictures.plane(facts).remark


def test_many_chosen_leave_room_for_the_others() -> None:
    facts = make_facts(6_000, 5_000)
    assert pictures.points(facts)["group"].count("chosen") == pictures.SHOWN_CHOSEN
    assert "2,000 of the 5,000 chosen" in pictures.length(facts).remark


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


class TestOtherScores:
    def test_as_many_as_were_chosen_by_the_highest_values(self):
        facts = make_facts(n=60, keep=9)
        best = facts.frame.sort("difference", descending=True, nulls_last=True)["id"].head(9)
        assert set(other_choices(facts)["difference"]["id"]) == set(best)

    def test_a_score_whose_low_values_are_good_takes_those(self):
        facts = replace(make_facts(n=60, keep=9), lowest_first=["difference"])
        best = facts.frame.sort("difference", nulls_last=True)["id"].head(9)
        assert set(other_choices(facts)["difference"]["id"]) == set(best)

    def test_a_score_of_too_few_examples_is_left_out(self):
        facts = make_facts(n=60, keep=9)
        few = facts.scores.with_columns(
            difference=pl.when(pl.int_range(pl.len()) < 8).then("difference").otherwise(float("nan"))
        )
        assert other_choices(replace(facts, scores=few)) == {}

    def test_the_page_has_no_such_part_for_one_score(self):
        assert 'id="others"' not in render(replace(make_facts(), scorers=["learnability"]))
        assert 'id="others"' in render(make_facts())


def test_of_ranks_the_first_picture_is_that_of_the_losses():
    facts = make_facts()
    ranked = facts.scores.with_columns(length_matched=pl.col("learnability").rank() / pl.len())
    shown = render(replace(facts, scores=ranked, by="length_matched"))
    assert shown.index('id="plane"') < shown.index('id="spread"')
    plain = render(facts)
    assert plain.index('id="spread"') < plain.index('id="plane"')
