"""Preferences: what the nll of two answers says, which pairs a training sees, and a run from pairs to a table."""

import math

import numpy as np
import polars as pl
import pytest
from scipy.stats import spearmanr

from learnable.data.pairs import answers_of
from learnable.errors import DataError, UsageError
from learnable.evaluators import Evaluation
from learnable.evaluators.heldout import Heldout
from learnable.experiments import RANDOM, UNTUNED, Arm, interval, run_arms
from learnable.experiments.preferences import (
    ACCURACY,
    CHOSEN,
    LENGTH_BIAS,
    MARGIN,
    NO_BIAS,
    SHORTER,
    PairArms,
    RenderedPair,
    check_ways,
    clustered,
    margins,
    pair_table,
    preference_results,
    pseudo_rho,
)
from learnable.models.language_model import LanguageModel
from learnable.models.rendering import Renderer
from learnable.objectives import DPO, DavIR
from learnable.objects.preferences import check_loss, loss_of, reference_nll, rendered_pairs
from learnable.runs.store import Store
from learnable.settings import Tuning
from learnable.testing import toy_examples
from learnable.types import ModelRef, Rendered
from pairing import pair_of


def answer(name, response_tokens, tokens=None):
    ids = np.zeros(tokens or response_tokens + 4, dtype=np.int32)
    return Rendered(id=name, ids=ids, mask=np.arange(len(ids)) >= len(ids) - response_tokens, truncated=False)


def pair(name, chosen_tokens, rejected_tokens, *, prompt=None, source="s"):
    chosen, rejected = answer(f"{name}+", chosen_tokens), answer(f"{name}-", rejected_tokens)
    return RenderedPair(id=name, prompt=prompt or name, source=source, chosen=chosen, rejected=rejected)


def losses(pairs, arms):
    """Return results of an experiment: by arm and pair, the nll of the chosen and of the rejected answer."""
    lines = [
        (arm, None if arm == UNTUNED else 100, 0, "answers", side.id, "s", nll / int(side.mask.sum()))
        for arm, nlls in arms.items()
        for each, both in zip(pairs, nlls, strict=True)
        for side, nll in zip(each.answers, both, strict=True)
    ]
    names = {"arm": pl.String, "budget_tokens": pl.Int64, "seed": pl.Int64, "evaluation": pl.String}
    return pl.DataFrame(
        lines, schema=names | {"id": pl.String, "source": pl.String, "value": pl.Float64}, orient="row"
    )


PAIRS = [pair("a", 10, 4), pair("b", 3, 9), pair("c", 5, 5)]
BEFORE = [(50.0, 20.0), (10.0, 30.0), (8.0, 8.0)]
AFTER = [(45.0, 21.0), (11.0, 30.0), (8.0, 8.0)]


