"""Per-example gradients against autograd by hand, and what their sums say about a mix."""

import math
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from learnable.errors import TrainError, UsageError
from learnable.experiments import buffering
from learnable.models.loading import load_network
from learnable.models.rendering import Renderer
from learnable.settings import Tuning
from learnable.testing import tiny_model, toy_examples
from learnable.training import fine_tune, gradient_sums, summed_gradients
from learnable.types import ModelRef

LORA = Tuning(rank=2, seed=5)
FULL = Tuning(method="full")


@pytest.fixture(scope="module")
def ref(tiny):
    return ModelRef(name=str(tiny), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def sets(ref):
    rendered = Renderer.of(ref).render(toy_examples(9), max_length=128)
    return {"task": rendered[:5], "buffer": rendered[5:]}


def gradients_by_hand(network, examples):
    """Return one row per example, float64: the gradient of minus the mean log-probability of its response tokens."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    rows = []
    for example in examples:
        ids = torch.tensor(example.ids.astype(np.int64))
        log_probabilities = network(input_ids=ids[None]).logits[0].log_softmax(-1)
        counted = np.flatnonzero(example.mask)
        loss = -log_probabilities[counted - 1, ids[counted]].mean()
        found = torch.autograd.grad(loss, parameters)
        rows.append(torch.cat([gradient.flatten() for gradient in found]).double().numpy())
    return np.array(rows)


def of_parts(rows, part):
    return np.array([rows[part == number].sum(axis=0) for number in range(part.max() + 1)])


@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
def test_gradients_by_hand(ref, sets, tuning):
    sums = gradient_sums(ref, sets, tuning=tuning, label="gradients", parts=3)
    network = summed_gradients.trainable(ref, tuning).eval()
    rows = {name: gradients_by_hand(network, examples) for name, examples in sets.items()}
    for name in sets:
        np.testing.assert_allclose(sums[name].lengths, np.linalg.norm(rows[name], axis=1), rtol=1e-4)
        assert (
            sorted(np.bincount(sums[name].part).tolist(), reverse=True)
            == {
                "task": [2, 2, 1],
                "buffer": [2, 1, 1],
            }[name]
        )
        for other in sets:
            expected = of_parts(rows[name], sums[name].part) @ of_parts(rows[other], sums[other].part).T
            np.testing.assert_allclose(sums[name].products[other], expected, rtol=1e-3, atol=1e-5)


def test_only_the_second_factors_of_fresh_adapters_have_gradients(ref, sets):
    network = summed_gradients.trainable(ref, LORA).eval()
    (row,) = gradients_by_hand(network, sets["task"][:1])
    trained = [(name, p.numel()) for name, p in network.named_parameters() if p.requires_grad]
    pieces = np.split(row, np.cumsum([size for _, size in trained])[:-1])
    zero = {
        name.split("lora_")[1][0]: not piece.any() for (name, _), piece in zip(trained, pieces, strict=True)
    }
    assert zero == {"A": True, "B": False}


def test_rows_of_tokens_count(ref, sets):
    options = {"tuning": LORA, "label": "gradients", "parts": 1}
    token = int(sets["task"][0].ids[0])
    without = gradient_sums(ref, {"task": sets["task"]}, **options)["task"].lengths
    with_rows = gradient_sums(ref, {"task": sets["task"]}, token_ids=[token], **options)["task"].lengths
    assert (with_rows > without).all()


def test_the_adapters_are_those_that_a_training_begins_with(ref, sets, tmp_path):
    still = replace(LORA, learning_rate=1e-30)
    trained = fine_tune(ref, sets["task"], tmp_path, tuning=still, label="training")
    saved = load_file(trained.folder / "adapter_model.safetensors")
    fresh = summed_gradients.trainable(ref, LORA).eval().state_dict()
    first_factors = [name for name in saved if "lora_A" in name]
    assert first_factors
    for name in first_factors:
        assert torch.equal(saved[name], fresh[name.replace(".weight", ".default.weight")])


def test_the_state_of_the_random_numbers_is_left_alone(ref, sets):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    gradient_sums(ref, sets, tuning=LORA, label="gradients", parts=1)
    assert torch.equal(torch.rand(1), expected)


def test_products_are_the_same_in_pieces(ref, sets, monkeypatch):
    whole = gradient_sums(ref, sets, tuning=LORA, label="gradients")
    monkeypatch.setattr(summed_gradients, "PRODUCTS_AT_ONCE", 50)
    pieces = gradient_sums(ref, sets, tuning=LORA, label="gradients")
    for name in sets:
        np.testing.assert_allclose(pieces[name].products["task"], whole[name].products["task"], rtol=1e-9)


def test_bfloat16_gives_about_the_same(tiny, ref, sets):
    rounded = gradient_sums(replace(ref, dtype="bfloat16"), sets, tuning=LORA, label="gradients", parts=1)
    exact = gradient_sums(ref, sets, tuning=LORA, label="gradients", parts=1)
    np.testing.assert_allclose(rounded["task"].lengths, exact["task"].lengths, rtol=0.05)


def test_examples_without_response_tokens_are_left_out_and_said(ref, sets, capsys):
    (empty,) = Renderer.of(ref).render(toy_examples(1), max_length=3)
    given = {"task": [empty, *sets["task"]]}
    sums = gradient_sums(ref, given, tuning=LORA, label="gradients")
    assert len(sums["task"].lengths) == len(sets["task"])
    assert "task: 1 of 6 examples have no response token" in capsys.readouterr().err
    with pytest.raises(TrainError, match="no example of task"):
        gradient_sums(ref, {"task": [empty]}, tuning=LORA, label="gradients")


def test_a_gradient_that_is_not_finite_is_refused(sets, tmp_path):
    ref = ModelRef(name=str(tiny_model(tmp_path)), dtype="float32", device="cpu")
    network = load_network(ref)
    with torch.no_grad():
        network.get_output_embeddings().weight[0] = float("nan")
    network.save_pretrained(tmp_path)
    with pytest.raises(TrainError, match=f"example {sets['task'][0].id[:8]} is not finite"):
        gradient_sums(ref, sets, tuning=LORA, label="gradients")


def test_no_parts_are_refused(ref, sets):
    with pytest.raises(UsageError, match="parts must be at least 1, got 0"):
        gradient_sums(ref, sets, tuning=LORA, label="gradients", parts=0)


def sized(network):
    return 4 * sum(p.numel() for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize(("vectors", "expected"), [(8, [3, 3]), (7, [3, 3]), (6.9, [2, 2]), (3, [1, 1])])
def test_fewer_parts_where_memory_is_short(ref, sets, monkeypatch, capsys, vectors, expected):
    free = math.ceil(
        vectors * sized(summed_gradients.trainable(ref, LORA).eval()) / summed_gradients.MEMORY_SHARE
    )
    monkeypatch.setattr(summed_gradients, "free_bytes", lambda _: free)
    sums = gradient_sums(ref, sets, tuning=LORA, label="gradients", parts=3)
    assert [int(sums[name].part.max()) + 1 for name in sets] == expected
    assert ("parts of each set instead of 3" in capsys.readouterr().err) == (expected != [3, 3])


def test_memory_for_less_than_one_part_is_an_error(ref, sets, monkeypatch):
    monkeypatch.setattr(summed_gradients, "free_bytes", lambda _: 1_000)
    with pytest.raises(TrainError, match="GB of memory, and") as error:
        gradient_sums(ref, sets, tuning=FULL, label="gradients")
    assert "--gradients 0" in error.value.hint


@pytest.mark.parametrize(
    "raised",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
)
def test_memory_that_runs_out_is_an_error_of_ours(ref, sets, monkeypatch, raised):
    def fails(*_, **__):
        raise raised

    monkeypatch.setattr(summed_gradients, "_added", fails)
    with pytest.raises(TrainError, match="do not fit the memory") as error:
        gradient_sums(ref, sets, tuning=LORA, label="gradients")
    assert "--gradients 0" in error.value.hint


def test_other_errors_of_a_pass_stay_what_they_are(ref, sets, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(summed_gradients, "_added", fails)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        gradient_sums(ref, sets, tuning=LORA, label="gradients")


# What the sums say about a mix


@dataclass(frozen=True)
class Sums:
    lengths: np.ndarray
    part: np.ndarray
    products: dict


def sums_of(parts=None, **sets):
    """Return what is kept of made-up gradients, (n, d); every example is a part of its own when not said otherwise."""
    rows = {name: np.array(given, dtype=np.float64) for name, given in sets.items()}
    split = {name: np.arange(len(given)) % (parts or len(given)) for name, given in rows.items()}
    by_part = {name: of_parts(given, split[name]) for name, given in rows.items()}
    return {
        name: Sums(
            lengths=np.linalg.norm(given, axis=1),
            part=split[name],
            products={other: by_part[name] @ by_part[other].T for other in rows},
        )
        for name, given in rows.items()
    }


def value(frame, quantity, ratio, estimate="plain", column="value"):
    rows = frame.filter(quantity=quantity, ratio=ratio, estimate=estimate)
    assert rows.height == 1
    return rows[column][0]


CROSSED = sums_of(task=[(3, 4), (3, -4)], buffer=[(0, 2), (0, 4)])
AGAINST = sums_of(task=[(2, 1, 0), (2, -1, 0)], buffer=[(-1, 0, 0), (-1, 0, 0), (-1, 0, 0)])


@pytest.mark.parametrize(
    ("sums", "quantity", "ratio", "estimate", "expected"),
    [
        (CROSSED, "mean_length", 0, "plain", 5),
        (CROSSED, "mean_length", 2, "plain", 11 / 3),
        (CROSSED, "mean_length", math.inf, "plain", 3),
        (CROSSED, "length_of_mean", 0, "plain", 3),
        (CROSSED, "length_of_mean", 2, "plain", 5**0.5),
        (CROSSED, "length_of_mean", math.inf, "plain", 3),
        (CROSSED, "coherence", 0, "plain", 0.6),
        (CROSSED, "coherence", 2, "plain", 5**0.5 * 3 / 11),
        (CROSSED, "coherence", math.inf, "plain", 1),
        (CROSSED, "cosine_to_task", 0, "plain", 1),
        (CROSSED, "cosine_to_task", 2, "plain", 5**-0.5),
        (CROSSED, "cosine_to_task", math.inf, "plain", 0),
        (CROSSED, "along_task", 2, "plain", 1 / 3),
        (CROSSED, "along_task", math.inf, "plain", 0),
        # The dot product of the two examples of the task is -7, of the buffer 8.
        (CROSSED, "length_of_mean", 0, "debiased", -(7**0.5)),
        (CROSSED, "coherence", 0, "debiased", -(7**0.5) / 5),
        (CROSSED, "coherence", math.inf, "debiased", 8**0.5 / 3),
        (CROSSED, "length_of_mean", 2, "debiased", 5 / 3),
        (CROSSED, "cosine_to_task", 2, "debiased", math.nan),
        (CROSSED, "along_task", 2, "debiased", math.nan),
        (AGAINST, "along_task", 1, "plain", 1 / 4),
        (AGAINST, "along_task", 1, "debiased", 1 / 6),
        (AGAINST, "cosine_to_task", math.inf, "plain", -1),
        (AGAINST, "cosine_to_task", math.inf, "debiased", -2 / 3**0.5),
        (AGAINST, "length_of_mean", 2, "plain", 0),
    ],
)
def test_buffering_by_hand(sums, quantity, ratio, estimate, expected):
    frame = buffering(sums, ratios=[1, 2])
    assert value(frame, quantity, ratio, estimate) == pytest.approx(expected, nan_ok=True, abs=1e-7)


def test_a_mix_is_one_data_set():
    rng = np.random.default_rng(0)
    inputs, targets, weights = rng.normal(size=(12, 3)), rng.normal(size=12), rng.normal(size=3)
    rows = (inputs @ weights - targets)[:, None] * inputs  # of half the squared error of a linear model
    frame = buffering(sums_of(task=rows[:4], buffer=rows[4:]), ratios=[2])
    of_all = inputs.T @ (inputs @ weights - targets) / 12
    assert value(frame, "length_of_mean", 2) == pytest.approx(np.linalg.norm(of_all))
    assert value(frame, "mean_length", 2) == pytest.approx(np.linalg.norm(rows, axis=1).mean())


def test_gradients_of_a_model_and_their_mix(ref, sets):
    frame = buffering(gradient_sums(ref, sets, tuning=LORA, label="gradients"), ratios=[4 / 5])
    network = summed_gradients.trainable(ref, LORA).eval()
    rows = gradients_by_hand(network, [*sets["task"], *sets["buffer"]])
    assert value(frame, "length_of_mean", 4 / 5) == pytest.approx(np.linalg.norm(rows.mean(axis=0)), rel=1e-4)


def test_the_table_is_tidy():
    frame = buffering(CROSSED)
    assert frame.schema == {
        "set": pl.String, "ratio": pl.Float64, "quantity": pl.String, "estimate": pl.String,
        "value": pl.Float64, "error": pl.Float64,
    }  # fmt: skip
    assert frame.select("ratio", "quantity", "estimate").is_duplicated().sum() == 0
    by_set = frame.group_by("set").agg(
        pl.col("ratio").min().alias("least"), pl.col("ratio").max().alias("most")
    )
    assert {row["set"]: (row["least"], row["most"]) for row in by_set.iter_rows(named=True)} == {
        "task": (0, 0),
        "mix": (0.5, 260),
        "buffer": (math.inf, math.inf),
    }
    assert frame.height == 12 * 9


def simulated(*, common):
    """Return 200 tables of 24 noisy gradients a set: of the task along one direction, of the buffer along two."""
    tables = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        task = rng.normal(size=(24, 20)) + common * np.eye(20)[0]
        buffer = rng.normal(size=(24, 20)) + common / 2 * (np.eye(20)[0] + np.eye(20)[1])
        tables.append(buffering(sums_of(8, task=task, buffer=buffer), ratios=[2]))
    return pl.concat(tables)


def test_debiased_squared_lengths_have_no_bias():
    simulations = simulated(common=1)
    for ratio, expected in ((0, 1.0), (math.inf, 0.5), (2, (1 + 4 * 0.5 + 4 * 0.5) / 9)):
        lengths = simulations.filter(quantity="length_of_mean", estimate="debiased", ratio=ratio)["value"]
        squares = lengths.sign() * lengths**2
        assert squares.mean() == pytest.approx(expected, abs=4 * squares.std() / 200**0.5)
        plain = simulations.filter(quantity="length_of_mean", estimate="plain", ratio=ratio)["value"]
        assert (plain**2).mean() > expected + 0.2


def test_errors_are_the_spread_over_repetitions():
    simulations = simulated(common=2).filter(ratio=2.0).group_by("quantity", "estimate")
    spread = simulations.agg(pl.col("value").std().alias("spread"), pl.col("error").mean().alias("error"))
    assert spread.height == 9
    np.testing.assert_allclose(spread["error"], spread["spread"], rtol=0.25)


def test_the_error_of_a_mean_is_the_textbook_one():
    lengths = np.array([1.0, 2.0, 4.0, 5.0])
    frame = buffering(sums_of(task=lengths[:, None], buffer=[[1.0], [3.0]]), ratios=[1])
    standard_error = lengths.std(ddof=1) / 2
    assert value(frame, "mean_length", 0, column="error") == pytest.approx(standard_error)
    assert value(frame, "mean_length", 1, column="error") == pytest.approx(math.hypot(standard_error, 1) / 2)


def test_one_part_gives_no_error():
    frame = buffering(sums_of(1, task=[(3, 4), (3, -4)], buffer=[(0, 2), (0, 4)]))
    assert frame["error"].is_nan().all()
    assert value(frame, "coherence", 0) == pytest.approx(0.6)


def test_one_example_has_no_debiased_length_and_spoils_no_other():
    frame = buffering(sums_of(task=[(2, 1), (2, -1)], buffer=[(1, 0)]))
    assert value(frame, "length_of_mean", 0, "debiased") == pytest.approx(3**0.5)
    assert math.isnan(value(frame, "length_of_mean", 1, "debiased"))
    assert value(frame, "length_of_mean", math.inf) == 1


def test_gradients_of_zero_have_no_coherence():
    frame = buffering(sums_of(task=[(0, 0), (0, 0)], buffer=[(1, 0), (1, 0)]))
    assert math.isnan(value(frame, "coherence", 0))
    assert math.isnan(value(frame, "along_task", 1))


def test_what_makes_no_sense_is_refused():
    with pytest.raises(UsageError, match="no gradients of 'bufer'") as error:
        buffering(CROSSED, buffer="bufer")
    assert "did you mean 'buffer'?" in str(error.value)
    for ratio in (0, -1, math.inf, math.nan):
        with pytest.raises(UsageError, match="ratios must be above 0"):
            buffering(CROSSED, ratios=[1, ratio])
