"""Rows that the user pins or bans: first or never chosen, and named in the ledger."""

import json

import numpy as np
import polars as pl
import pytest

from choosing import Thresholds, choose
from learnable.cli.running import understood
from learnable.commands import select
from learnable.commands.select import Selecting
from learnable.errors import DataError, SelectionError, StoreError
from learnable.recipes.lobass import lobass
from learnable.recipes.run import Run
from learnable.selectors import Random
from learnable.types import Budget

NAN = float("nan")


def table(scores, **columns):
    """Return a frame with ids a, b, c ... and the score ``s``."""
    ids = [chr(97 + i) for i in range(len(scores))]
    usual = {"id": ids, "source": ["one"] * len(ids), "tokens": [10] * len(ids)}
    return pl.DataFrame(usual | {"s": pl.Series(scores, dtype=pl.Float32)} | columns)


def pick(frame, *, pin="", ban="", **given):
    """Choose with the letters of ``pin`` and ``ban`` as ids."""
    budget = Budget(**{name: given.pop(name) for name in ("examples", "tokens") if name in given})
    lists = {"pins": {"pins.txt": list(pin)}, "bans": {"bans.txt": list(ban)}}
    return choose(frame, **({"by": "s", "budget": budget} | lists | given))


def kept(frame, **given):
    return "".join(pick(frame, **given).kept["id"])


def test_pinned_row_is_chosen_first_whatever_its_score():
    assert kept(table([1, 9, 8, 7]), pin="a", examples=2) == "ab"


def test_pinned_rows_stand_by_score_with_undefined_last():
    assert kept(table([NAN, 2, 5, 9]), pin="abc", examples=4) == "cbad"


def test_kept_tells_who_was_pinned_and_their_gain_is_undefined():
    frame = pick(table([1, 9]), pin="a", examples=2).kept
    assert frame["pinned"].to_list() == [True, False]
    assert np.isnan(frame["gain"][0])


def test_nobody_is_pinned_where_nothing_is_given():
    assert pick(table([1, 9]), examples=1).kept["pinned"].to_list() == [False]


@pytest.mark.parametrize(
    "given",
    [
        {"where": "s > 5"},
        {"thresholds": Thresholds(min_score=5)},
        {"vectors": np.float32([[NAN, 0], [1, 0], [0, 1]])},
        {"vectors": np.float32([[1, 0], [1, 0], [0, 1]]), "max_similarity": 0.9},
    ],
    ids=["where", "threshold", "vector", "duplicate"],
)
def test_no_condition_drops_a_pinned_row(given):
    assert kept(table([1, 9, 8]), pin="a", examples=2, **given)[0] == "a"


def test_near_duplicate_of_a_pinned_row_is_dropped():
    same = np.float32([[1, 0], [1, 0], [0, 1]])
    assert kept(table([1, 9, 8]), pin="a", examples=2, vectors=same, max_similarity=0.9) == "ac"


def test_pinned_rows_count_against_a_budget_in_tokens():
    assert kept(table([1, 9, 8, 7], tokens=[15, 10, 10, 5]), pin="a", tokens=30) == "abd"


def test_pinned_rows_may_fill_the_budget():
    assert kept(table([1, 9, 8]), pin="ab", examples=2) == "ba"


def test_pinned_rows_are_enough_when_nothing_else_qualifies():
    assert kept(table([1, NAN]), pin="a", where="s > 5", examples=2) == "a"


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"examples": 1}, "the pinned rows alone are 2 examples, and the budget is 1"),
        ({"tokens": 15}, "the pinned rows alone are 20 tokens, and the budget is 15"),
    ],
)
def test_pinned_rows_above_the_budget_are_refused(budget, said):
    with pytest.raises(SelectionError, match=said):
        pick(table([1, 2, 3]), pin="ab", **budget)


SIX = {"source": ["x", "x", "x", "x", "y", "y"]}


@pytest.mark.parametrize(
    ("pin", "shares", "chosen"),
    [
        ("a", "equal", "adef"),  # x has two: the pinned one and its best
        ("abc", "equal", "abcf"),  # x has more than its half, y what is left
        ("ef", "proportional", "cdef"),
    ],
)
def test_pinned_rows_count_against_the_share_of_their_source(pin, shares, chosen):
    frame = table([1, 2, 3, 4, 5, 6], **SIX)
    assert "".join(sorted(kept(frame, pin=pin, examples=4, per_source=shares))) == chosen


def test_pinned_rows_count_against_the_share_of_their_cluster():
    vectors = np.float32([[1, 0], [1, 0.01], [1, 0.02], [1, 0.01], [0, 1], [0.01, 1]])
    chosen = kept(
        table([1, 2, 3, 4, 5, 6]), pin="a", examples=4, per_cluster="equal", clusters=2, vectors=vectors
    )
    assert "".join(sorted(chosen)) == "adef"


