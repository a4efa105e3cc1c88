"""The arithmetic of a federation, by hand: who has which rows, which weights move, what becomes of updates."""

import numpy as np
import pytest

from learnable.errors import UsageError
from learnable.federation import (
    Factors,
    FederatedArm,
    Mean,
    Update,
    averaged_product,
    begun_factor,
    check_update,
    decompose,
    dirichlet_split,
    equal_density,
    label_distance,
    masked,
)

USUAL = FederatedArm(name="slora")
PINNED = [4, 6, 16, 19]


def floats(values):
    return np.array(values, dtype=np.float32)


class TestDecomposing:
    def test_the_best_change_of_rank_one_by_hand(self):
        found = decompose(floats([[3, 0], [0, 1]]), rank=1, scale=2.0)
        np.testing.assert_allclose(found.B, [[1.5], [0]], atol=1e-7)
        np.testing.assert_allclose(found.A, [[1, 0]], atol=1e-7)
        np.testing.assert_allclose(found.change, [[3, 0], [0, 0]], atol=1e-6)
        assert found.energy == pytest.approx(0.9)

    def test_at_full_rank_nothing_is_left_over(self):
        change = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
        found = decompose(change, rank=4)
        np.testing.assert_allclose(found.change, change, atol=1e-6)
        assert found.energy == pytest.approx(1)

    def test_the_sign_does_not_depend_on_that_of_the_change(self):
        change = np.random.default_rng(1).normal(size=(5, 5)).astype(np.float32)
        one, other = decompose(change, rank=2), decompose(-change, rank=2)
        np.testing.assert_allclose(one.B, other.B, atol=1e-6)
        np.testing.assert_allclose(one.A, -other.A, atol=1e-6)

    def test_no_change_has_no_energy(self):
        found = decompose(np.zeros((3, 3), np.float32), rank=2)
        assert np.isnan(found.energy)
        assert not found.change.any()

    def test_a_random_mask_of_one_percent_is_no_low_rank_change(self):
        """The spectrum trap: a few random places of a matrix keep little of their energy at a low rank."""
        rng, change = np.random.default_rng(0), np.zeros(200 * 200, np.float32)
        change[masked((200, 200), density=0.01, seed=0, name="w")] = rng.normal(size=400)
        assert decompose(change.reshape(200, 200), rank=4).energy < 0.3


class TestAveraging:
    def test_means_are_weighted_by_rows(self):
        mean = Mean()
        for rows, value in ((1, 0.0), (2, 1.0), (3, 2.0)):
            mean.add(Update(arrays={"w": floats([value])}, rows=rows))
        assert mean.result()["w"].tolist() == pytest.approx([8 / 6])

    def test_equal_updates_are_their_mean(self):
        update, mean = Update(arrays={"w": floats([0.1, -3e-5, 7])}, rows=3), Mean()
        for _ in range(5):
            mean.add(update)
        np.testing.assert_array_equal(mean.result()["w"], update.arrays["w"])

    def test_the_order_of_clients_does_not_matter(self):
        rng = np.random.default_rng(0)
        updates = [Update(arrays={"w": rng.normal(size=9).astype(np.float32)}, rows=n) for n in (1, 7, 30)]
        one, other = Mean(), Mean()
        for update in updates:
            one.add(update)
        for update in reversed(updates):
            other.add(update)
        np.testing.assert_allclose(one.result()["w"], other.result()["w"], atol=1e-6)

    def test_the_mean_of_factors_is_not_the_mean_of_products(self):
        clients = [(floats([[1, 0]]), floats([[1], [0]])), (floats([[0, 1]]), floats([[0], [1]]))]
        plain, products = Mean(), averaged_product(clients, [1, 1], rank=2, scale=1.0)
        for A, B in clients:
            plain.add(Update(arrays={"w.A": A, "w.B": B}, rows=1))
        found = plain.result()
        np.testing.assert_allclose(found["w.B"] @ found["w.A"], np.full((2, 2), 0.25))
        np.testing.assert_allclose(products.B @ products.A, np.diag([0.5, 0.5]), atol=1e-7)

    def test_averaged_products_are_those_of_dense_matrices(self):
        rng = np.random.default_rng(3)
        clients = [
            (rng.normal(size=(2, 7)).astype("f4"), rng.normal(size=(5, 2)).astype("f4")) for _ in range(3)
        ]
        weights = [1, 2, 5]
        dense = sum(w * B.astype("f8") @ A for (A, B), w in zip(clients, weights, strict=True)) / 8
        found, best = averaged_product(clients, weights, rank=2), decompose((2 * dense).astype("f4"), rank=2)
        np.testing.assert_allclose(found.change, best.change, atol=1e-5)
        assert found.energy == pytest.approx(best.energy, abs=1e-6)

    @pytest.mark.parametrize(
        ("arrays", "rows", "why"),
        [
            ({"w": floats([1, np.nan])}, 3, "not finite"),
            ({"w": floats([1, np.inf])}, 3, "not finite"),
            ({"w": floats([1])}, 3, "shapes"),
            ({"v": floats([1, 2])}, 3, "names"),
            ({"w": floats([1, 2])}, 0, "0 rows"),
        ],
        ids=["nan", "infinite", "shape", "name", "rows"],
    )
    def test_what_cannot_be_averaged_says_why(self, arrays, rows, why):
        assert why in check_update(Update(arrays=arrays, rows=rows), {"w": floats([0, 0])})

    def test_what_can_be_averaged_is_taken(self):
        assert check_update(Update(arrays={"w": floats([1])}, rows=1), {"w": floats([0])}) is None


