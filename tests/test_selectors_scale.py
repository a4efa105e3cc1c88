"""Selections from large pools: the picks of a plain sort, every row accounted for, and nothing read that is not needed."""

import json
import os
import sys

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from choosing import Thresholds, choose
from finished_steps import finished_step
from learnable.commands.load import load
from learnable.commands.select import Selecting, select
from learnable.data import load_pool, write_dropped
from learnable.errors import DataError, SelectionError
from learnable.selectors import TopK
from learnable.selectors.budget import PASS_OVER, _walk
from learnable.selectors.choose import by_id
from learnable.testing import toy_examples, write_messages
from learnable.types import Budget

NAN = float("nan")
tied = st.sampled_from([NAN, float("-inf"), -0.0, 0.0, 0.25, 0.5, 1.0, float("inf")])
names = st.text(st.sampled_from("ab\x00é𝄞~"), max_size=5)


def of_rows(rows):
    """Return a frame with a row for each id: score, tokens, source."""
    scores, tokens, sources = zip(*rows.values(), strict=True)
    return pl.DataFrame(
        {
            "id": pl.Series(list(rows), dtype=pl.String),
            "s": pl.Series(scores, dtype=pl.Float32),
            "tokens": pl.Series(tokens, dtype=pl.Int64),
            "source": pl.Series(sources, dtype=pl.String),
        }
    )


pools = st.dictionaries(
    names, st.tuples(tied, st.integers(0, 30), st.sampled_from("xyz")), min_size=1, max_size=40
).filter(lambda rows: any(score == score for score, _, _ in rows.values()))


def best_first(rows):
    """Return the ids by score and, where scores are equal, by the bytes of the id."""
    defined = [name for name, (score, _, _) in rows.items() if score == score]
    return sorted(defined, key=lambda name: (-rows[name][0], name.encode()))


# The same picks as one plain sort


@given(st.lists(tied, max_size=40), st.integers(0, 45))
def test_top_k_is_what_a_stable_sort_begins_with(scores, k):
    scores = np.array(scores, dtype=np.float32)
    defined = [position for position, score in enumerate(scores) if score == score]
    plain = sorted(defined, key=lambda position: -scores[position])[:k]
    assert TopK()(scores, k=k).index.tolist() == plain


@given(st.lists(st.integers(0, 12), max_size=60), st.integers(0, 100))
def test_token_walk_takes_what_one_step_after_the_other_takes(lengths, budget):
    left, passed_over, fits = budget, 0, []
    for position, length in enumerate(lengths):
        if length <= left:
            fits, left, passed_over = [*fits, position], left - length, 0
        elif (passed_over := passed_over + 1) == PASS_OVER:
            break
    found, ended = _walk(np.array(lengths, dtype=np.int64), budget, shortest=3)
    assert (found.tolist(), ended) == (fits, passed_over == PASS_OVER or left < 3)


@given(pools, st.integers(1, 40))
def test_examples_are_those_of_a_plain_sort(rows, k):
    selection = choose(of_rows(rows), by="s", budget=Budget(examples=min(k, len(rows))))
    assert selection.kept["id"].to_list() == best_first(rows)[: min(k, len(rows))]


@given(pools, st.integers(1, 40))
def test_every_source_keeps_its_best(rows, k):
    budget = Budget(examples=min(k, len(rows)))
    chosen = set(choose(of_rows(rows), by="s", budget=budget, per_source="equal").kept["id"])
    for source in "xyz":
        theirs = [name for name in best_first(rows) if rows[name][2] == source]
        count = len(chosen & set(theirs))
        assert chosen & set(theirs) == set(theirs[:count])


@given(pools, st.floats(0.01, 1))
def test_tokens_are_those_of_a_plain_walk(rows, share):
    frame = of_rows(rows)
    left = max(1, int(share * frame["tokens"].sum()))
    if left > frame["tokens"].sum():
        return
    plain, passed_over, budget = [], 0, Budget(tokens=left)
    for name in best_first(rows):
        if rows[name][1] <= left:
            plain, left, passed_over = [*plain, name], left - rows[name][1], 0
        elif (passed_over := passed_over + 1) == PASS_OVER:
            break
    try:
        found = choose(frame, by="s", budget=budget).kept["id"].to_list()
    except SelectionError:
        found = []
    assert found == plain


