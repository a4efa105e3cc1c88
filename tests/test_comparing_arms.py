"""Which trainings a comparison makes of its methods, budgets and seeds."""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pytest

from learnable.experiments import Arm, arms_of, parse_methods
from learnable.objectives import DPO
from learnable.settings import Reference, Tuning
from learnable.types import ModelRef, Rendered

N = 40
IDS = [f"e{row:02}" for row in range(N)]


def row(name, tokens, response_tokens):
    mask = np.arange(tokens) >= tokens - response_tokens
    return Rendered(id=name, ids=np.zeros(tokens, dtype=np.int32), mask=mask, truncated=False)


ROWS = {name: row(name, *((5, 2) if place < 20 else (15, 6))) for place, name in enumerate(IDS)}
BASE = ModelRef(name="model")


def select(method, budget, seed):
    """Choose rows of 15 tokens for ``longest``, of 5 for ``shortest``, and by the seed for ``random``."""
    if method.kind in ("full", "untuned"):
        return IDS if method.kind == "full" else []
    if method.label == "longest":
        return IDS[20 : 20 + budget // 15]
    if method.label == "shortest":
        return IDS[: budget // 5]
    return IDS[seed : seed + budget // 10]


def arms(*written, budgets=(120,), seeds=2, batch_size=2, choose=select):
    methods = parse_methods(written, reference=Reference())
    return arms_of(
        methods,
        choose,
        ROWS,
        base=BASE,
        tuning=Tuning(batch_size=batch_size),
        budgets=budgets,
        seeds=seeds,
    )


def of(found, method):
    return [arm for arm in found if arm.label == method]


def test_every_method_has_an_arm_for_each_seed_and_budget():
    found = arms("longest", budgets=(60, 120), seeds=3)
    assert sorted((arm.budget_tokens, arm.seed) for arm in of(found, "longest")) == [
        (budget, seed) for budget in (60, 120) for seed in range(3)
    ]


def test_the_untuned_model_has_one_arm():
    (untuned,) = of(arms("longest", budgets=(60, 120), seeds=3), "untuned")
    assert (untuned.budget_tokens, untuned.stages, untuned.tokens, untuned.tuning.steps) == (
        None,
        (),
        0,
        None,
    )


def test_the_full_pool_has_an_arm_for_each_seed_and_ordinary_batches():
    found = of(arms("full", budgets=(60, 120), seeds=3), "full")
    assert [arm.seed for arm in found] == [0, 1, 2]
    assert {(arm.budget_tokens, arm.tuning.steps, len(arm.ids), arm.tokens) for arm in found} == {
        (None, None, N, 400)
    }


def test_an_arm_counts_its_tokens():
    (arm,) = of(arms("longest", seeds=1), "longest")
    assert (arm.ids, arm.tokens, arm.response_tokens) == (tuple(IDS[20:28]), 120, 48)


def test_all_arms_of_a_budget_take_the_same_steps():
    # The pool has 10 tokens per example: 120 tokens are 6 batches of 2, and 60 tokens 3.
    found = arms("longest", "shortest", budgets=(60, 120))
    steps = {
        budget: {arm.tuning.steps for arm in found if arm.budget_tokens == budget} for budget in (60, 120)
    }
    assert steps == {60: {3}, 120: {6}}


def test_no_arm_takes_more_steps_than_the_smallest_selection_has_examples():
    found = arms("longest", budgets=(60,), batch_size=1)
    assert {len(arm.ids) for arm in of(found, "longest")} == {4}
    assert {arm.tuning.steps for arm in found if arm.budget_tokens} == {4}


def test_a_small_budget_takes_one_step():
    assert {arm.tuning.steps for arm in arms(budgets=(20,), batch_size=8) if arm.budget_tokens} == {1}


def test_the_first_seed_of_all_comes_first():
    assert [arm.seed for arm in arms("longest", budgets=(60, 120), seeds=3)] == [0] * 5 + [1] * 4 + [2] * 4


def test_only_what_draws_chooses_anew_for_each_seed():
    asked = []
    found = arms(
        "longest", choose=lambda method, *rest: asked.append((method.label, *rest)) or select(method, *rest)
    )
    assert [rest for label, *rest in asked if label == "longest"] == [[120, 0]]
    assert [rest for label, *rest in asked if label == "random"] == [[120, 0], [120, 1]]
    assert len({arm.ids for arm in of(found, "longest")}) == 1
    assert len({arm.ids for arm in of(found, "random")}) == 2


@dataclass(frozen=True)
class InFileOrder:
    """A sampler, of which only the identity matters here."""


ABC = tuple(row(name, 10, 3) for name in "abc")
ARM = Arm(
    label="ifd",
    budget_tokens=100,
    seed=0,
    base=BASE,
    stages=(ABC,),
    tuning=Tuning(steps=2),
)
PLACE = {"base": "model", "rendering": "template", "max_length": 64}


@pytest.mark.parametrize(
    "other",
    [{"stages": (ABC[::-1],)}, {"label": "loss"}, {"budget_tokens": 99}, {"columns": {"task_examples": 3}}],
    ids=["another order", "another label", "another budget", "another column"],
)
def test_equal_trainings_share_a_folder(other):
    assert replace(ARM, **other).names(**PLACE) == ARM.names(**PLACE)


@pytest.mark.parametrize(
    "other", [{"base": "other"}, {"rendering": "other"}, {"max_length": 65}], ids=lambda other: str(other)
)
def test_another_model_or_rendering_has_a_folder_of_its_own(other):
    assert ARM.names(**(PLACE | other)) != ARM.names(**PLACE)


@pytest.mark.parametrize(
    "other",
    [
        {"stages": (ABC[:2],)},
        {"token_ids": (7,)},
        {"token_rate": 30.0},
        {"tuning": Tuning(steps=3)},
        {"tuning": Tuning(steps=2, seed=1)},
        {"tuning": Tuning(steps=2, learning_rate=1e-3)},
        {"objective": DPO(), "stages": ((*ABC, ABC[0]),)},
        {"stored": pl.DataFrame({"id": list("abc"), "reference_nll": [1.0, 2.0, 3.0]})},
        {"sampler": InFileOrder()},
    ],
    ids=lambda other: str(next(iter(other.items())))[:30],
)
def test_other_trainings_have_folders_of_their_own(other):
    assert replace(ARM, **other).names(**PLACE) != ARM.names(**PLACE)


def test_answers_that_change_places_within_an_example_are_another_training():
    pairs = replace(ARM, objective=DPO(), stages=((*ABC, ABC[0]),))
    a, b, c = ABC
    assert replace(pairs, stages=((c, a, a, b),)).names(**PLACE) == pairs.names(**PLACE)
    assert replace(pairs, stages=((b, a, c, a),)).names(**PLACE) != pairs.names(**PLACE)


def test_stages_share_the_folders_of_what_came_before():
    two = replace(ARM, stages=(ABC, ABC[:1])).names(**PLACE)
    assert two[:1] == ARM.names(**PLACE)
    assert len(set(two)) == 2
    assert two[1] != replace(ARM, stages=(ABC[:1],)).names(**PLACE)[0]
