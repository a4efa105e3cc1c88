"""The equations of the papers, worked by hand with numbers that can be checked on paper."""

import numpy as np
import polars as pl
import pytest

from learnable.registry import build
from learnable.scorers import SCORERS, Difference, Learnability
from learnable.selectors import Thresholds, choose
from learnable.types import Budget

#                  easy  hard  learnable  worse  half
LOSS_BEFORE = [0.5, 4.0, 2.0, 1.0, 8.0]
LOSS_AFTER = [0.25, 3.0, 0.5, 1.5, 4.0]
RESPONSE_TOKENS = [9, 9, 9, 90, 90]

WORKED = {
    # LoBaSS (2310.13008 v1) and DavIR (v2), final form: S = (L_base - L_ref) / L_base
    "learnability": [0.25 / 0.5, 1 / 4, 1.5 / 2, -0.5 / 1, 4 / 8],
    # LoBaSS section 3.3 before normalization, "RHO-LM" in DavIR: S = L_base - L_ref
    "difference": [0.25, 1.0, 1.5, -0.5, 4.0],
    # The baseline "highest loss": S = L_base
    "loss": [0.5, 4.0, 2.0, 1.0, 8.0],
    # Ours: average rank of the learnability among responses of one length over their number;
    # among 0.5, 0.25, 0.75 (9 tokens) and among -0.5, 0.5 (90 tokens)
    "length_matched": [2 / 3, 1 / 3, 3 / 3, 1 / 2, 2 / 2],
}


def losses(before=LOSS_BEFORE, after=LOSS_AFTER):
    tokens = (RESPONSE_TOKENS * len(before))[: len(before)]
    columns = {"loss_before": before, "loss_after": after, "response_tokens": tokens}
    schema = {"loss_before": pl.Float32, "loss_after": pl.Float32, "response_tokens": pl.Int64}
    return pl.DataFrame(columns, schema=schema)


def test_every_scorer_is_worked_by_hand():
    assert set(WORKED) == set(SCORERS)


@pytest.mark.parametrize("name", SCORERS)
def test_scorer_gives_the_numbers_worked_by_hand(name):
    scores = build("scorer", name, SCORERS)(losses())
    np.testing.assert_array_equal(scores, np.array(WORKED[name], dtype=np.float32))


def test_lobass_learnability_is_one_minus_the_ratio_of_the_losses():
    expected = [1 - after / before for before, after in zip(LOSS_BEFORE, LOSS_AFTER, strict=True)]
    np.testing.assert_allclose(Learnability()(losses()), expected, rtol=1e-6)


def test_lobass_learnability_is_the_same_for_sums_and_means_over_tokens():
    sums = losses(before=[17 * loss for loss in LOSS_BEFORE], after=[17 * loss for loss in LOSS_AFTER])
    np.testing.assert_allclose(Learnability()(sums), Learnability()(losses()), rtol=1e-6)


def test_davir_normalization_undoes_the_preference_for_a_high_base_loss():
    # Example 4 loses most nats, example 2 the greatest share of its loss.
    picked = [int(np.argmax(scorer(losses()))) for scorer in (Difference(), Learnability())]
    assert picked == [4, 2]


def test_davir_appendix_c_dividing_by_the_reference_loss_ranks_alike():
    before, after = np.array(LOSS_BEFORE), np.array(LOSS_AFTER)
    assert (
        np.argsort(Learnability()(losses())).tolist()
        == np.argsort((before - after) / after, kind="stable").tolist()
    )


def test_lobass_section_3_3_prefers_what_was_hard_and_became_easy():
    known_already, too_hard, learnable = Learnability()(
        losses(before=[0.1, 4.0, 4.0], after=[0.09, 3.6, 0.4])
    )
    assert learnable > max(known_already, too_hard)


def scored():
    frame = losses().with_columns(
        id=pl.Series(["easy", "hard", "learnable", "worse", "half"]), source=pl.lit("s")
    )
    return frame.with_columns(learnability=pl.Series(Learnability()(frame)))


@pytest.mark.parametrize(
    ("thresholds", "left"),
    [
        (Thresholds(min_loss_before=1.0), {"hard", "learnable", "worse", "half"}),
        (Thresholds(max_loss_after=2.0), {"easy", "learnable", "worse"}),
        (Thresholds(min_score=0.5), {"easy", "learnable", "half"}),
        (Thresholds(min_loss_before=1.0, max_loss_after=2.0, min_score=0.5), {"learnable"}),
    ],
    ids=["known already", "too hard", "not learned", "all three"],
)
def test_lobass_section_3_3_conditions_drop(thresholds, left):
    selection = choose(scored(), by="learnability", budget=Budget(examples=5), thresholds=thresholds)
    assert set(selection.kept["id"]) == left


def test_lobass_keeps_the_top_k_by_learnability():
    # 0.75, then 0.5 twice (ids in order); "hard" with 0.25 and "worse" with -0.5 stay out.
    selection = choose(scored(), by="learnability", budget=Budget(fraction=0.6))
    assert selection.kept["id"].to_list() == ["learnable", "easy", "half"]
