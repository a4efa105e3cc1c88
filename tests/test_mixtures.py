"""Mixtures of sources: what ADO computes, by hand; what is drawn; that curves are found again, and a killed run goes on."""

from itertools import count

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from safetensors.torch import load_file

from learnable import commands as verbs
from learnable.errors import UsageError
from learnable.models.rendering import Renderer
from learnable.proportions import Proportions, Schedule
from learnable.settings import Reference, Tuning
from learnable.testing import toy_examples, write_messages
from learnable.training import checkpoints, fine_tune
from learnable.training.loop import Loop
from learnable.training.mixtures import ADO, Mixed, MixedBatches, floored
from learnable.training.power_law import PowerLaw, fit, smoothed
from learnable.types import ModelRef

SOON = Schedule(start=4, every=5, thin=1, points=6, first=10)


def ado(prior, *, recent=None, laws=None, tokens=0.0, updates=0, schedule=SOON, heldout=False):
    """Return ADO in the middle of a training."""
    found = ADO(np.array(prior), schedule=schedule, heldout=heldout)
    state = found.state() | {"updates": updates, "tokens": tokens}
    state |= {"recent": list(recent or prior), "laws": laws and [list(law) for law in laws]}
    found.load(state)
    return found


def after_a_step(found, tokens):
    found.observe(0, np.array(tokens), np.full(len(tokens), np.nan))
    return found.weights


LAWS = [PowerLaw(1.0, 4.0, 0.5), PowerLaw(2.0, 8.0, 0.25)]


