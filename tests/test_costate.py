"""The worth of rows to a target: by hand, against an unrolled training, and on a tiny network."""

import numpy as np
import pytest
import torch

from learnable.errors import TrainError
from learnable.models.language_model import LanguageModel
from learnable.settings import Tuning
from learnable.testing import toy_examples
from learnable.training import costate
from learnable.training.adapters import trainable
from learnable.training.costate import NetworkLosses, worth_of_rows
from learnable.types import ModelRef


class Squares:
    """Losses of half the squared distance of one number to those of the rows."""

    def __init__(self, *places):
        self.places = torch.tensor(places, dtype=torch.float64)

    def __len__(self):
        return len(self.places)

    def losses(self, at, rows=None):
        places = self.places if rows is None else self.places[list(rows)]
        return (0.5 * (at[0] - places) ** 2).numpy()

    def gradient(self, at, rows=None):
        places = self.places if rows is None else self.places[list(rows)]
        return (at - places.mean()).reshape(1)


def worth(*, steps=3, **options):
    rows = Squares(1.0, -2.0)
    given = {"training": rows, "target": Squares(1.0), "pool": rows, "rate": 0.1} | options
    return worth_of_rows(torch.zeros(1, dtype=torch.float64), batches=[[0, 1]] * steps, **given)


@pytest.fixture(autouse=True)
def towards_the_target(monkeypatch):
    # In the worked example the training goes away from the target: equal weights are bad ones.
    monkeypatch.setattr("learnable.training.costate._check_fall", lambda *_, **__: None)


def test_worth_by_hand():
    found = worth()
    assert found.scores.tolist() == pytest.approx([0.6421425, -1.220169], rel=1e-6)
    assert found.lengths == pytest.approx([1.1355, 2.11695, 2.955255, 2.955255 * 0.9 + 1.0])


def test_one_step_is_the_product_of_two_gradients():
    # After one step the point is -0.05: the target's gradient is -1.05, those of the rows at 0 are -1 and 2.
    assert worth(steps=1).scores.tolist() == pytest.approx([0.1 * 1.05, -0.1 * 2.1])


def test_it_is_the_derivative_of_the_summed_loss_of_the_target():
    def summed(weights):
        at, total = 0.0, 0.0
        for _ in range(3):
            at -= 0.1 * sum(w * (at - x) for w, x in zip(weights, (1.0, -2.0), strict=True))
            total += 0.5 * (at - 1.0) ** 2
        return total

    by_hand = [
        -(summed((0.5 + e, 0.5 + f)) - summed((0.5 - e, 0.5 - f))) / 2e-4 for e, f in ((1e-4, 0), (0, 1e-4))
    ]
    assert worth().scores.tolist() == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("steps", [2, 4, 7, 10])
def test_segments_give_what_keeping_every_point_gives(steps, monkeypatch):
    whole = worth(steps=steps)
    monkeypatch.setattr("learnable.training.costate.math.isqrt", lambda _: 1)
    assert worth(steps=steps).scores.tolist() == whole.scores.tolist()


def test_every_other_visit_adds_up_to_the_whole():
    found = worth(steps=4)
    np.testing.assert_allclose(found.halves.sum(axis=0), found.scores)
    assert (found.halves != 0).all()


def test_a_way_back_that_was_interrupted_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    whole, state = worth(steps=7, visit=2), tmp_path / "state.pt"
    calls = []

    def interrupted(*given):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return norm(*given)

    norm = costate._norm
    monkeypatch.setattr(costate, "_norm", interrupted)
    with pytest.raises(KeyboardInterrupt):
        worth(steps=7, visit=2, state=state)
    monkeypatch.setattr(costate, "_norm", norm)
    again = worth(steps=7, visit=2, state=state)
    assert (again.scores.tolist(), again.lengths) == (whole.scores.tolist(), whole.lengths)


def test_without_curvature_the_costate_is_a_sum_of_gradients_of_the_target():
    assert worth(curvature=False).lengths == pytest.approx([1.1355, 2.2305, 3.2805, 4.2805])


