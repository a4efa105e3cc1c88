"""Formulas at their edges: nothing to learn, undefined losses, ties and lengths."""

import importlib.util
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learnable import commands as verbs
from learnable import data
from learnable.commands.select import Selecting
from learnable.errors import SelectionError, UsageError
from learnable.models.language_model import LanguageModel
from learnable.models.rendering import Renderer
from learnable.scorers import (
    IFD,
    BaselineCorrected,
    Difference,
    Learnability,
    Length,
    LengthMatched,
    Loss,
    LowerBound,
    Perplexity,
    PerplexityDrop,
    PerplexityMiddle,
    SoftLearnability,
    TextLearnability,
    TopShareIFD,
    end_of_turn_share,
)
from learnable.settings import Loading, Reference
from learnable.testing import toy_examples, write_messages
from learnable.types import ModelRef

NAN, INF = float("nan"), float("inf")


def losses(before, after, tokens=None):
    columns = {"loss_before": before, "loss_after": after, "response_tokens": tokens or [1] * len(before)}
    schema = {"loss_before": pl.Float32, "loss_after": pl.Float32, "response_tokens": pl.Int64}
    return pl.DataFrame(columns, schema=schema)


@pytest.mark.parametrize(
    ("before", "after", "score"),
    [(2.0, 0.0, 1.0), (2.0, 2.0, 0.0), (2.0, 3.0, -0.5), (2.0, 1.5, 0.25)],
    ids=["known by heart", "unchanged", "worse", "a quarter"],
)
def test_learnability_is_the_share_of_the_loss_that_went(before, after, score):
    assert Learnability()(losses([before], [after])).tolist() == [score]


@pytest.mark.parametrize(("before", "defined"), [(0.0, False), (0.25, False), (0.26, True)])
def test_learnability_is_undefined_at_and_under_the_floor(before, defined):
    assert np.isfinite(Learnability(floor=0.25)(losses([before], [0.1]))).tolist() == [defined]


def test_learnability_of_a_zero_loss_is_undefined_by_default():
    assert np.isnan(Learnability()(losses([0.0], [0.0])))


def test_learnability_keeps_small_differences_that_float32_would_lose():
    before = np.float32(1.0)
    after = np.nextafter(before, np.float32(0))
    assert Learnability()(losses([before], [after])).tolist() == [float(before) - float(after)]


@pytest.mark.parametrize(
    "scorer",
    [Learnability(), SoftLearnability(), Difference(), LengthMatched(), PerplexityDrop()],
    ids=lambda s: type(s).__name__,
)
@pytest.mark.parametrize(
    ("before", "after"),
    [(NAN, 1.0), (1.0, NAN), (None, 1.0), (1.0, None), (INF, 1.0), (1.0, INF), (INF, INF)],
)
def test_score_is_nan_where_a_loss_is_no_number(scorer, before, after):
    assert np.isnan(scorer(losses([1.0, before], [0.5, after]))).tolist() == [False, True]