class TestADO:
    def test_one_step_by_hand(self):
        """Slopes 4.8828e-7 and 6.17632e-6 at n = 25,600; the shares drawn leave h at (.8, .2)."""
        schedule = Schedule(start=500, every=20, thin=1, points=20, first=520)
        found = ado([0.7, 0.3], recent=[0.8, 0.2], laws=LAWS, tokens=15_600, schedule=schedule)
        np.testing.assert_allclose([law.slope(25_600) for law in LAWS], [4.8828e-7, 6.17632e-6], rtol=1e-5)
        np.testing.assert_allclose(after_a_step(found, [8_000, 2_000]), [0.65695, 0.34305], atol=5e-6)
        np.testing.assert_allclose(found.state()["mean"], [0.69914, 0.30086], atol=5e-6)

    def test_the_unit_of_tokens_does_not_matter(self):
        same = [PowerLaw(law.epsilon, law.beta * 1_000**law.alpha, law.alpha) for law in LAWS]
        one = after_a_step(ado([0.7, 0.3], laws=LAWS, tokens=15_600), [9, 1])
        other = after_a_step(ado([0.7, 0.3], laws=same, tokens=15_600_000), [9_000, 1_000])
        np.testing.assert_allclose(one, other, rtol=1e-10)

    def test_the_order_of_sources_does_not_matter(self):
        one = after_a_step(ado([0.7, 0.3], laws=LAWS, tokens=100), [9, 1])
        other = after_a_step(ado([0.3, 0.7], laws=LAWS[::-1], tokens=100), [1, 9])
        np.testing.assert_array_equal(one, other[::-1])

    def test_sources_that_fall_alike_are_weighed_by_the_prior_and_the_root_of_what_they_got(self):
        found = ado([0.8, 0.2], recent=[0.5, 0.5], laws=LAWS[:1] * 2, tokens=100)
        after_a_step(found, [1, 1])
        wanted = np.array([0.8, 0.2]) * np.sqrt(0.5)
        mean = np.array(found.state()["mean"])
        np.testing.assert_allclose(mean, 0.8 * np.array([0.8, 0.2]) + 0.2 * wanted / wanted.sum())

    def test_fifty_steps_are_those_of_the_equations(self):
        """Those of the paper's code, with its own symbols; t counts on from the steps before the first fit."""
        rng, start = np.random.default_rng(3), 40
        prior = np.array([0.5, 0.3, 0.15, 0.05])
        laws = [PowerLaw(*row) for row in rng.uniform([0.2, 5, 0.02], [2, 90, 0.8], size=(4, 3))]
        schedule = Schedule(start=start, every=20, thin=1, points=20, first=60)
        found = ado(prior.tolist(), laws=laws, tokens=5_000, schedule=schedule)
        epsilon, beta, alpha = np.array(laws).T
        n, h, mean = 5_000, prior.copy(), prior.copy()
        for t in range(start, start + 50):
            c = rng.integers(1, 500, size=4)
            n += c.sum()
            h = 0.9 * h + 0.1 * c / c.sum()
            fitted = epsilon + beta * n**-alpha
            rho = prior * h**0.5 * np.maximum(alpha, 0.05) * (fitted - epsilon) / n
            rho = np.clip(rho / rho.sum(), 0.01, None)
            rho /= rho.sum()
            pi = 0.9 * mean + 0.1 * rho
            mean = (1 - 1 / (t + 1)) * mean + rho / (t + 1)
            np.testing.assert_allclose(after_a_step(found, c), pi, rtol=1e-10)

    def test_no_source_is_asked_for_less_than_the_floor(self):
        np.testing.assert_allclose(floored(np.array([0.995, 0.005])), [0.99005, 0.00995], atol=5e-6)

    def test_the_prior_holds_until_a_curve_is_fitted(self):
        found = ado([0.6, 0.4])
        moved = []
        for step in range(12):
            found.observe(step, np.array([60, 40]), np.array([4 * (step + 1) ** -0.5, 2.0]))
            moved.append(bool(found.weights[0] != 0.6))
        assert moved == [False] * (SOON.first - 1) + [True] * 3

    def test_a_loss_that_is_not_finite_leaves_the_old_laws(self):
        found = ado([0.6, 0.4], laws=LAWS)
        for step in range(12):
            found.observe(step, np.array([60, 40]), np.array([np.inf, 2.0]))
        assert found.laws == LAWS

    def test_what_falls_gets_more_and_noise_gets_less(self):
        rng, found = (
            np.random.default_rng(0),
            ado([0.5, 0.5], schedule=Schedule(start=40, every=120, thin=1, points=20, first=60)),
        )
        floor = 0.9 * 0.5 * 40 / 400  # what is left of the prior in the mean
        for step in range(400):
            seen = 1 + 3 * (step + 1) ** -0.5, 4.0
            losses = np.array(seen) * np.exp(0.01 * rng.normal(size=2))
            found.observe(step, np.round(1_000 * found.weights).astype(int), losses)
        assert found.weights[0] > 0.75
        assert floor < found.weights[1] < 0.25


class TestPowerLaw:
    n = np.linspace(1_000, 200_000, 200)

    @pytest.mark.parametrize(("epsilon", "beta", "alpha"), [(1, 2, 0.3), (0.5, 3, 0.1), (2, 1, 0.5)])
    def test_an_exact_curve_is_found_again(self, epsilon, beta, alpha):
        exact = PowerLaw(epsilon, beta * 1_000**alpha, alpha)
        np.testing.assert_allclose(fit(self.n, epsilon + exact.beta * self.n**-alpha), exact, rtol=0.01)

    def test_the_slope_at_the_end_of_a_noisy_curve(self):
        exact = PowerLaw(1.0, 2 * 1_000**0.3, 0.3)
        noise = np.exp(0.02 * np.random.default_rng(0).normal(size=200))
        law = fit(self.n, smoothed((1 + exact.beta * self.n**-0.3) * noise))
        assert law.slope(200_000) == pytest.approx(exact.slope(200_000), rel=0.1)

    def test_a_flat_curve_does_not_fall(self):
        law = fit(self.n, np.full(200, 2.0))
        assert law.alpha == pytest.approx(0.01)
        assert law.slope(200_000) * 200_000 < 1e-4

    def test_a_curve_that_is_not_finite_has_no_law(self):
        assert fit(self.n, np.full(200, np.nan)) is None

    def test_few_losses_are_left_as_they_are(self):
        losses = np.random.default_rng(0).normal(size=19)
        assert smoothed(losses) is losses