@given(pools, st.sampled_from(["none", "equal", "proportional"]))
def test_each_row_that_is_not_kept_has_its_reason(rows, per_source):
    assume(any(score < 1e6 for score, _, _ in rows.values()))
    selection = choose(
        of_rows(rows),
        by="s",
        budget=Budget(fraction=0.3),
        per_source=per_source,
        thresholds=Thresholds(max_score=1e6),
    )
    left = {name: score for name, (score, _, _) in rows.items() if name not in set(selection.kept["id"])}
    why = {
        name: "s is undefined"
        if score != score
        else "s > 1e+06"
        if score > 1e6
        else "not among the best by s within the budget"
        for name, score in left.items()
    }
    assert list(selection.dropped.iter_rows()) == sorted(why.items(), key=lambda item: item[0].encode())


@given(st.lists(names))
def test_rows_and_vectors_are_put_in_the_order_of_the_bytes_of_their_ids(ids):
    frame = pl.DataFrame({"id": pl.Series(ids, dtype=pl.String), "n": np.arange(len(ids))})
    found, vectors = by_id(frame, np.arange(len(ids), dtype=np.float32)[:, None])
    assert found.rows() == sorted(frame.rows(), key=lambda row: (row[0].encode(), row[1]))
    assert vectors[:, 0].tolist() == found["n"].to_list()


# Only what is needed is read


def unreadable(frame):
    """Return the frame with a column that cannot be read."""

    def read(_, **__):
        raise AssertionError("the messages were read")

    return frame.lazy().with_columns(messages=pl.col("id").map_batches(read, return_dtype=pl.String))


def table(n):
    rng = np.random.default_rng(0)
    rows = {f"{i:03d}": (rng.random(), int(rng.integers(1, 9)), "xy"[i % 2]) for i in rng.permutation(n)}
    return of_rows(rows).with_columns(loss_before=pl.col("s") * 2, loss_after=pl.col("s"))


@pytest.mark.parametrize(
    "given",
    [
        {"budget": Budget(examples=4)},
        {"budget": Budget(tokens=30), "per_source": "equal"},
        {"budget": Budget(examples=4), "where": "loss_before > 0.5 AND tokens < avg(tokens)"},
        {"budget": Budget(examples=4), "thresholds": Thresholds(min_loss_before=0.1, max_score=0.9)},
    ],
    ids=["examples", "tokens", "where", "thresholds"],
)
def test_columns_that_nothing_asks_for_are_not_read(given):
    frame = table(40)
    selection, plain = (
        choose(unreadable(frame), by="s", **given),
        choose(frame, by="s", **given),
    )
    assert (selection.kept.rows(), selection.dropped.rows()) == (plain.kept.rows(), plain.dropped.rows())


def test_condition_may_ask_for_any_column():
    with pytest.raises(AssertionError, match="the messages were read"):
        choose(
            unreadable(table(4)),
            by="s",
            budget=Budget(examples=1),
            where="messages <> ''",
        )


def test_condition_on_columns_by_pattern_reads_them():
    kept = choose(table(40), by="s", budget=Budget(examples=3), where="COLUMNS('^loss_b.*$') < 0.5").kept
    assert (kept["gain"] < 0.25).all()


def test_hint_names_the_columns_that_are_not_read_too():
    with pytest.raises(SelectionError) as caught:
        choose(table(4), by="s", budget=Budget(examples=1), where="nothing > 1")
    assert "loss_after" in caught.value.hint


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """Return a folder of made-up scores over 12 loaded rows, whose conversations are damaged on disk."""
    monkeypatch.chdir(tmp_path)
    loaded = load([str(write_messages(toy_examples(12), tmp_path / "my.jsonl"))], output="pool")
    pool = load_pool(loaded.folder)
    frame = pool.examples.select("id", "source", tokens=pl.lit(5)).with_row_index("learnability")
    scores = frame.with_columns(pl.col("learnability").cast(pl.Float32))
    facts = {"lowest first": [], "max score": {}}
    finished_step(
        "score",
        tmp_path / "scores",
        facts=facts,
        write=lambda folder: scores.write_parquet(folder / "scores.parquet"),
        links={"pool": tmp_path / "pool"},
    )
    path = tmp_path / "pool" / "examples.parquet"
    content = path.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little") + 8
    path.write_bytes(b"PAR1" + os.urandom(len(content) - footer - 4) + content[-footer:])
    return pool


def test_chosen_rows_are_written_without_reading_the_conversations(scored, tmp_path):
    with pytest.raises(DataError, match="cannot read the pool"):
        next(load_pool(tmp_path / "pool").iter_examples())
    select("scores", budget="2", output="out")
    lines = (tmp_path / "my.jsonl").read_text().splitlines(keepends=True)
    assert (tmp_path / "out" / "selected" / "my.jsonl").read_text() == "".join(lines[-2:])