def test_token_budget_with_shares_and_pins_is_kept():
    frame = table([1, 2, 3, 4, 5, 6], **SIX)
    assert sorted(kept(frame, pin="ab", tokens=45, per_source="equal")) == ["a", "b", "e", "f"]


def test_banned_row_is_never_chosen_and_the_ledger_says_by_which_file():
    selection = pick(table([1, 9, 8]), ban="b", examples=2)
    assert selection.kept["id"].to_list() == ["c", "a"]
    assert selection.dropped.to_dicts() == [{"id": "b", "reason": "banned by bans.txt"}]


def test_ban_goes_before_every_other_reason():
    (dropped,) = pick(table([NAN, 1]), ban="a", examples=2).dropped["reason"]
    assert dropped == "banned by bans.txt"


def test_all_banned_is_an_error():
    with pytest.raises(SelectionError, match="no example qualifies") as caught:
        pick(table([1, 2]), ban="ab", examples=1)
    assert "banned by bans.txt" in caught.value.hint


def test_pinned_and_banned_is_refused():
    with pytest.raises(SelectionError, match=r"1 of the rows to ban in bans.txt are pinned too, such as 'a'"):
        pick(table([1, 2]), pin="a", ban="a", examples=1)


@pytest.mark.parametrize("which", ["pin", "ban"])
def test_ids_that_are_not_in_the_pool_are_refused(which):
    with pytest.raises(SelectionError, match=r"2 of 3 ids in .*s.txt are not in the pool, such as 'x'"):
        pick(table([1, 2]), **{which: "xay"}, examples=1)


def test_beginning_of_an_id_is_hinted_at():
    frame = table([1, 2], id=["aa11", "bb22"])
    with pytest.raises(SelectionError) as caught:
        pick(frame, pin=[*"a"], examples=1)
    assert caught.value.hint == "ids are given whole: 'a' is the beginning of 'aa11'"


def test_order_of_rows_does_not_matter():
    frame = table([3, 1, 2, 5, 4], source=["x", "y", "x", "y", "x"])
    given = {"pin": "bc", "ban": "d", "examples": 4, "selector": Random(), "per_source": "equal"}
    assert pick(frame, **given).kept.equals(pick(frame.reverse(), **given).kept)


# The command


@pytest.fixture
def losses(tmp_path, monkeypatch):
    """Go to a folder with a table of losses and return a way to choose two of it into ``out``."""
    monkeypatch.chdir(tmp_path)
    table([0] * 4).select("id", before=pl.lit(2.0), after=pl.Series([1.9, 1, 1.5, 1.2])).write_parquet(
        "t.parquet"
    )

    def run(**given):
        return select(
            "t.parquet", budget="2", before="before", after="after", output="out", choosing=Selecting(**given)
        )

    return run


def test_files_of_several_kinds_are_read(losses, tmp_path):
    (tmp_path / "one.txt").write_text("a\n")
    (tmp_path / "two.jsonl").write_text('{"id": "c", "text": "x"}\n')
    (tmp_path / "no.csv").write_text("id\nb\n")
    done = losses(pin=["one.txt", "two.jsonl"], ban=["no.csv"])
    assert pl.read_parquet("out/kept.parquet")["id"].to_list() == ["c", "a"]
    assert dict(pl.read_parquet("out/dropped.parquet").iter_rows())["b"] == "banned by no.csv"
    assert (done.facts["pinned"], done.facts["banned"]) == (2, 1)


def test_same_ids_from_another_file_are_the_same_step(losses, tmp_path):
    (tmp_path / "one.txt").write_text("a\nc\n")
    (tmp_path / "two.txt").write_text("c\na\n")
    losses(pin=["one.txt"])
    assert not losses(pin=["two.txt"]).ran


def test_other_ids_are_another_step(losses, tmp_path):
    (tmp_path / "one.txt").write_text("a\n")
    losses(pin=["one.txt"])
    (tmp_path / "one.txt").write_text("c\n")
    with pytest.raises(StoreError, match="pin was"):
        losses(pin=["one.txt"])


def test_selection_without_lists_is_the_step_that_it_was_before_there_were_lists(losses, tmp_path):
    losses()
    parameters = json.loads((tmp_path / "out" / "step.json").read_text())["parameters"]
    assert not {"pin", "ban", "license"} & set(parameters)


def test_recipe_finds_a_missing_list_before_it_trains(tmp_path):
    missing = str(tmp_path / "missing.txt")
    with pytest.raises(DataError, match=r"missing\.txt"):
        lobass(choosing=Selecting(ban=[missing]), run=Run(output=str(tmp_path / "runs")))
    assert not (tmp_path / "runs").exists()


def test_recipe_takes_lists_of_pins_and_bans():
    words = ["lobass", "--pin", "a.txt", "--ban", "b.txt", "c.txt"]
    chosen = understood(words)[1].arguments["choosing"]
    assert (list(chosen.pin), list(chosen.ban)) == (["a.txt"], ["b.txt", "c.txt"])
