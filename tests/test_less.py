"""LESS: the score by hand, against whole vectors written out, by sketches, and what must not change it."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

import learnable as ln
from learnable.commands.network import gradient_epochs
from learnable.data.target import Target
from learnable.errors import ModelError, TrainError, UsageError
from learnable.measures import lengths
from learnable.models.language_model import LanguageModel
from learnable.models.packing import padded
from learnable.models.rendering import Renderer
from learnable.objects.gradients import GradientPasses
from learnable.objects.passes import Passes
from learnable.runs.store import Store
from learnable.scorers import LESS
from learnable.scorers.loss import Loss
from learnable.settings import Tuning
from learnable.testing import tiny_model, toy_examples
from learnable.training import fine_tune, target_gradients
from learnable.training.epochs import AdamAdjusted, Moments, kept_epochs
from learnable.training.gradients import Products, Squares, parameter_names, take_gradients
from learnable.types import Example, ModelRef

EXACT = LESS()
WARMUP = Tuning(rank=2, epochs=2, batch_size=4, learning_rate=1e-2)


@pytest.fixture(scope="module")
def ref(tiny):
    return ModelRef(name=str(tiny), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def pool():
    return toy_examples(24)


@pytest.fixture(scope="module")
def target():
    rows = toy_examples(6, seed=9)
    return Target(examples=rows, subtasks=["a", "a", "a", "a", "b", "b"], identity="")


@pytest.fixture(scope="module")
def warm_up(ref, pool, tmp_path_factory):
    folder = tmp_path_factory.mktemp("warmup")
    rendered = Renderer.of(ref).render(pool, max_length=128)
    how = {"tuning": WARMUP, "label": "warm-up", "keep_epochs": True, "layers": "attention"}
    fine_tune(ref, rendered, folder, **how)
    return kept_epochs(folder)


@pytest.fixture(scope="module")
def shared(ref):
    """Return a model whose weights all tests share."""
    return LanguageModel(ref)


@pytest.fixture
def scored(ref, shared, warm_up, tmp_path):
    """Return scores and cosines of rows; every call has the same store."""

    def less(pool, target, method=EXACT, warm_up=warm_up, load=lambda _: shared, store=tmp_path / "store"):
        passes = Passes(ref, max_length=128, store=Store(store), load=load)
        rendered, rows = (passes.renderer.render(part, max_length=128) for part in (pool, target.examples))
        frame = lengths(rendered)
        cosines = GradientPasses(passes, warm_up, target, rows).cosines(method, rendered, frame)
        column = pl.Series("gradient_cosines", cosines.tolist(), dtype=pl.List(pl.Float32))
        return method(frame.with_columns(column)), cosines

    return less


# By hand


def features(*rows):
    return {"w": torch.tensor(rows, dtype=torch.float32)}


@pytest.mark.parametrize("scale", [1, 1000])
def test_the_score_by_hand(scale):
    """Two checkpoints, subtask A of two rows, B of one: A has 0.65, B -0.45."""
    checkpoints = [
        ([3, 4], {"A": [(1, 0), (0, 1)], "B": [(-1, 0)]}),
        ([1, 0], {"A": [(1, 0), (0, 2)], "B": [(0, -1)]}),
    ]
    method, total = LESS(), np.zeros(2)
    weights = method.weights([0.75 * scale, 0.25 * scale])
    for (row, subtasks), weight in zip(checkpoints, weights.values(), strict=True):
        rows = [torch.tensor(rows, dtype=torch.float32) for rows in subtasks.values()]
        means = [(each / each.norm(dim=1, keepdim=True)).mean(dim=0) for each in rows]
        products, squares = Products({"w": torch.stack(means)}), Squares()
        for consumer in (products, squares):
            consumer.add("w", torch.tensor([row], dtype=torch.float32))
        total += weight * (products.found / squares.found.sqrt()[:, None])[0].numpy()
    np.testing.assert_allclose(total, [0.65, -0.45], atol=1e-6)
    frame = pl.DataFrame({"gradient_cosines": pl.Series([total.tolist()], dtype=pl.List(pl.Float32))})
    assert method(frame)[0] == pytest.approx(0.65)


def test_epochs_of_the_highest_rates_count():
    rates = [1.0, 3.0, 2.0]
    assert LESS().weights(rates) == pytest.approx({0: 1 / 6, 1: 1 / 2, 2: 1 / 3})
    assert LESS(checkpoints=2).weights(rates) == pytest.approx({1: 3 / 5, 2: 2 / 5})
    assert LESS(checkpoints=9).weights(rates) == LESS().weights(rates)
    with pytest.raises(UsageError, match="less needs checkpoints of at least 1, got 0"):
        LESS(checkpoints=0)


# Against whole vectors


class Whole:
    def __init__(self):
        self.found = {}

    def add(self, name, gradients):
        self.found[name] = gradients


def whole_vectors(model, rendered, moments=None, adam="code"):
    """Return unit gradients as rows of one matrix, float64 (n, P), taken one example at a time."""
    rows = []
    for example in rendered:
        whole = Whole()
        consumer = whole if moments is None else AdamAdjusted(moments, adam, [whole])
        take_gradients(model.network, [example], padded([example]), [consumer])
        row = torch.cat([whole.found[name] for name in parameter_names(model.network)], dim=1)[0].double()
        rows.append((row / row.norm()).numpy())
    return np.array(rows)


def official(ref, shared, pool, target, warm_up, adam):
    """Return the official formula with whole vectors: mean within each subtask, sum over checkpoints, maximum."""
    render, total = Renderer.of(ref).render, 0.0
    rates = np.array([epoch.learning_rate for epoch in warm_up])
    for epoch, weight in zip(warm_up, rates / rates.sum(), strict=True):
        with shared.adapter(epoch.folder):
            rows = whole_vectors(shared, render(pool, max_length=128), Moments.of(epoch), adam)
            aims = whole_vectors(shared, render(target.examples, max_length=128))
        total = total + weight * rows @ aims.T
    subtasks = np.array(target.subtasks)
    return np.max([total[:, subtasks == name].mean(axis=1) for name in sorted(set(subtasks))], axis=0)


@pytest.mark.parametrize("adam", ["code", "exact"])
def test_scores_are_the_official_formula(ref, shared, pool, target, warm_up, scored, adam):
    expected = official(ref, shared, pool, target, warm_up, adam)
    found, _ = scored(pool, target, LESS(adam=adam))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.std() > 0.01


def test_sketches_agree_up_to_noise(pool, target, scored):
    exact, _ = scored(pool, target)
    dimensions = 512
    found, _ = scored(pool, target, LESS(store="sketch", dimensions=dimensions))
    apart = np.abs(found - exact)
    assert (apart <= 4 / dimensions**0.5).mean() >= 0.99
    assert apart.max() > 1e-6


class Identity:
    """A map that keeps every coordinate: a sketch of as many dimensions as there are parameters."""

    def __init__(self, *, dimensions, seed):
        self._parts = {}

    def add(self, name, gradients):
        self._parts[name] = gradients

    @property
    def found(self):
        return torch.cat([self._parts[name] for name in sorted(self._parts)], dim=1)


def test_without_a_map_both_ways_are_one(pool, target, scored, shared, warm_up, monkeypatch):
    with shared.adapter(warm_up[0].folder):
        names = parameter_names(shared.network)
    size = sum(shared.network.get_parameter(_in_network(shared, name)).numel() for name in names)
    monkeypatch.setattr(target_gradients, "CountSketch", Identity)
    exact, _ = scored(pool, target)
    found, _ = scored(pool, target, LESS(store="sketch", dimensions=size))
    np.testing.assert_allclose(found, exact, atol=1e-6)


def _in_network(model, name):
    (adapter,) = model.network.active_adapters
    return name.removesuffix(".weight") + f".{adapter}.weight"


# What is kept


def refuses(_):
    raise AssertionError("a pass was taken")


def test_another_target_costs_no_pass_over_the_pool_where_sketches_are_kept(pool, target, scored, shared):
    method = LESS(store="sketch", dimensions=256)
    scored(pool, target, method)
    measured = []
    measure = shared.measure

    def told(launch, batches):
        measured.extend(example.id for batch in batches for example in batch)
        return measure(launch, batches)

    other = Target(examples=toy_examples(3, seed=11), subtasks=["a"] * 3, identity="")
    shared.measure = told
    try:
        found, _ = scored(pool, other, method)
    finally:
        del shared.measure
    assert set(measured) == set(other.ids)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("method", [LESS(), LESS(store="sketch", dimensions=256)], ids=["cosines", "sketch"])
def test_what_is_stored_costs_no_pass(pool, target, scored, method):
    first, _ = scored(pool, target, method)
    again, _ = scored(pool, target, method, load=refuses)
    np.testing.assert_array_equal(again, first)


def test_sketches_of_another_seed_or_size_are_taken_anew(pool, target, scored, tmp_path):
    usual = LESS(store="sketch", dimensions=256)
    first, _ = scored(pool, target, usual)
    for other in (replace(usual, seed=1), replace(usual, dimensions=128)):
        beside, _ = scored(pool, target, other)
        alone, _ = scored(pool, target, other, store=tmp_path / f"{other.seed}-{other.dimensions}")
        np.testing.assert_array_equal(beside, alone)
        assert (beside != first).any()
    again, _ = scored(pool, target, usual, load=refuses)
    np.testing.assert_array_equal(again, first)


def test_a_killed_pass_goes_on_to_the_same_bits(pool, target, scored, shared, tmp_path, monkeypatch):
    whole, _ = scored(pool, target)
    monkeypatch.setattr("learnable.measures.keep.STORE_EVERY_S", 0.0)
    taken, batch_cosines = [], target_gradients.batch_cosines

    def killed(network, rendered, layout, **how):
        if len(taken) == 2:
            raise KeyboardInterrupt
        taken.append(len(rendered))
        return batch_cosines(network, rendered, layout, **how)

    small = replace(shared.ref, batch_tokens=100)
    monkeypatch.setattr(shared, "ref", small)
    expected, _ = scored(pool, target, store=tmp_path / "unbroken")
    monkeypatch.setattr(target_gradients, "batch_cosines", killed)
    with pytest.raises(KeyboardInterrupt):
        scored(pool, target, store=tmp_path / "broken")
    monkeypatch.setattr(target_gradients, "batch_cosines", batch_cosines)
    found, _ = scored(pool, target, store=tmp_path / "broken")
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(found, whole, atol=1e-5)


# What must not change


def test_a_row_of_the_target_in_the_pool_is_first(pool, target, scored):
    aim = replace(target, examples=target.examples[:1], subtasks=["a"])
    found, _ = scored([*pool, target.examples[0]], aim)
    assert int(found.argmax()) == len(pool)


def test_rows_that_stand_twice_in_a_subtask_change_nothing(pool, target, scored):
    twice = Target(examples=[*target.examples] * 2, subtasks=[*target.subtasks] * 2, identity="")
    np.testing.assert_allclose(scored(pool, twice)[0], scored(pool, target)[0], atol=1e-6)


def test_the_order_of_rows_changes_nothing(pool, target, scored, tmp_path):
    turned = Target(examples=target.examples[::-1], subtasks=target.subtasks[::-1], identity="")
    found, _ = scored(pool[::-1], turned, store=tmp_path / "turned")
    np.testing.assert_allclose(found[::-1], scored(pool, target)[0], atol=1e-5)


def test_the_lengths_of_a_targets_gradients_do_not_matter(ref, shared, target, warm_up, monkeypatch):
    """A row whose loss counts ten times as much has a gradient ten times as long."""
    rendered = Renderer.of(ref).render(target.examples, max_length=128)
    batches = [[place] for place in range(len(rendered))]
    first = rendered[0].id
    take = target_gradients.take_gradients

    class Tenfold:
        def __init__(self, inner):
            self._inner = inner

        def add(self, name, gradients):
            self._inner.add(name, 10 * gradients)

    def scaled(network, rows, layout, consumers):
        longer = rows[0].id == first
        take(network, rows, layout, [Tenfold(each) if longer else each for each in consumers])

    with shared.adapter(warm_up[0].folder):
        expected = target_gradients.target_vectors(shared, rendered, target.subtasks, batches=batches)
        monkeypatch.setattr(target_gradients, "take_gradients", scaled)
        found = target_gradients.target_vectors(shared, rendered, target.subtasks, batches=batches)
    for name, value in expected.items():
        assert value.shape[0] == 2
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-7)


def test_a_gradient_against_the_target_is_last(ref, shared, pool, target, warm_up):
    """With moments of 0, a step on the target's row that is turned around goes straight away from it."""
    render = Renderer.of(ref).render
    aim = render(target.examples[:1], max_length=128)
    rows = [*render(pool, max_length=128), aim[0]]
    with shared.adapter(warm_up[0].folder):
        vectors = target_gradients.target_vectors(shared, aim, ["a"], batches=[[0]])
        products, squares = Products(vectors), Squares()
        take_gradients(shared.network, rows, padded(rows), [products, squares])
    cosines = (products.found / squares.found.sqrt()[:, None])[:, 0].tolist()
    assert cosines[-1] == pytest.approx(1, abs=1e-5)
    assert -cosines[-1] < min(cosines[:-1])