def test_ledger_accounts_for_the_rows_in_their_order(scored, tmp_path):
    select("scores", budget="2", output="out")
    entries = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert [(entry["id"], entry["line"], entry["row"]) for entry in entries] == [
        (identity, number + 1, number + 1) for number, identity in enumerate(scored.examples["id"][:-2])
    ]


def test_ledger_in_pieces_is_the_same(scored, tmp_path, monkeypatch):
    select("scores", budget="2", output="whole")
    monkeypatch.setattr("learnable.data.writing.LEDGER_ROWS", 3)
    select("scores", budget="2", output="pieces")
    assert (tmp_path / "pieces" / "dropped.jsonl").read_bytes() == (
        tmp_path / "whole" / "dropped.jsonl"
    ).read_bytes()


def test_ledger_takes_the_first_reason_of_an_id_that_is_given_twice(scored, tmp_path):
    pool = load_pool(tmp_path / "pool")
    (identity,) = scored.examples["id"].head(1)
    twice = pl.DataFrame({"id": [identity, identity], "reason": ["one", "two"]})
    assert write_dropped(pool, twice, tmp_path / "ledger.jsonl") == 1
    assert json.loads((tmp_path / "ledger.jsonl").read_text())["reason"] == "one"


def test_a_pool_that_is_opened_holds_no_row_in_memory(scored, tmp_path):
    pool = load_pool(tmp_path / "pool")
    assert (len(pool), pool.files) == (len(scored), scored.files)
    assert not {"examples", "rows"} & set(vars(pool))


# Tables of losses from elsewhere


WRITERS = {
    ".parquet": pl.DataFrame.write_parquet,
    ".csv": pl.DataFrame.write_csv,
    ".jsonl": pl.DataFrame.write_ndjson,
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_table_keeps_its_columns_and_rows_beside_the_scores(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(sys.modules[select.__module__], "ROWS", 7)
    frame = table(30).with_columns(text=pl.format("text of {}", "id")).drop("s")
    WRITERS[suffix](frame.with_columns(id="i" + pl.col("id")), tmp_path / f"my{suffix}")
    select(
        str(tmp_path / f"my{suffix}"), before="loss_before", after="loss_after", output=str(tmp_path / "out")
    )
    scores = pl.read_parquet(tmp_path / "out" / "scores.parquet")
    assert scores["text"].to_list() == frame["text"].to_list()
    assert scores["learnability"].to_numpy() == pytest.approx(0.5)


def test_table_of_nothing_but_losses_gets_numbers_for_ids(tmp_path):
    pl.DataFrame({"loss_before": [2.0, 1.0, 4.0], "loss_after": [1.0, 0.9, 1.0]}).write_parquet(
        tmp_path / "my.parquet"
    )
    select(
        str(tmp_path / "my.parquet"),
        before="loss_before",
        after="loss_after",
        budget="2",
        output=str(tmp_path / "out"),
    )
    chosen = pl.read_parquet(tmp_path / "out" / "selected.parquet")
    assert chosen.select("id", "loss_before").rows() == [("000000000002", 4.0), ("000000000000", 2.0)]


def test_chosen_rows_of_a_table_are_in_the_order_picked(tmp_path):
    frame = table(30)
    frame.write_parquet(tmp_path / "my.parquet")
    select(str(tmp_path / "my.parquet"), choosing=Selecting(by="s"), budget="3", output=str(tmp_path / "out"))
    chosen = pl.read_parquet(tmp_path / "out" / "selected.parquet")
    assert chosen["s"].to_list() == frame["s"].sort(descending=True).head(3).to_list()


def test_nothing_dropped_is_an_empty_table(tmp_path):
    table(3).write_parquet(tmp_path / "my.parquet")
    select(
        str(tmp_path / "my.parquet"), choosing=Selecting(by="s"), budget="100%", output=str(tmp_path / "out")
    )
    dropped = pl.read_parquet(tmp_path / "out" / "dropped.parquet")
    assert (dropped.height, dropped.schema) == (0, {"id": pl.String, "reason": pl.String})


def test_value_that_is_no_number_far_down_a_table_is_an_error_that_names_the_file(tmp_path):
    lines = ["id,s,other", *(f"{i},0.5,1" for i in range(20_000)), "x,0.5,what?"]
    (tmp_path / "my.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"cannot read .*my\.csv"):
        select(str(tmp_path / "my.csv"), choosing=Selecting(by="s"), budget="3", output=str(tmp_path / "out"))
    assert not (tmp_path / "out" / "step.json").exists()