LENGTHS, COUNTS = (10, 40, 20), (300, 50, 100)


def batches(weights, *, steps=2_000, batch_tokens=320.0, seed=0):
    lengths = np.repeat(LENGTHS, COUNTS)
    return MixedBatches(
        lengths.tolist(),
        (lengths // 2).tolist(),
        np.repeat([0, 1, 2], COUNTS).tolist(),
        names=["a", "b", "c"],
        weights=np.array(weights),
        steps=steps,
        batch_tokens=batch_tokens,
        seed=seed,
    )


def drawn(sampler, steps, loss=1.0):
    """Return the examples of the first steps."""
    found = []
    for step in range(steps):
        examples = sampler.batch(step)
        nll = loss * np.repeat(LENGTHS, COUNTS)[examples] / 2
        sampler.observe(step, examples, nll[:, None].astype(np.float32))
        found.append(examples)
    return found


class TestMixedBatches:
    def test_tokens_follow_the_shares_whatever_the_lengths(self):
        """Within three standard deviations of a share of about 1e5 / 20 draws."""
        weights, sampler = np.array([0.5, 0.3, 0.2]), batches([0.5, 0.3, 0.2])
        frame = (drawn(sampler, 2_000), sampler.frame())[1]
        tokens = frame.group_by("source").agg(pl.col("tokens").sum()).sort("source")["tokens"].to_numpy()
        assert tokens.sum() == pytest.approx(640_000, abs=40)
        # A share of tokens of independent draws: its variance is of a ratio of sums.
        chances = weights / LENGTHS
        chances /= chances.sum()
        length = (chances * LENGTHS).sum()
        for k, share in enumerate(weights):
            of_one = chances[k] * (LENGTHS[k] * (1 - share)) ** 2
            of_others = sum(chances[j] * (LENGTHS[j] * share) ** 2 for j in range(3) if j != k)
            deviation = np.sqrt((of_one + of_others) / length**2 / (640_000 / length))
            assert abs(tokens[k] / tokens.sum() - share) < 3 * deviation

    def test_every_mixture_sees_as_many_tokens_in_as_many_steps(self):
        for weights in ([0.9, 0.05, 0.05], [0.05, 0.9, 0.05]):
            sampler = batches(weights)
            tokens = np.repeat(LENGTHS, COUNTS)[np.concatenate(drawn(sampler, 50))].sum()
            assert 50 * 320 <= tokens < 50 * 320 + max(LENGTHS)

    def test_a_source_gives_all_its_examples_before_one_comes_again(self):
        sampler = batches([0.05, 0.9, 0.05])
        own = [one for one in np.concatenate(drawn(sampler, 20)) if 300 <= one < 350]
        assert len(own) > 100
        assert sorted(own[:50]) == sorted(own[50:100]) == list(range(300, 350))
        assert own[:50] != own[50:100]
        assert sampler.frame().filter(source="b")["tokens"].sum() == len(own) * LENGTHS[1]

    def test_a_source_that_is_begun_a_fifth_time_is_a_warning(self, capsys):
        sampler = batches([0.05, 0.9, 0.05])
        drawn(sampler, 27)
        assert "warning" not in capsys.readouterr().err
        drawn(batches([0.05, 0.9, 0.05]), 40)
        assert capsys.readouterr().err.count("begins b (50 rows) for the 5th time") == 1

    def test_a_source_that_is_not_in_a_batch_keeps_its_last_loss_and_begins_with_that_of_the_first_batch(
        self,
    ):
        sampler = batches([0.98, 0.01, 0.01])
        seen = []

        class Watch:
            weights, recent, laws = np.array([0.98, 0.01, 0.01]), np.full(3, np.nan), None

            def observe(self, step, tokens, losses):
                seen.append((tokens > 0, losses))

        sampler._online = Watch()
        for step in range(40):
            examples = sampler.batch(step)
            loss = 1.0 + step
            nll = loss * np.repeat(LENGTHS, COUNTS)[examples] / 2
            sampler.observe(step, examples, nll[:, None].astype(np.float32))
        present = np.array([one for one, _ in seen])
        assert not present[:, 1].all()
        for k in range(3):
            expected = 1.0
            for step in range(40):
                expected = 1.0 + step if present[step, k] else expected
                assert seen[step][1][k] == pytest.approx(expected)


@pytest.fixture(scope="module")
def pool(tiny):
    """Return a model, examples of two sources as tokens, and the source of each."""
    ref, examples = ModelRef(name=str(tiny), dtype="float32", device="cpu"), toy_examples(60)
    rendered = Renderer.of(ref).render(examples, max_length=128)
    return ref, rendered, {example.id: example.source for example in examples}


TUNING = Tuning(learning_rate=1e-2, batch_size=2, rank=2, steps=14)


@pytest.fixture
def soon(monkeypatch):
    """Have ADO look soon, and often."""
    schedules = {True: Schedule(start=2, every=2, thin=1, points=5, first=11), False: SOON}
    monkeypatch.setattr(Schedule, "of", lambda steps, *, heldout: schedules[heldout])


def train(pool, folder, text, **tuning):
    ref, rendered, sources = pool
    sampler = Mixed(proportions=Proportions.parse(text), sources=sources)
    how = Tuning(**{**vars(TUNING), **tuning})
    done = fine_tune(ref, rendered, folder, tuning=how, label="training", sampler=sampler)
    return done, pl.read_parquet(folder / "mixture.parquet")


@pytest.mark.usefixtures("soon")
def test_a_killed_training_goes_on_to_the_same_proportions_and_bits(pool, tmp_path, monkeypatch):
    step, text, asked = Loop.step, "ado@curve=training", count(1)

    def killed(self):
        if self.done == 13:
            raise KeyboardInterrupt
        step(self)

    _, whole = train(pool, tmp_path / "whole", text)
    with monkeypatch.context() as dying:
        dying.setattr(Loop, "step", killed)
        dying.setattr(checkpoints.Checkpoints, "due", lambda self: next(asked) == 11)
        with pytest.raises(KeyboardInterrupt):
            train(pool, tmp_path / "killed", text)
    _, gone_on = train(pool, tmp_path / "killed", text)
    assert_frame_equal(whole, gone_on)
    assert whole.filter(step=13)["pi"].to_list() != whole.filter(step=0)["pi"].to_list()
    first, second = (load_file(tmp_path / each / "adapter_model.safetensors") for each in ("whole", "killed"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.usefixtures("soon")
def test_rows_whose_loss_is_followed_are_not_trained_on(pool, tmp_path, monkeypatch):
    met, probed = set(), set()
    observe, probe = MixedBatches.observe, MixedBatches.probe

    def observed(self, step, examples, nll):
        met.update(examples)
        observe(self, step, examples, nll)

    def asked(self, step):
        probed.update(wanted := probe(self, step))
        return wanted

    monkeypatch.setattr(MixedBatches, "observe", observed)
    monkeypatch.setattr(MixedBatches, "probe", asked)
    _, frame = train(pool, tmp_path / "model", "ado", batch_size=12)  # each row about three times
    looked = frame.filter(pl.col("heldout").is_not_nan())
    assert looked["step"].unique().to_list() == [2, 4, 6, 8, 10, 12]
    assert len(probed) == 6
    assert not met & probed
    assert frame.filter(step=13)["alpha"].is_not_nan().all()


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("natural", {"a.jsonl": 0.75, "b.jsonl": 0.25}),
        ("uniform", {"a.jsonl": 0.5, "b.jsonl": 0.5}),
        ("a=0.9,b=0.1", {"a.jsonl": 0.9, "b.jsonl": 0.1}),
        ("b.jsonl=90%,a=10%", {"a.jsonl": 0.1, "b.jsonl": 0.9}),
        ("ado@prior=uniform", {"a.jsonl": 0.5, "b.jsonl": 0.5}),
        ("ado@a=0.9,b=0.1,curve=heldout", {"a.jsonl": 0.9, "b.jsonl": 0.1}),
    ],
)
def test_a_mixture_by_name_or_by_shares(text, shares):
    found = Proportions.parse(text)
    assert found.shares({"a.jsonl": 300, "b.jsonl": 100}) == pytest.approx(shares)
    assert Proportions.parse(str(found)) == found


@pytest.mark.parametrize(
    "text", ["naturl", "a=0.7", "a=0.7,b=0.4", "a=1.2,b=-0.2", "a=x,b=1", "a=0.5,a=0.5", "ado@curve=flat"]
)
def test_a_mixture_that_cannot_be_read_is_refused(text):
    with pytest.raises(UsageError):
        Proportions.parse(text)


@pytest.mark.parametrize(
    ("text", "rows", "steps"),
    [
        ("a=0.5,c=0.5", {"a": 50, "b": 50}, 100),
        ("a=0.5,b=0.5", {"a": 50, "b": 50, "c": 50}, 100),
        ("uniform", {"a": 50}, 100),
        ("ado", {str(number): 50 for number in range(100)}, 100),
        ("ado", {"a": 50, "b": 3}, 100),
        ("ado", {"a": 50, "b": 50}, 60),
        ("ado@curve=heldout", {"a": 50, "b": 50}, 141),
    ],
)
def test_what_cannot_be_mixed_so_is_refused(text, rows, steps):
    with pytest.raises(UsageError):
        Proportions.parse(text).check(rows, Tuning(steps=steps))


def test_the_least_steps_that_work_do():
    for heldout, least in ((False, 61), (True, 142)):
        assert Schedule.of(least, heldout=heldout).first == least - 1
        with pytest.raises(UsageError):
            Schedule.of(least - 1, heldout=heldout)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return two files of rows, which are two sources."""
    folder, rows = tmp_path_factory.mktemp("rows"), toy_examples(90)
    return [
        str(write_messages(rows[start:end], folder / name))
        for name, start, end in (("a.jsonl", 0, 60), ("b.jsonl", 60, 90))
    ]


def test_a_mixture_by_shares_trains_on_these_shares_and_says_so(files, tiny, tmp_path):
    how = Reference(learning_rate=1e-2, batch_size=8, rank=2, steps=30)
    trained = verbs.train(
        files, model=str(tiny), reference=how, mixture="a=0.2,b=0.8", output=str(tmp_path / "model")
    )
    frame = pl.read_parquet(trained.folder / "part-0" / "mixture.parquet")
    tokens = frame.group_by("source").agg(pl.col("tokens").sum()).sort("source")["tokens"].to_numpy()
    assert tokens[1] / tokens.sum() == pytest.approx(0.8, abs=0.1)
    assert trained.facts["mixture"] == "a=0.2,b=0.8"
    assert f"{tokens[1] / tokens.sum():.1%}" in trained.facts["drawn"]


@pytest.mark.parametrize(
    "more", [{"folds": 2}, {"fraction": 0.5}, {"last_epoch_loss": True}, {"model": "tiny"}]
)
def test_a_mixture_is_of_one_model_that_is_trained_on_all_rows(files, tiny, tmp_path, more):
    more = more | ({"model": str(tiny)} if "model" in more else {})
    with pytest.raises(UsageError, match="mixture"):
        verbs.train(
            files,
            model=str(tiny),
            mixture="natural",
            reference=Reference(**more),
            output=str(tmp_path / "no"),
        )