@pytest.mark.parametrize("scorer", [Loss(), Perplexity(), PerplexityMiddle()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("loss", [NAN, None, INF])
def test_score_of_the_base_loss_is_nan_where_it_is_no_number(scorer, loss):
    assert np.isnan(scorer(losses([1.0, loss], [1.0, 1.0]))).tolist() == [False, True]


def test_loss_is_the_base_loss():
    assert Loss()(losses([1.5, 0.0], [9.0, 9.0])).tolist() == [1.5, 0.0]


def test_difference_may_be_negative():
    assert Difference()(losses([1.0], [1.5])).tolist() == [-0.5]


def matched(scores, tokens, **given):
    """Score by learnability among equal lengths; a base loss of 1 makes the learnability ``1 - loss_after``."""
    return LengthMatched(**given)(
        losses([1.0] * len(scores), [1 - score for score in scores], tokens)
    ).tolist()


def test_length_matched_ranks_within_the_bin():
    found = matched([0.1, 0.3, 0.2, 0.9, 0.7, 0.8], [5, 5, 5, 80, 80, 80], bins=2)
    np.testing.assert_allclose(found, [1 / 3, 3 / 3, 2 / 3, 3 / 3, 1 / 3, 2 / 3], rtol=1e-6)


def test_length_matched_with_one_bin_is_the_plain_rank():
    np.testing.assert_allclose(
        matched([0.1, 0.3, 0.2], [5, 50, 500], bins=1), [1 / 3, 3 / 3, 2 / 3], rtol=1e-6
    )


def test_length_matched_gives_ties_their_average_rank():
    np.testing.assert_allclose(matched([0.5, 0.5, 0.1, 0.9], [5] * 4), [2.5 / 4, 2.5 / 4, 1 / 4, 4 / 4])


def test_length_matched_keeps_equal_lengths_in_one_bin():
    # Six of eight lengths are equal: cut by position alone, two bins would part them.
    found = matched([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], [5, 5, 5, 5, 5, 5, 80, 90], bins=2)
    np.testing.assert_allclose(found, np.arange(1, 9) / 8, rtol=1e-6)


def test_length_matched_leaves_undefined_rows_out_of_the_ranks():
    found = matched([NAN, 0.1, NAN, 0.3], [5, 5, 5, 5])
    np.testing.assert_array_equal(found, [NAN, 0.5, NAN, 1.0])


def test_length_matched_leaves_undefined_rows_out_of_the_bins():
    found = matched([NAN] * 4 + [0.1, 0.2, 0.3, 0.4], [1, 1, 1, 1, 5, 6, 7, 8], bins=2)
    np.testing.assert_array_equal(found[4:], [0.5, 1.0, 0.5, 1.0])


def test_length_matched_is_nan_without_a_length():
    np.testing.assert_array_equal(matched([0.1, 0.2], [5, None]), [1.0, NAN])


def test_length_matched_passes_its_floor_on():
    found = LengthMatched(floor=0.25)(losses([0.2, 1.0], [0.1, 0.1]))
    np.testing.assert_array_equal(found, [NAN, 1.0])


@pytest.mark.parametrize("bins", [1, 2, 5, 10, 50, 100])
def test_length_matched_bins_have_equal_sizes(bins):
    # The best of each bin, and only it, scores 1.
    rng = np.random.default_rng(bins)
    assert matched(rng.permutation(100) / 100, list(range(100)), bins=bins).count(1.0) == bins


def test_length_matched_takes_as_many_from_each_bin():
    rng = np.random.default_rng(0)
    lengths = rng.permutation(200)
    found = matched(1 - lengths / 200, lengths.tolist(), bins=10)
    best = np.argsort(found)[-40:]
    assert Counter(lengths[best] // 20) == dict.fromkeys(range(10), 4)


def brute_force(scores, lengths, bins):
    """Do what the docstring says, one example at a time."""
    defined = [i for i, score in enumerate(scores) if not np.isnan(score)]

    def bin_of(i):
        return (sum(lengths[j] <= lengths[i] for j in defined) - 1) * bins // len(defined)

    found = [NAN] * len(scores)
    for i in defined:
        members = [scores[j] for j in defined if bin_of(j) == bin_of(i)]
        lower, equal = (
            sum(score < scores[i] for score in members),
            sum(score == scores[i] for score in members),
        )
        found[i] = (lower + (equal + 1) / 2) / len(members)
    return found


rows = st.lists(
    st.tuples(st.sampled_from([NAN, 0.0, 0.25, 0.5, 0.75, 1.0]), st.integers(1, 12)), min_size=1, max_size=25
)


@given(rows, st.integers(1, 12))
def test_length_matched_is_what_its_docstring_says(rows, bins):
    scores, lengths = map(list, zip(*rows, strict=True))
    np.testing.assert_allclose(
        matched(scores, lengths, bins=bins), brute_force(scores, lengths, bins), rtol=1e-6
    )


def pool_of_many(rows=200):
    rng = np.random.default_rng(0)
    before, tokens = rng.gamma(4, 0.5, size=rows), rng.integers(2, 200, size=rows)
    return losses(before, before * rng.uniform(0.2, 1.1, size=rows), tokens.tolist())


def test_what_is_left_of_a_corrected_score_follows_neither_length_nor_loss():
    frame = pool_of_many()
    score = BaselineCorrected()(frame)
    for name in ("response_tokens", "loss_before"):
        assert abs(np.corrcoef(score, frame[name].rank())[0, 1]) < 1e-5
    assert abs(score.mean()) < 1e-6
    assert np.corrcoef(score, Learnability()(frame))[0, 1] > 0.8


def test_a_row_that_learned_more_than_its_like_keeps_that():
    frame = pool_of_many().with_columns(loss_after=pl.col("loss_before") / 2)
    np.testing.assert_allclose(BaselineCorrected()(frame), 0, atol=1e-6)
    first = pl.int_range(pl.len()) == 0
    more = frame.with_columns(loss_after=pl.when(first).then(0.0).otherwise("loss_after").cast(pl.Float32))
    score = BaselineCorrected()(more)
    assert score[0] > 0.3
    assert np.abs(score[1:]).max() < 0.1


def token_losses(before, after):
    lists = pl.List(pl.Float32)
    return pl.DataFrame(
        {"token_losses_before": before, "token_losses_after": after},
        schema={"token_losses_before": lists, "token_losses_after": lists},
    )


def test_more_tokens_of_the_same_bring_the_bound_nearer():
    frame = token_losses([[2.0, 1.0], [2.0, 1.0] * 8], [[0.5, 1.0], [0.5, 1.0] * 8])
    assert LowerBound(errors=0)(frame) == pytest.approx([0.5, 0.5])
    short, long = LowerBound()(frame)
    assert short < long < 0.5
    assert LowerBound(errors=2)(frame)[1] == pytest.approx(2 * long - 0.5)


def test_no_bound_where_nothing_tells_how_tokens_vary():
    assert np.isnan(LowerBound()(token_losses([[2.0], None], [[1.0], [1.0]]))).all()


@pytest.mark.parametrize("wrong", [lambda: LowerBound(errors=-1), lambda: BaselineCorrected(knots=-1)])
def test_settings_of_scores_for_short_answers_are_checked(wrong):
    with pytest.raises(UsageError):
        wrong()


def test_learnability_with_another_power():
    found = [Learnability(power=power)(losses([4.0], [1.0])).item() for power in (0, 0.5, 1)]
    assert found == [3.0, 1.5, 0.75]


def test_soft_learnability_is_the_power_of_one_half():
    frame = losses([0.3, 5.0], [0.1, 6.0])
    np.testing.assert_array_equal(SoftLearnability()(frame), Learnability(power=0.5)(frame))


def ends(before, after, tokens=(4,), end_tokens=(1,), end_before=(1.0,), end_after=(1.0,)):
    columns = {"response_tokens": tokens, "end_tokens": end_tokens}
    columns |= {"end_nll_before": end_before, "end_nll_after": end_after}
    return losses(before, after).with_columns(pl.Series(name, values) for name, values in columns.items())


def test_learnability_without_the_end_of_turn_is_that_of_the_other_tokens():
    frame = ends([2.0], [0.5], end_before=[5.0], end_after=[0.5])  # 8 to 2 nats; without the end 3 to 1.5
    assert Learnability()(frame).item() == 0.75
    assert Learnability(end_of_turn=False)(frame).item() == TextLearnability()(frame).item() == 0.5
    # Per token left: 1 to 0.5 nats.
    assert Learnability(end_of_turn=False, power=0.0)(frame).item() == 0.5


def test_an_answer_of_nothing_but_its_end_has_no_text_to_learn():
    assert np.isnan(TextLearnability()(ends([2.0], [0.5], tokens=[1])).item())


def test_an_answer_that_was_cut_off_has_no_end():
    frame = ends([2.0], [0.5], end_tokens=[0], end_before=[0.0], end_after=[0.0])
    assert TextLearnability()(frame).item() == Learnability()(frame).item()


@pytest.mark.parametrize("lacking", ["end_nll_before", "end_nll_after", "loss_before", "end_tokens"])
def test_text_learnability_is_nan_where_something_is_not_known(lacking):
    frame = ends([2.0], [0.5]).with_columns(pl.lit(None).cast(pl.Float32).alias(lacking))
    assert np.isnan(TextLearnability()(frame).item())


@pytest.mark.parametrize("fall", [0.0, -1.0])
def test_of_a_loss_that_does_not_fall_no_share_is_known(fall):
    assert end_of_turn_share(ends([2.0], [2.0 - fall])) is None


def test_rows_whose_ends_are_not_known_do_not_count():
    frame = ends([2.0, 2.0], [1.0, 1.0], (4, 4), (1, 1), (3.0, NAN), (1.0, 1.0))
    assert end_of_turn_share(frame) == 0.5


def test_perplexity_ranks_like_the_loss():
    rng = np.random.default_rng(0)
    frame = losses(rng.gamma(2, 2, size=50), np.ones(50))
    assert np.argsort(Perplexity()(frame)).tolist() == np.argsort(Loss()(frame)).tolist()


def test_a_perplexity_too_large_for_a_number_is_the_largest_number():
    assert Perplexity()(losses([1e4], [1.0])).tolist() == [float(np.finfo(np.float32).max)]


def test_a_perplexity_that_explodes_makes_a_drop_of_finite_size():
    assert np.isfinite(PerplexityDrop()(losses([0.5, 1e4, 1e4], [1e4, 0.5, 1e4]))).all()


def test_middle_perplexity_leaves_undefined_rows_out_of_the_ranks():
    np.testing.assert_allclose(
        PerplexityMiddle()(losses([NAN, 1.0, 3.0, INF, 2.0], [1.0] * 5)),
        np.array([NAN, 1 / 3, 1 / 3, NAN, 0], dtype=np.float32),
        atol=1e-7,
    )


def test_middle_perplexity_of_equal_losses_is_the_middle():
    np.testing.assert_array_equal(PerplexityMiddle()(losses([2.0] * 4, [1.0] * 4)), [0.0] * 4)


@pytest.mark.parametrize(("tokens", "score"), [(7, 7.0), (0, NAN), (None, NAN)])
def test_length_is_nan_without_a_response(tokens, score):
    np.testing.assert_array_equal(Length()(losses([1.0], [1.0], [tokens])), [score])


def alone(before, without):
    columns = {"loss_before": before, "loss_alone": without}
    return pl.DataFrame(columns, schema={"loss_before": pl.Float32, "loss_alone": pl.Float32})


@pytest.mark.parametrize("ratio", ["loss", "perplexity"])
@pytest.mark.parametrize(
    ("before", "without"), [(NAN, 1.0), (1.0, NAN), (None, 1.0), (1.0, None), (INF, 1.0), (1.0, INF)]
)
def test_ifd_is_nan_where_a_loss_is_no_number(ratio, before, without):
    found = IFD(ratio=ratio)(alone([1.0, before], [2.0, without]))
    assert np.isnan(found).tolist() == [False, True]


@pytest.mark.parametrize(("without", "defined"), [(0.0, False), (0.25, False), (0.26, True)])
def test_ifd_is_undefined_at_and_under_the_floor(without, defined):
    assert np.isfinite(IFD(floor=0.25)(alone([0.1], [without]))).tolist() == [defined]


def test_the_ratio_of_perplexities_has_no_floor():
    assert IFD(ratio="perplexity")(alone([0.0], [0.0])).tolist() == [1.0]


def tokens(before, without):
    kind = pl.List(pl.Float32)
    columns = {"token_losses_before": before, "token_losses_alone": without}
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, kind))


@pytest.mark.parametrize("wrong", [None, [], [NAN, 1.0], [None, 1.0], [INF, 1.0]], ids=str)
def test_top_share_ifd_is_nan_where_a_token_is_no_number(wrong):
    for pair in ([wrong], [[1.0, 1.0]]), ([[1.0, 1.0]], [wrong]):
        if wrong == []:
            pair = ([wrong], [wrong])
        found = TopShareIFD()(tokens([[1.0, 2.0], *pair[0]], [[2.0, 1.0], *pair[1]]))
        assert np.isnan(found).tolist() == [False, True]


def test_top_share_ifd_of_undefined_rows_alone_is_undefined():
    assert np.isnan(TopShareIFD()(tokens([None, []], [None, []]))).all()


def test_undefined_rows_do_not_move_the_threshold():
    before, without = [[1.0, 5.0, 2.0], [3.0, 0.0]], [[2.0, 1.0, 2.5], [1.0, 0.2]]
    expected = TopShareIFD()(tokens(before, without))
    found = TopShareIFD()(tokens([*before, [NAN] * 9], [*without, [9.0] * 9]))
    np.testing.assert_array_equal(found[:2], expected)


def test_an_answer_without_informative_tokens_scores_one():
    assert TopShareIFD()(tokens([[1.0], [9.0]], [[1.1], [1.0]]))[0] == 1


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_top_share_ifd_wants_a_share(share):
    with pytest.raises(UsageError, match="share must be above 0 and at most 1"):
        TopShareIFD(share=share)


# What a selection makes of a scorer's own rules.


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    rows = write_messages(toy_examples(40), folder / "mine.jsonl")
    return verbs.load([str(rows)], output=str(folder / "pool"))


@pytest.fixture(scope="module")
def scored(pool, tiny, tmp_path_factory):
    """Score a pool, and return the outcome."""
    folder = tmp_path_factory.mktemp("scored")

    def score(*scorers, vectors="none"):
        return verbs.score(
            [pool.path],
            model=str(tiny),
            scorers=list(scorers),
            vectors=vectors,
            loading=Loading(dtype="float32"),
            store=str(folder / "store"),
            output=str(folder / "scores-{fingerprint}"),
        )

    return score


def chosen(outcome, tmp_path, *, budget, **given):
    how = Selecting(**given)
    done = verbs.select(outcome.path, budget=budget, output=str(tmp_path / "selection"), choosing=how)
    kept = pl.read_parquet(done.folder / "kept.parquet")
    dropped = pl.read_parquet(done.folder / "dropped.parquet")
    return kept, dropped


def above_one(outcome):
    frame = pl.read_parquet(outcome.folder / "scores.parquet")
    found = set(frame.filter(pl.col("ifd") > 1)["id"])
    assert 0 < len(found) < frame.height, "there is something to leave out, and something to keep"
    return found


def test_ifd_above_one_is_left_out_and_the_ledger_says_so(scored, tmp_path):
    outcome = scored("ifd", "length")
    out = above_one(outcome)
    kept, dropped = chosen(outcome, tmp_path, by="ifd", budget="100%")
    assert not set(kept["id"]) & out
    assert set(dropped.filter(pl.col("reason") == "ifd > 1")["id"]) == out
    assert "ifd > 1" in (tmp_path / "selection" / "dropped.jsonl").read_text()


def test_ifd_above_one_is_kept_when_asked_for(scored, tmp_path):
    outcome = scored("ifd", "length")
    kept, _ = chosen(outcome, tmp_path, by="ifd", budget="100%", max_score=INF)
    assert above_one(outcome) <= set(kept["id"])


def test_a_lower_limit_of_the_user_holds_instead(scored, tmp_path):
    _, dropped = chosen(scored("ifd", "length"), tmp_path, by="ifd", max_score=0.9, budget="1")
    assert "ifd > 0.9" in dropped["reason"].to_list()
    assert "ifd > 1" not in dropped["reason"].to_list()


def test_the_limit_of_ifd_is_not_put_on_other_scores(scored, tmp_path):
    kept, _ = chosen(scored("ifd", "length"), tmp_path, by="length", budget="100%")
    assert kept.height == 40


def test_a_score_of_which_low_is_good_keeps_the_lowest(scored, tmp_path):
    outcome = scored("perplexity_middle")
    kept, _ = chosen(outcome, tmp_path, by="perplexity_middle", budget="5")
    frame = pl.read_parquet(outcome.folder / "scores.parquet").sort("perplexity_middle")
    assert kept.join(frame, on="id")["perplexity_middle"].max() == frame["perplexity_middle"][4]


def test_lowest_turns_a_score_of_which_low_is_good_around(scored, tmp_path):
    outcome = scored("perplexity_middle")
    kept, _ = chosen(outcome, tmp_path, by="perplexity_middle", budget="2", lowest=True)
    frame = pl.read_parquet(outcome.folder / "scores.parquet")
    extremes = frame.filter(
        pl.col("loss_before").is_in([frame["loss_before"].min(), frame["loss_before"].max()])
    )
    assert set(kept["id"]) == set(extremes["id"])


@pytest.mark.parametrize(
    "given",
    [{"selector": "k_center"}, {"per_cluster": "equal"}, {"max_similarity": 0.9}],
    ids=lambda given: next(iter(given.values())),
)
def test_what_looks_at_likeness_needs_vectors(scored, tmp_path, given):
    with pytest.raises(SelectionError, match="needs a vector for every example") as caught:
        chosen(scored("length"), tmp_path, by="length", budget="5", **given)
    assert "--vectors" in caught.value.hint


@pytest.mark.parametrize("vectors", ["model", "wordllama"])
@pytest.mark.parametrize(
    "given", [{"selector": "k_center"}, {"per_cluster": "equal", "clusters": 4}], ids=str
)
def test_what_looks_at_likeness_works_with_vectors(scored, tmp_path, vectors, given):
    if vectors == "wordllama" and not importlib.util.find_spec("wordllama"):
        pytest.skip("the word vectors are not installed")
    kept, _ = chosen(scored("length", vectors=vectors), tmp_path, by="length", budget="8", **given)
    assert kept.height == 8


def test_near_duplicates_are_dropped_by_the_vectors_of_the_model(scored, tmp_path):
    _, dropped = chosen(
        scored("length", vectors="model"), tmp_path, by="length", budget="5", max_similarity=0.5
    )
    assert any(reason.startswith("near-duplicate of") for reason in dropped["reason"])


# One pass for all formulas.


@pytest.fixture
def passes(pool, tiny, tmp_path):
    """Score into a store of this test alone; return the outcome."""

    def score(*scorers, dry_run=False):
        return verbs.score(
            [pool.path],
            model=str(tiny),
            scorers=list(scorers),
            loading=Loading(dtype="float32"),
            store=str(tmp_path / "store"),
            dry_run=dry_run,
            output=str(tmp_path / "scores-{fingerprint}"),
        )

    return score


def test_formulas_share_one_base_pass_and_one_pass_of_the_answers_alone(passes, tiny):
    outcome = passes("ifd", "top_share_ifd", "loss", "perplexity")
    frame = pl.read_parquet(outcome.folder / "scores.parquet")
    header = len(Renderer.of(ModelRef(name=str(tiny))).answer_header.ids)
    once = frame["tokens"].sum() + (frame["response_tokens"] + header).sum()
    assert outcome.cost.tokens == once


@pytest.fixture
def referred(pool, tiny, tmp_path):
    """Score against a reference of the pool; return the outcome."""
    how = {"loading": Loading(dtype="float32"), "model": str(tiny)}
    settings = Reference(learning_rate=1e-2, batch_size=4, rank=2)
    trained = verbs.train([pool.path], reference=settings, output=str(tmp_path / "reference"), **how)

    def score(*scorers, output="scores-{fingerprint}", reference=trained.path):
        return verbs.score(
            [pool.path],
            reference=reference,
            scorers=list(scorers),
            store=str(tmp_path / "store"),
            output=str(tmp_path / output),
            **how,
        )

    return score


def test_a_table_of_scores_says_which_part_of_the_losses_is_that_of_the_ends(referred, pool, tiny, tmp_path):
    outcome = referred("learnability")
    frame = pl.read_parquet(outcome.folder / "scores.parquet")
    model = LanguageModel(ModelRef(name=str(tiny), dtype="float32"))
    rendered = model.renderer.render(list(data.load_pool(pool.folder).iter_examples()), max_length=256)
    with model.adapter(tmp_path / "reference" / "part-0"):
        after = model.token_nll(rendered)
    for name, losses in (("before", model.token_nll(rendered)), ("after", after)):
        np.testing.assert_allclose(frame[f"end_nll_{name}"], [each[-1] for each in losses], rtol=1e-4)
    assert frame["end_tokens"].to_list() == [1] * 40
    assert outcome.facts["end of turn"] == pytest.approx(end_of_turn_share(frame), abs=1e-4)


def test_text_learnability_after_learnability_costs_no_pass(referred):
    assert referred("learnability").cost.tokens > 0
    outcome = referred("learnability", "text_learnability")
    assert outcome.cost.tokens == 0
    frame = pl.read_parquet(outcome.folder / "scores.parquet")
    rest = [
        frame[f"loss_{when}"] * frame["response_tokens"] - frame[f"end_nll_{when}"]
        for when in ("before", "after")
    ]
    np.testing.assert_allclose(frame["text_learnability"], 1 - rest[1] / rest[0], rtol=1e-4)


def test_the_losses_of_the_last_epoch_know_no_ends(pool, tiny, tmp_path):
    how = {"loading": Loading(dtype="float32"), "model": str(tiny)}
    settings = Reference(batch_size=4, rank=2, last_epoch_loss=True)
    trained = verbs.train([pool.path], reference=settings, output=str(tmp_path / "reference"), **how)
    given = {
        "reference": trained.path,
        "store": str(tmp_path / "store"),
        "output": str(tmp_path / "scores"),
        **how,
    }
    with pytest.raises(UsageError, match="last epoch"):
        verbs.score([pool.path], scorers=["text_learnability"], **given)
    assert verbs.score([pool.path], scorers=["learnability"], **given).facts["end of turn"] == "not known"


def test_the_price_of_shared_passes_is_that_of_one_each(passes):
    price = passes("ifd", "top_share_ifd", "loss", "perplexity", dry_run=True).facts["would run"]
    assert price == ["1 base pass over 40 examples", "1 answer-alone pass over 40 examples"]


def test_another_formula_over_what_is_stored_costs_nothing(passes):
    passes("ifd", "loss")
    assert passes("perplexity", "perplexity_middle", "ifd").cost.tokens == 0


def test_another_formula_over_the_tokens_costs_nothing(passes):
    passes("top_share_ifd")
    assert passes("top_share_ifd", "ifd", "perplexity").cost.tokens == 0


def test_length_costs_no_pass(passes):
    outcome = passes("length")
    assert outcome.cost.tokens == 0
    assert passes("length", dry_run=True).facts["would run"] == ["done already"]


def test_the_table_of_scores_holds_one_number_in_each_cell(passes):
    frame = pl.read_parquet(passes("top_share_ifd").folder / "scores.parquet")
    assert not [name for name, kind in frame.schema.items() if isinstance(kind, pl.List)]
    assert frame["loss_before"].is_finite().all()