# What cannot be


def test_rows_without_an_answer_have_no_score(pool, target, scored):
    long = Example(
        id="long",
        messages=(replace(pool[0].messages[0], content="red " * 300), pool[0].messages[1]),
        source="",
    )
    found, cosines = scored([*pool, long], target)
    assert np.isnan(found[-1])
    assert np.isnan(cosines[-1]).all()
    assert np.isfinite(found[:-1]).all()


def test_gradients_are_taken_here(pool, target, scored):
    class Elsewhere:
        def adapter(self, _):
            from contextlib import nullcontext

            return nullcontext()

    with pytest.raises(UsageError, match="gradients are taken on this machine"):
        scored(pool, target, load=lambda _: Elsewhere())


# From rows


def rows(examples):
    return [
        {"messages": [{"role": m.role, "content": m.content} for m in each.messages]} for each in examples
    ]


@pytest.fixture(scope="module")
def kept(ref, pool, tmp_path_factory):
    folder = tmp_path_factory.mktemp("python")
    how = {"epochs": 2, "rank": 2, "batch_size": 4, "keep_epochs": True, "layers": "attention"}
    return ln.train(rows(pool), ln.Model(ref.name, dtype="float32"), output=folder / "warmup", **how)


def test_scores_from_python(ref, pool, target, kept):
    model = ln.Model(ref.name, dtype="float32")
    given = {"target": rows(target.examples), "warmup": kept}
    scores = ln.score(rows(pool), model, scorers=["less", "less@adam=exact", "length"], **given)
    assert scores.frame["less"].is_finite().all()
    assert scores.frame["less"].to_list() != scores.frame["less@adam=exact"].to_list()
    assert scores.says["less"].shape == (len(pool), 1)
    assert -1 <= scores.facts["less: rank correlation with answer tokens"] <= 1


