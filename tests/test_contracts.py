"""Every method of every table keeps the contract of its kind; and the checks catch the ones that do not."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
import pytest

from choosing import choose
from learnable.scorers import SCORERS, Learnability
from learnable.selectors import SELECTORS, TopK
from learnable.spec import build
from learnable.testing import check_scorer, check_selector
from learnable.types import Budget, Picks


@pytest.mark.parametrize("name", SCORERS)
def test_scorer_keeps_its_contract(name):
    check_scorer(build("scorer", name, SCORERS))


@pytest.mark.parametrize("name", SELECTORS)
def test_selector_keeps_its_contract(name):
    check_selector(build("selector", name, SELECTORS))


@pytest.mark.parametrize("name", SELECTORS)
def test_selector_fills_a_budget(name):
    frame = pl.DataFrame({"id": list("abcdef"), "s": [0.3, 0.1, float("nan"), 0.2, 0.6, 0.5]})
    method, vectors = build("selector", name, SELECTORS), np.eye(6, dtype=np.float32)
    selection = choose(frame, by="s", budget=Budget(examples=4), selector=method, vectors=vectors)
    assert selection.kept.height == 4


@dataclass(frozen=True)
class Sum:
    """A scorer that keeps the contract, and can be made to break it in one place."""

    needs: ClassVar[tuple[str, ...]] = ("loss_before", "response_tokens")
    higher_is_better: ClassVar[bool] = True

    def __call__(self, frame):
        total = (frame["loss_before"] * frame["response_tokens"]).to_numpy().astype(np.float32)
        return np.where(np.isfinite(total), total, np.float32(np.nan))


class WrongKind(Sum):
    def __call__(self, frame):
        return super().__call__(frame).astype(np.float64)


class NotAnArray(Sum):
    def __call__(self, frame):
        return pl.Series(super().__call__(frame))


class Column(Sum):
    def __call__(self, frame):
        return super().__call__(frame)[:, None]


class Infinite(Sum):
    def __call__(self, frame):
        return np.where(
            frame["loss_before"].to_numpy() == np.inf, np.float32(np.inf), super().__call__(frame)
        )


class Unbounded(Sum):
    def __call__(self, frame):
        return np.where(frame["loss_before"].to_numpy() == 0, np.float32(np.inf), super().__call__(frame))


class FillsIn(Sum):
    def __call__(self, frame):
        return np.nan_to_num(super().__call__(frame))


class FillsInLengths(Sum):
    def __call__(self, frame):
        return super().__call__(frame.with_columns(pl.col("response_tokens").fill_null(1)))


class GivesUp(Sum):
    def __call__(self, frame):
        total = super().__call__(frame)
        return np.where(total > 300, np.float32(np.nan), total)


class ByPosition(Sum):
    def __call__(self, frame):
        return super().__call__(frame) + np.arange(frame.height, dtype=np.float32)


class TiesByPosition(Sum):
    def __call__(self, frame):
        total = super().__call__(frame)
        rank = (np.argsort(np.argsort(total, kind="stable"), kind="stable") + 1).astype(np.float32)
        return np.where(np.isnan(total), np.float32(np.nan), rank)


class ReadsMore(Sum):
    def __call__(self, frame):
        return super().__call__(frame) + frame["loss_after"].to_numpy()


class CountsColumns(Sum):
    def __call__(self, frame):
        return super().__call__(frame) + np.float32(frame.width)


class Random(Sum):
    def __call__(self, frame):
        return super().__call__(frame) + np.random.default_rng().random(frame.height, dtype=np.float32)


class Undecided(Sum):
    higher_is_better = None


class Needless(Sum):
    needs = ()


class NoFingerprint:
    needs, higher_is_better = Sum.needs, True

    def __call__(self, frame):
        return Sum()(frame)


def test_check_scorer_passes_outside_code_that_keeps_the_contract():
    check_scorer(Sum())


def test_check_scorer_makes_up_columns_it_does_not_know():
    @dataclass(frozen=True)
    class Ifd(Sum):
        needs: ClassVar[tuple[str, ...]] = ("loss_without_prompt",)

        def __call__(self, frame):
            loss = frame["loss_without_prompt"].to_numpy()
            return np.where(np.isfinite(loss), loss, np.float32(np.nan))

    check_scorer(Ifd())


@dataclass(frozen=True)
class Change(Sum):
    """A scorer of lists that keeps the contract: what the instruction changes, token by token."""

    needs: ClassVar[tuple[str, ...]] = ("token_losses_before", "token_losses_alone")

    def __call__(self, frame):
        pairs = zip(frame["token_losses_before"], frame["token_losses_alone"], strict=True)
        found = [
            np.nan if one is None or other is None else (one.to_numpy() - other.to_numpy()).sum()
            for one, other in pairs
        ]
        return np.where(np.isfinite(found), found, np.nan).astype(np.float32)


class SkipsTokens(Change):
    def __call__(self, frame):
        return super().__call__(frame.with_columns(pl.col(self.needs[0]).list.eval(pl.element().fill_nan(0))))


class SkipsLists(Change):
    def __call__(self, frame):
        return np.nan_to_num(super().__call__(frame))


class AsksForLengths(Change):
    def __call__(self, frame):
        longest = frame[self.needs[0]].list.len().max() or 0
        return np.where(longest < 3, np.float32(np.nan), super().__call__(frame))


def test_check_scorer_makes_up_lists_of_one_length_in_each_row():
    check_scorer(Change())
    check_scorer(AsksForLengths())


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (SkipsTokens, "lack a measurement"),
        (SkipsLists, "lack a measurement"),
        (WrongKind, "returns float64"),
        (NotAnArray, "returns Series"),
        (Column, r"shape \(\d+, 1\)"),
        (Infinite, "infinite score"),
        (Unbounded, "infinite score"),
        (FillsIn, "lack a measurement"),
        (FillsInLengths, "lack a measurement"),
        (GivesUp, "no number for rows"),
        (ByPosition, "order of the rows"),
        (TiesByPosition, "order of the rows"),
        (ReadsMore, "reads a column that is not in needs"),
        (CountsColumns, "columns outside needs"),
        (Random, "second call differs"),
        (Undecided, "higher_is_better"),
        (Needless, "names no column"),
        (NoFingerprint, "no fingerprint"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_check_scorer_catches(broken, said):
    with pytest.raises(AssertionError, match=f"(?s){broken.__name__}.*{said}"):
        check_scorer(broken())


def test_check_scorer_catches_what_the_parameters_break():
    with pytest.raises(AssertionError, match="no number"):
        check_scorer(Learnability(floor=2.0))


@dataclass(frozen=True)
class Best:
    """A selector that keeps the contract, and can be made to break it in one place."""

    def __call__(self, scores, *, k, vectors=None, groups=None, rng=None):
        picks = TopK()(scores, k=k)
        return Picks(index=self.index(picks.index, scores, k), gain=self.gain(picks.gain))

    def index(self, index, _scores, _k):
        return index

    def gain(self, gain):
        return gain


class PicksNan(Best):
    def index(self, index, scores, _k):
        return np.argsort(scores, kind="stable")[::-1][: len(index)]


class Twice(Best):
    def index(self, index, _scores, _k):
        return np.repeat(index[:1], len(index))


class TooFew(Best):
    def index(self, index, _scores, _k):
        return index[:5]


class TooMany(Best):
    def index(self, _index, scores, k):
        return np.flatnonzero(~np.isnan(scores))[: k + 1]


class OutOfRange(Best):
    def index(self, index, scores, _k):
        return index - len(scores)


class Mask(Best):
    def index(self, index, _scores, _k):
        return index.astype(np.float64)


class NoGain(Best):
    def gain(self, gain):
        return gain[:1]


class NanGain(Best):
    def gain(self, gain):
        return gain * np.float32(np.nan)


class DoubleGain(Best):
    def gain(self, gain):
        return gain.astype(np.float64)


class Unseeded(Best):
    def index(self, index, _scores, _k):
        return np.random.default_rng().permutation(index)


class Overwrites(Best):
    def index(self, index, scores, _k):
        scores[index] = -1
        return index


class Open:
    def __call__(self, scores, *, k, vectors, groups, rng):
        return TopK()(scores, k=k)


def test_check_selector_passes_outside_code_that_keeps_the_contract():
    check_selector(Best())


def test_check_selector_gives_vectors_and_groups():
    @dataclass(frozen=True)
    class Wanting(Best):
        def __call__(self, scores, *, k, vectors, groups, rng):
            assert vectors.shape == (len(scores), 8)
            assert groups.shape == scores.shape
            return TopK()(scores, k=k)

    check_selector(Wanting())


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (PicksNan, "picked NaN"),
        (Twice, "picked twice"),
        (TooFew, r"\(5,\) picks, not \(7,\)"),
        (TooMany, r"\(1,\) picks, not \(0,\)"),
        (OutOfRange, "picked NaN, or no row"),
        (Mask, "not whole numbers"),
        (NoGain, r"\(1,\) gains for 7 picks"),
        (NanGain, "gain is not a number"),
        (DoubleGain, "gain is float64"),
        (Unseeded, "other picks for the same seed"),
        (Overwrites, "scores were changed"),
        (Open, "no fingerprint"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_check_selector_catches(broken, said):
    with pytest.raises(AssertionError, match=f"(?s){broken.__name__}.*{said}"):
        check_selector(broken())