def test_margins_are_gains_over_the_untuned_model():
    found = margins(losses(PAIRS, {UNTUNED: BEFORE, "random": AFTER}), PAIRS).filter(arm="random")
    np.testing.assert_allclose(found["margin"], [6.0, -1.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(found["relative"], [5 / 50 + 1 / 20, -1 / 10, 0.0], atol=1e-9)
    np.testing.assert_allclose(found["chosen"], [4.5, 11 / 3, 1.6])


def test_accuracy_counts_ties_half_and_shorter_choices_apart():
    found, measured = preference_results(losses(PAIRS, {UNTUNED: BEFORE, "random": AFTER}), {"": PAIRS})
    means = {
        key: part["value"].mean()
        for key, part in found.filter(arm="random").group_by("evaluation", maintain_order=True)
    }
    assert means[ACCURACY,] == pytest.approx(0.5)
    assert means[SHORTER,] == pytest.approx(0.0)
    assert means[MARGIN,] == pytest.approx(5 / 3)
    assert means[CHOSEN,] == pytest.approx(np.mean([4.5, 11 / 3, 1.6]))
    assert {each.label for each in measured if each.higher_is_better} == {ACCURACY, SHORTER, MARGIN}


def test_the_untuned_model_prefers_nothing():
    found, _ = preference_results(losses(PAIRS, {UNTUNED: BEFORE, "random": AFTER}), {"": PAIRS})
    untuned = found.filter(arm=UNTUNED)
    assert untuned.filter(evaluation=ACCURACY)["value"].to_list() == [0.5, 0.5, 0.5]
    assert untuned.filter(evaluation=LENGTH_BIAS)["value"].is_nan().all()


def test_a_perfect_ranking_is_an_accuracy_of_1():
    after = [(chosen - 1, rejected + 1) for chosen, rejected in BEFORE]
    found, _ = preference_results(losses(PAIRS, {UNTUNED: BEFORE, "random": after}), {"": PAIRS})
    assert found.filter(arm="random", evaluation=ACCURACY)["value"].to_list() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "after", [[(45.0, 20.0), (11.0, 30.0)], [(55.0, 20.0), (9.0, 30.0)]], ids=["long", "short"]
)
def test_of_a_length_bias_the_size_counts(after):
    found, _ = preference_results(
        losses(PAIRS, {UNTUNED: BEFORE, "random": [*after, BEFORE[2]]}), {"": PAIRS}
    )
    assert found.filter(arm="random", evaluation=LENGTH_BIAS)["value"].mean() == pytest.approx(1.0)


def test_a_length_bias_of_equal_lengths_is_undefined_and_says_why():
    alike = [pair(name, 5, 5) for name in "abc"]
    found, _ = preference_results(losses(alike, {UNTUNED: BEFORE, "random": AFTER}), {"": alike})
    bias = found.filter(evaluation=LENGTH_BIAS)
    assert bias["value"].is_nan().all()
    assert bias["why"].unique().to_list() == [NO_BIAS]
    assert found.filter(evaluation=MARGIN)["why"].unique().to_list() == [""]


def test_a_pair_without_a_loss_is_not_graded():
    after = [(math.nan, 21.0), *AFTER[1:]]
    found, _ = preference_results(losses(PAIRS, {UNTUNED: BEFORE, "random": after}), {"": PAIRS})
    first = found.filter(arm="random", evaluation=ACCURACY)["value"]
    assert math.isnan(first[0])
    assert first[1:].to_list() == [0.0, 0.5]


class TestClustered:
    def test_pairs_of_one_prompt_are_one_item(self):
        found = clustered(
            pl.Series(["p", "p", "q", "q"]), pl.Series(["s"] * 4), np.array([1.0, 0.0, 1.0, 1.0])
        )
        assert found["id"].to_list() == ["p", "q"]
        assert found["value"].to_list() == [0.5, 1.0]

    def test_the_mean_is_that_of_the_pairs_and_the_spread_that_of_a_ratio(self):
        rng = np.random.default_rng(0)
        sizes = rng.integers(1, 9, size=60)
        clusters = np.repeat(np.arange(60), sizes)
        values = rng.normal(size=60)[clusters] + rng.normal(size=len(clusters))
        found = clustered(pl.Series(clusters).cast(pl.String), pl.Series(["s"] * len(values)), values)
        assert found["value"].mean() == pytest.approx(values.mean())
        # The cluster-robust standard error of a mean.
        sums = np.array([(values[clusters == each] - values.mean()).sum() for each in range(60)])
        assert found["value"].std() / math.sqrt(60) == pytest.approx(
            math.sqrt((sums**2).sum() * 60 / 59) / len(values)
        )

    def test_a_prompt_without_a_value_has_none(self):
        found = clustered(pl.Series(["p", "q"]), pl.Series(["s", "s"]), np.array([np.nan, 1.0]))
        assert math.isnan(found["value"][0])
        assert found["value"][1] == 1.0


class TestRho:
    def test_its_mean_is_that_of_scipy_with_ties(self):
        rng = np.random.default_rng(0)
        one, other = rng.normal(size=80), rng.integers(0, 9, size=80).astype(float)
        assert pseudo_rho(one + other, other).mean() == pytest.approx(spearmanr(one + other, other).statistic)

    def test_its_interval_holds_rho(self):
        """Of a normal sample whose true rho is known, in most of 200 draws."""
        rng, true = np.random.default_rng(1), 6 / math.pi * math.asin(0.6 / 2)
        inside = 0
        for _ in range(200):
            one = rng.normal(size=100)
            found = interval(pseudo_rho(one, 0.6 * one + 0.8 * rng.normal(size=100))[None], draws=2_000)
            inside += found.low <= true <= found.high
        assert inside >= 180

    def test_it_is_undefined_where_nothing_varies(self):
        assert np.isnan(pseudo_rho(np.zeros(9), np.arange(9.0))).all()


POOL = [pair(f"p{number}", 3 + number % 5, 4, source=f"s{number % 2}") for number in range(20)]
GAPS = {each.id: number - 10.0 for number, each in enumerate(POOL)}
REFERENCE = pl.DataFrame(
    {"id": [one.id for each in POOL for one in each.answers], "reference_nll": [5.0] * 40}
)


def arms(*ways, losses=None, shares=(0.5, 1.0), seeds=2, alone=False):
    planned = PairArms(
        pairs=POOL,
        table=pair_table(POOL, GAPS),
        losses=losses or {"sigmoid": DPO()},
        ways=ways,
        shares=shares,
        alone=alone,
    )
    found = planned.arms(
        base=ModelRef(name="m"), tuning=Tuning(batch_size=4), seeds=seeds, reference=REFERENCE
    )
    return planned, found


class TestArms:
    def test_a_share_of_1_is_all_pairs_in_one_way_only(self):
        _, found = arms("small_gap")
        whole = [arm for arm in found if len(arm.ids) == 2 * len(POOL)]
        assert [(arm.label, arm.seed) for arm in whole] == [("random", 0), ("random", 1)]

    def test_answers_of_a_pair_lie_beside_each_other_with_their_reference(self):
        _, found = arms("small_gap")
        arm = next(arm for arm in found if arm.label == "small_gap")
        assert all(
            chosen.id[:-1] == rejected.id[:-1] and chosen.id.endswith("+")
            for chosen, rejected in arm.examples_by_stage[0]
        )
        assert sorted(arm.stored["id"]) == sorted(arm.ids)

    @pytest.mark.parametrize(
        ("way", "first"), [("small_gap", "p0"), ("large_gap", "p19"), ("small_abs_gap", "p10")]
    )
    def test_the_first_pair_of_each_way(self, way, first):
        _, found = arms(way)
        assert next(arm for arm in found if arm.label == way).ids[0] == f"{first}+"

    def test_random_pairs_are_drawn_anew_for_each_seed(self):
        _, found = arms()
        half = [frozenset(arm.ids) for arm in found if arm.label == "random" and len(arm.ids) < 40]
        assert len(half) == len(set(half)) == 2

    def test_at_a_budget_all_arms_take_equally_many_steps(self):
        _, found = arms("longest_difference", "small_gap")
        steps = {}
        for arm in found:
            steps.setdefault(arm.budget_tokens, set()).add(arm.tuning.steps)
        assert all(len(each) == 1 for each in steps.values())

    def test_another_loss_trains_on_the_same_pairs_at_the_largest_share(self):
        planned, found = arms(losses={"sigmoid": DPO(), "davir": DavIR()})
        other = {arm.seed: arm for arm in found if arm.label == "davir"}
        same = {arm.seed: arm for arm in found if arm.label == planned.baseline and len(arm.ids) == 40}
        assert {seed: arm.ids for seed, arm in other.items()} == {seed: arm.ids for seed, arm in same.items()}
        assert all(arm.objective == DavIR() for arm in other.values())
        assert (planned.baseline, planned.labels) == ("sigmoid", ["davir"])

    def test_a_source_alone_stands_beside_a_draw_of_as_many_tokens(self):
        planned, found = arms(alone=True, shares=(1.0,), seeds=1)
        assert planned.labels == ["s0 alone", "s1 alone"]
        budgets = {arm.label: arm.budget_tokens for arm in found if arm.label.endswith("alone")}
        assert budgets.keys() == {"s0 alone", "s1 alone"}
        assert {*budgets.values()} <= {arm.budget_tokens for arm in found if arm.label == "random"}

    def test_a_way_that_is_not_known_is_named(self):
        with pytest.raises(UsageError, match="no way to choose pairs called 'smallgap'"):
            check_ways(["random", "smallgap"])


@pytest.fixture(scope="module")
def ref(tiny):
    return ModelRef(name=str(tiny), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def pairs():
    chosen, rejected = toy_examples(12, seed=1), toy_examples(12, seed=2)
    both = zip(chosen, rejected, strict=True)
    return [pair_of(one.messages[:1], one.messages[1], two.messages[1], source="toy") for one, two in both]


class TestAsTheModelSeesThem:
    def test_pairs_that_do_not_fit_are_left_out_with_a_reason(self, ref, pairs):
        lengths = [len(each.ids) for each in Renderer.of(ref).render(answers(pairs), max_length=128)]
        most = sorted(lengths)[-1] - 1
        kept, dropped = rendered_pairs(Renderer.of(ref), pairs, max_length=most, most_refused=0)
        assert len(kept) == len(pairs) - len(dropped) < len(pairs)
        assert set(dropped.values()) == {f"with an answer beyond {most} tokens"}

    def test_no_pair_at_all_is_an_error(self, ref, pairs):
        with pytest.raises(DataError, match="none of 12 pairs can be compared"):
            rendered_pairs(Renderer.of(ref), pairs, max_length=8, most_refused=0)

    def test_pairs_of_one_prompt_have_one_key(self, ref, pairs):
        other = pair_of(pairs[0].prompt, pairs[1].chosen, pairs[2].chosen, source="toy")
        seen, _ = rendered_pairs(Renderer.of(ref), [*pairs[:2], other], max_length=128, most_refused=0)
        assert seen[0].prompt == seen[2].prompt != seen[1].prompt

    def test_the_nll_of_the_reference_is_that_of_the_model_and_measured_once(self, ref, pairs, tmp_path):
        seen, _ = rendered_pairs(Renderer.of(ref), pairs, max_length=128, most_refused=0)
        options = {"max_length": 128, "store": Store(tmp_path)}
        found, tokens = reference_nll(ref, seen, **options)
        again, none = reference_nll(ref, seen, **options)
        rows = [row for each in seen for row in each.answers]
        expected = dict(zip([row.id for row in rows], LanguageModel(ref).nll(rows), strict=True))
        assert found["reference_nll"].to_list() == pytest.approx([expected[one] for one in found["id"]])
        assert tokens == sum(map(len, (row.ids for row in rows)))
        assert (none, again.equals(found)) == (0, True)


def answers(pairs):
    return [answer for each in pairs for answer in answers_of(each)]


class TestLosses:
    reference = pl.DataFrame({"id": ["a", "b", "c"], "reference_nll": [0.5, 40.0, 60.0]})

    def test_the_beta_of_davir_goes_with_the_reference_where_none_is_given(self):
        loss, notes = loss_of("davir", self.reference)
        assert loss == DavIR(beta=4.0)
        assert "1 of 3 answers" in notes[0]

    @pytest.mark.parametrize(("beta", "far"), [("0.1", True), ("3", False), ("100", True)])
    def test_a_beta_that_is_far_off_is_said(self, beta, far):
        loss, notes = loss_of(f"davir@beta={beta}", self.reference[1:])
        assert loss == DavIR(beta=float(beta))
        assert bool(notes) == far

    def test_a_name_that_is_not_known_is_an_error(self):
        with pytest.raises(UsageError, match="no loss called 'sigmod'"):
            check_loss("sigmod")


def test_an_arm_of_pairs_is_trained_with_its_reference_and_graded(ref, pairs, tmp_path):
    """The whole way of the engine: stored nll, objective, store, grades; the second time nothing is trained."""
    seen, _ = rendered_pairs(Renderer.of(ref), pairs, max_length=128, most_refused=0)
    nll, _ = reference_nll(ref, seen, max_length=128, store=Store(tmp_path))
    rows = tuple(row for each in seen for row in each.answers)
    shared = {"seed": 0, "base": ref, "tuning": Tuning(learning_rate=1e-2, batch_size=4, epochs=4)}
    trained = Arm(label=RANDOM, stages=(rows,), objective=DPO(), stored=nll, **shared)
    evaluation = Evaluation(label="answers", evaluator=Heldout(), examples=answers(pairs))
    how = {"max_length": 128, "store": tmp_path, "open_model": LanguageModel, "confidence": 0.95}
    run = [
        run_arms([Arm(label=UNTUNED, stages=(), **shared), trained], [evaluation], baseline=RANDOM, **how)
        for _ in range(2)
    ]
    found = margins(run[0].frames["results"], seen).filter(arm=RANDOM)
    assert (found["margin"] > 0).all()
    model = LanguageModel(ref)
    with model.adapter(run[0].trained[1].folder):
        gain = nll["reference_nll"].to_numpy() - model.nll(list(rows))
    np.testing.assert_allclose(found["margin"], gain[0::2] - gain[1::2], atol=1e-3)
    assert run[0].tokens == 4 * sum(len(row.ids) for row in rows)
    assert run[1].tokens == 0