def test_a_row_of_the_target_has_no_score(ref, pool, target, kept):
    model = ln.Model(ref.name, dtype="float32")
    scores = ln.score(
        rows([*pool, target.examples[0]]), model, scorers=["less"], target=rows(target.examples), warmup=kept
    )
    assert np.isnan(scores.frame["less"][-1])
    assert "in the target" in scores.frame["undefined"][-1]


def test_what_is_not_given_is_asked_for(ref, pool, target, kept, tmp_path):
    model = ln.Model(ref.name, dtype="float32")
    with pytest.raises(UsageError, match="less measures against a target"):
        ln.score(rows(pool), model, scorers=["less"])
    with pytest.raises(UsageError, match="less takes gradients at the epochs of a warm-up") as error:
        ln.score(rows(pool), model, scorers=["less"], target=rows(target.examples))
    assert "--keep-epochs" in error.value.hint
    plain = ln.train(rows(pool), model, epochs=1, rank=2, output=tmp_path / "plain")
    with pytest.raises(TrainError, match="keeps no epochs"):
        ln.score(rows(pool), model, scorers=["less"], target=rows(target.examples), warmup=plain)


def test_a_warm_up_of_another_model_is_refused(ref, pool, target, kept, tmp_path):
    other = ln.Model(str(tiny_model(tmp_path / "other", seed=1)), dtype="float32")
    with pytest.raises(ModelError, match="which is not the model given here"):
        ln.score(rows(pool), other, scorers=["less"], target=rows(target.examples), warmup=kept)


