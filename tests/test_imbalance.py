"""The slope of the loss on the place in an epoch: by hand, with nothing to find, and with something planted."""

import numpy as np
import pytest

from learnable.errors import UsageError
from learnable.experiments import binned, imbalance
from learnable.settings import Tuning
from learnable.training.samplers import LengthGroupedBatches, places_of

PLACES = np.array([[0.2, 0.8], [0.8, 0.2]])
"""Of two examples in two orders."""
LOSSES = np.array([[1.0, 2.0], [0.7, 2.2]])


def orders(rng, *, orders=4, batches=15, size=4):
    """Return places and batches of so many orders of ``batches * size`` examples."""
    order = np.stack([rng.permutation(batches * size) for _ in range(orders)])
    batch = np.argsort(order, axis=1) // size
    return (batch + 1) / batches, batch


def test_the_slope_by_hand():
    found = imbalance(PLACES, LOSSES)
    assert found.slope == pytest.approx(-0.15 / 0.36)
    assert (found.examples, found.orders) == (2, 2)
    assert np.isnan(found.low), "two examples are too few for an interval"


def test_difficulty_and_better_models_do_not_matter():
    rng = np.random.default_rng(0)
    places, _ = orders(rng)
    losses = rng.normal(size=places.shape)
    moved = losses + 10 * rng.normal(size=places.shape[1]) + rng.normal(size=(4, 1))
    assert imbalance(places, moved).slope == pytest.approx(imbalance(places, losses).slope)


def test_with_nothing_to_find_the_interval_holds_0_in_95_of_100():
    """Losses are exchanged between orders; those of one batch have something in common besides."""
    rng, held, small = np.random.default_rng(1), 0, 0
    for number in range(400):
        places, batch = orders(rng)
        shared = rng.normal(size=(4, 15))
        losses = rng.normal(size=places.shape) + np.take_along_axis(shared, batch, axis=1)
        found = imbalance(places, losses, draws=1)
        held += found.low <= 0 <= found.high
        plain = imbalance(places, rng.normal(size=places.shape), draws=99, seed=number)
        small += plain.p <= 0.05
    assert 0.91 <= held / 400 <= 0.98
    assert 0.02 <= small / 400 <= 0.09


def test_a_planted_slope_is_within_its_interval():
    rng = np.random.default_rng(2)
    places, _ = orders(rng, batches=40)
    found = imbalance(places, 2 - 0.3 * places + 0.1 * rng.normal(size=places.shape))
    assert found.low < -0.3 < found.high < 0
    assert found.p == pytest.approx(1 / 2_001)


def test_bins_show_the_slope():
    rng = np.random.default_rng(3)
    places, _ = orders(rng, batches=40)
    frame = binned(places, 5 * rng.normal(size=places.shape[1]) - 0.3 * places)
    assert frame["place"].to_list() == pytest.approx(np.arange(0.0625, 1, 0.1))
    assert np.polyfit(frame["place"], frame["loss"], 1)[0] == pytest.approx(-0.3, abs=0.03)
    assert frame["count"].sum() == places.size


def test_what_has_no_loss_in_some_order_is_left_out():
    rng = np.random.default_rng(4)
    places, _ = orders(rng)
    losses = rng.normal(size=places.shape)
    holes = losses.copy()
    holes[2, :10] = np.nan
    found = imbalance(places, holes)
    assert found.examples == places.shape[1] - 10
    assert found.slope == pytest.approx(imbalance(places[:, 10:], losses[:, 10:]).slope)


@pytest.mark.parametrize(
    ("places", "said"), [(PLACES[:1], "two orders"), (np.full((2, 2), 0.5), "another place")]
)
def test_what_has_no_slope_is_refused(places, said):
    with pytest.raises(UsageError, match=said):
        imbalance(places, LOSSES[: len(places)])


def test_places_are_those_at_which_a_training_takes_its_examples():
    tuning = Tuning(batch_size=4, epochs=3)
    sampler = LengthGroupedBatches([5] * 18, batch_size=4, seed=1, epochs=tuning.epochs)
    first, last = places_of(sampler, 18, epochs=3)
    for epoch, found in ((0, first), (2, last)):
        for number, batch in enumerate(sampler.epoch(epoch), start=1):
            assert found[batch].tolist() == [number / 5] * len(batch)