def test_what_does_not_fit_the_memory_is_refused_at_once(monkeypatch):
    monkeypatch.setattr("learnable.training.costate.free_bytes", lambda _: 8 * 9)
    with pytest.raises(TrainError, match="4 steps of 1 parameters take"):
        worth(steps=4, training=None)


def test_the_target_must_become_likelier(monkeypatch):
    monkeypatch.undo()
    with pytest.raises(TrainError, match="did not fall"):
        worth()


def test_a_costate_that_grows_out_of_bounds_is_said():
    with pytest.raises(TrainError, match="not finite"):
        worth(steps=500, rate=1e4)


@pytest.fixture(scope="module")
def network(tiny):
    return trainable(ModelRef(name=str(tiny), dtype="float32"), Tuning(method="full"))


@pytest.fixture(scope="module")
def rendered(tiny):
    model = LanguageModel(ModelRef(name=str(tiny), dtype="float32"))
    return model.renderer.render(toy_examples(12), max_length=128)


def test_losses_and_gradients_are_those_of_the_network(network, rendered):
    rows = NetworkLosses(network, rendered[:4])
    at = rows.point
    ids = torch.from_numpy(rendered[0].ids.astype(np.int64))[None]
    labels = torch.where(torch.from_numpy(rendered[0].mask)[None], ids, -100)
    plain = network(input_ids=ids, labels=labels).loss
    plain.backward()
    own = torch.cat([each.grad.flatten() for each in network.parameters() if each.requires_grad])
    network.zero_grad()
    assert rows.losses(at)[0] == pytest.approx(float(plain.detach()), rel=1e-5)
    torch.testing.assert_close(rows.gradient(at, [0]), own, rtol=1e-4, atol=1e-6)


def test_the_network_is_left_where_it_was(network, rendered):
    rows = NetworkLosses(network, rendered[:4])
    before = rows.point
    rows.losses(before + 1.0)
    rows.gradient(before + 1.0)
    assert torch.equal(rows.point, before)


def test_worth_is_that_of_an_unrolled_training(network, rendered):
    """The derivative through four unrolled steps, by autograd with double backward."""
    rows, target = NetworkLosses(network, rendered[:8]), NetworkLosses(network, rendered[8:])
    found = worth_of_rows(
        rows.point, batches=[range(8)] * 4, rate=0.02, training=rows, target=target, pool=rows
    )
    exact = _unrolled(network, rendered[:8], rendered[8:], steps=4, rate=0.02)
    assert np.argsort(found.scores).tolist() == np.argsort(exact).tolist()
    np.testing.assert_allclose(found.scores, exact, rtol=0.02, atol=0.02 * np.abs(exact).max())


def _unrolled(network, pool, target, *, steps, rate):
    network.set_attn_implementation("eager")
    names = [name for name, each in network.named_parameters() if each.requires_grad]
    point = {name: each for name, each in network.named_parameters() if each.requires_grad}
    weights = torch.full((len(pool),), 1 / len(pool), requires_grad=True)

    def loss(at, row):
        ids = torch.from_numpy(row.ids.astype(np.int64))[None]
        labels = torch.where(torch.from_numpy(row.mask)[None], ids, -100)
        return torch.func.functional_call(network, at, kwargs={"input_ids": ids, "labels": labels}).loss

    total = torch.zeros(())
    for _ in range(steps):
        whole = sum(w * loss(point, row) for w, row in zip(weights, pool, strict=True))
        gradients = torch.autograd.grad(whole, [point[name] for name in names], create_graph=True)
        point = {name: point[name] - rate * g for name, g in zip(names, gradients, strict=True)}
        total = total + sum(loss(point, row) for row in target) / len(target)
    return -torch.autograd.grad(total, weights)[0].numpy()


def test_no_step_is_gone_back_to_before_the_last_that_is_visited():
    # Of nine steps, by fours, 8, 4 and 0 are visited; of eight 7 and 3, and what stands before 3 is not needed.
    assert [len(worth(steps=steps, visit=4).lengths) - 1 for steps in (9, 8)] == [9, 5]