def test_a_warm_up_does_not_see_the_rows_of_the_target(ref, pool, target, tmp_path, capsys):
    model, own = ln.Model(ref.name, dtype="float32"), rows(target.examples)
    mixed, how = rows([*pool, *target.examples]), {"epochs": 1, "rank": 2, "keep_epochs": True}
    apart = ln.train(mixed, model, target=own, output=tmp_path / "apart", **how)
    assert apart.trained.facts["rows of the target left out"] == len(own)
    trained_on = pl.read_parquet(tmp_path / "apart" / "assignment.parquet")["id"]
    assert set(trained_on) == {each.id for each in pool}
    both = ln.train(mixed, model, output=tmp_path / "both", **how)
    assert both.trained.identity != apart.trained.identity
    warning = "the warm-up may have trained on rows of the target"
    ln.score(mixed, model, scorers=["less"], target=own, warmup=apart)
    assert warning not in capsys.readouterr().err
    ln.score(mixed, model, scorers=["less"], target=own, warmup=both)
    assert warning in capsys.readouterr().err


def test_a_warm_up_takes_rows_for_eight_steps_and_says_so(ref, capsys):
    model = ln.Model(ref.name, dtype="float32")
    ln.train(rows(toy_examples(40)), model, fraction=0.05, epochs=1, rank=2, batch_size=2, keep_epochs=True)
    said = capsys.readouterr().err
    assert "the warm-up takes 16 rows instead of 2, so that an epoch has 8 steps" in said
    assert "a warm-up of 8 steps leaves Adam's moments noisy" in said
    assert "a pool of 40 rows" in said


def test_epochs_are_priced_once_for_each_way_to_take_gradients():
    ways = [LESS(), LESS(checkpoints=2), LESS(adam="exact", checkpoints=1), Loss()]
    assert gradient_epochs(ways, kept=8) == 8 + 1
    assert gradient_epochs([LESS(checkpoints=9)], kept=3) == 3
    assert gradient_epochs([Loss()]) == 0


def test_a_warm_up_in_folds_is_refused(tiny):
    with pytest.raises(UsageError, match="epochs are kept of one model"):
        ln.train([{"instruction": "a", "output": "b"}] * 4, str(tiny), keep_epochs=True, folds=2)