class TestMasks:
    def test_it_is_pinned(self):
        """Other clients draw the same without being told: these places must never change."""
        assert masked((4, 5), density=0.2, seed=7, name="layers.0.q_proj").tolist() == PINNED

    def test_it_has_the_share_that_was_asked_for_and_depends_on_seed_and_name(self):
        one = masked((30, 40), density=0.1, seed=0, name="a")
        assert len(one) == len(set(one.tolist())) == 120
        assert one.max() < 1200
        assert not np.array_equal(one, masked((30, 40), density=0.1, seed=1, name="a"))
        assert not np.array_equal(one, masked((30, 40), density=0.1, seed=0, name="b"))

    def test_whole_rows_keep_their_rank(self):
        places = masked((10, 6), density=0.2, seed=0, name="w", mask="rows")
        rows = np.unique(places // 6)
        assert (len(places), len(rows)) == (12, 2)

    def test_all_of_it_is_no_list_of_places(self):
        assert masked((3, 3), density=1, seed=0, name="w") is None

    @pytest.mark.parametrize("density", [0, -1, 1.5, 0.01])
    def test_a_density_that_is_none_or_leaves_nothing_is_refused(self, density):
        with pytest.raises(UsageError, match="density"):
            masked((5, 5), density=density, seed=0, name="w")

    def test_equal_traffic_by_hand(self):
        """Rank 2 of a 10 x 30 weight sends 80 scalars of 300."""
        assert equal_density([(10, 30)], rank=2) == pytest.approx(80 / 300)
        assert equal_density([(10, 30)], rank=2, aggregate="freeze_A") == pytest.approx(20 / 300)

    def test_fresh_factors_are_uniform(self):
        found = begun_factor((8, 400), rank=5, seed=0, name="w")
        assert found.shape == (5, 400)
        assert np.abs(found).max() <= 1 / 20
        assert found.std() == pytest.approx(1 / 20 / np.sqrt(3), rel=0.05)


class TestSplitting:
    def test_every_row_has_one_owner(self):
        labels = np.random.default_rng(0).choice(list("abcd"), size=101).tolist()
        split = dirichlet_split(labels, clients=5, alpha=0.5, seed=3, min_rows=2)
        assert sorted(np.concatenate(split).tolist()) == list(range(101))
        assert min(map(len, split)) >= 2

    @pytest.mark.parametrize(("alpha", "distance"), [(0.1, 0.68), (1, (1 - 1 / 8) ** 8), (10, 0.10)])
    def test_it_is_as_uneven_as_a_dirichlet_draw(self, alpha, distance):
        """At 1, a client's shares of K classes are uniform on the simplex, whose mean distance from even is (1 - 1/K)^K."""
        labels = np.repeat(list("abcdefgh"), 250).tolist()
        found = [
            label_distance(labels, dirichlet_split(labels, clients=10, alpha=alpha, seed=seed)).mean()
            for seed in range(12)
        ]
        assert np.mean(found) == pytest.approx(distance, abs=0.03)

    def test_with_a_large_alpha_all_have_the_same(self):
        labels = list("ab") * 100
        split = dirichlet_split(labels, clients=4, alpha=1e6, seed=0)
        assert all(abs(len(own) - 50) <= 2 for own in split)
        assert label_distance(labels, split).max() < 0.03

    def test_the_seed_says_it_all(self):
        labels = list("abcde") * 20
        one, again, other = (dirichlet_split(labels, clients=3, alpha=1, seed=seed) for seed in (0, 0, 1))
        assert [own.tolist() for own in one] == [own.tolist() for own in again]
        assert [own.tolist() for own in one] != [own.tolist() for own in other]

    @pytest.mark.parametrize(
        ("labels", "how", "said"),
        [
            ("ab" * 5, {"alpha": 0}, "alpha must be above 0"),
            ("ab" * 5, {"alpha": -1}, "alpha must be above 0"),
            ("ab" * 5, {"min_rows": 6}, "too few for 2 clients"),
            ("a" * 10, {}, "one label"),
            ("ab" * 5, {"clients": 1}, "2 clients or more"),
            ("ab" * 3, {"clients": 6, "alpha": 1e-6}, "draws with alpha"),
        ],
        ids=["alpha 0", "alpha below", "few rows", "one label", "one client", "no draw"],
    )
    def test_what_cannot_be_divided_is_refused(self, labels, how, said):
        with pytest.raises(UsageError, match=said):
            dirichlet_split(list(labels), **{"clients": 2, "alpha": 1.0, "seed": 0} | how)


class TestArms:
    def test_settings_are_taken_where_they_have_an_effect(self):
        usual = FederatedArm(name="slora", residual="drop", aggregate="product", mask="rows")
        assert FederatedArm.parse("lora", usual=usual) == FederatedArm(name="lora", aggregate="product")
        assert FederatedArm.parse("full", usual=usual) == FederatedArm(name="full")
        assert FederatedArm.parse("slora@residual=keep", usual=usual).residual == "keep"

    @pytest.mark.parametrize(
        "text",
        ["central", "sloar", "lora@residual=keep", "slora@residual=no", "full@mask=rows", "slora@", "lora@x"],
    )
    def test_what_is_no_arm_is_refused(self, text):
        with pytest.raises(UsageError):
            FederatedArm.parse(text, usual=USUAL)

    def test_factors_say_their_change(self):
        assert Factors(floats([[1, 2]]), floats([[3]]), 1.0).change.tolist() == [[6, 12]]
