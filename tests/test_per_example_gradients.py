"""One batched backward pass against one pass for each example, Adam's adjustment by hand, and sketches."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file, save_file

from architectures import PACKED, PADDED, build
from learnable.errors import TrainError, UsageError
from learnable.models.language_model import LanguageModel
from learnable.models.packing import packed, padded
from learnable.models.rendering import Renderer
from learnable.settings import Tuning
from learnable.testing import toy_examples
from learnable.training import adapters, fine_tune
from learnable.training.epochs import AdamAdjusted, Moments, kept_epochs
from learnable.training.gradients import (
    CountSketch,
    Products,
    Squares,
    WeightedSums,
    parameter_names,
    take_gradients,
    takes_one,
)
from learnable.types import ModelRef, Rendered

LORA = Tuning(rank=2, seed=5)
WARMUP = Tuning(rank=2, epochs=3, batch_size=4, learning_rate=1e-2)


class Whole:
    """Keeps all gradients, by name of the parameter."""

    def __init__(self):
        self.found = {}

    def add(self, name, gradients):
        assert name not in self.found
        assert gradients.dtype == torch.float32
        self.found[name] = gradients


def taken(network, rendered, layout=padded):
    consumer = Whole()
    take_gradients(network, rendered, layout(rendered), [consumer])
    return torch.cat([consumer.found[name] for name in parameter_names(network)], dim=1).double().numpy()


def singly(network, rendered):
    """Return the same by one backward pass for each example."""
    rows = []
    names = {name.replace(".default.", "."): parameter for name, parameter in network.named_parameters()}
    for example in rendered:
        network.zero_grad()
        ids = torch.tensor(example.ids.astype(np.int64))[None]
        labels = ids.masked_fill(~torch.tensor(example.mask)[None], -100)
        network(input_ids=ids, labels=labels).loss.backward()
        found = [names[name].grad for name in parameter_names(network)]
        rows.append(torch.cat([gradient.flatten() for gradient in found]).double().numpy())
    network.zero_grad()
    return np.array(rows)


@pytest.fixture(scope="module")
def ref(tiny):
    return ModelRef(name=str(tiny), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def rendered(ref):
    return Renderer.of(ref).render(toy_examples(9), max_length=128)


@pytest.fixture(scope="module")
def network(ref):
    """Return a network whose adapters are not as they begin: no factor is 0."""
    network = adapters.trainable(ref, LORA).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return network


def assert_same(found, expected):
    scale = np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found / scale, expected / scale, atol=1e-5)


@pytest.mark.parametrize("layout", [padded, packed])
def test_one_pass_is_a_pass_for_each_example(network, rendered, layout):
    expected = singly(network, rendered)
    assert (np.abs(expected).max(axis=0) > 0).mean() > 0.9
    assert_same(taken(network, rendered, layout), expected)


@pytest.mark.parametrize("layout", [padded, packed])
def test_neither_batch_nor_order_matters(network, rendered, layout):
    whole = taken(network, rendered, layout)
    assert_same(np.concatenate([taken(network, [row], layout) for row in rendered]), whole)
    assert_same(taken(network, rendered[::-1], layout)[::-1], whole)


def test_answers_to_one_question_have_gradients_of_their_own(network, ref):
    first = Renderer.of(ref).render(toy_examples(1), max_length=128)[0]
    start = int(first.mask.argmax())
    rows = [
        Rendered(id=str(end), ids=first.ids[: start + end], mask=first.mask[: start + end], truncated=False)
        for end in (2, 3, 5)
    ]
    assert start >= 8
    assert packed(rows).computed < sum(len(row.ids) for row in rows)
    assert_same(taken(network, rows, packed), singly(network, rows))


def test_dropout_changes_nothing(ref, rendered):
    network = adapters.trainable(ref, LORA).train()
    expected = taken(network, rendered)
    for module in network.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    assert network.training
    np.testing.assert_array_equal(taken(network, rendered), expected)
    assert network.training


def test_a_batch_leaves_a_network_as_it_was(network, rendered):
    before = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    taken(network, rendered)
    assert {name: parameter.requires_grad for name, parameter in network.named_parameters()} == before
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


def test_modules_stay_in_the_mode_that_they_were_in(ref, rendered):
    network = adapters.trainable(ref, LORA)
    network.train()
    network.get_base_model().eval()
    taken(network, rendered)
    assert network.training
    assert not any(module.training for module in network.get_base_model().modules())


@pytest.mark.parametrize(
    ("architecture", "layout"),
    [
        ("gpt2", packed), ("gemma2", packed), ("mistral", packed), ("gpt_oss", packed), ("bloom", padded),
        ("mamba", padded),
    ],
)  # fmt: skip
def test_other_architectures(architecture, layout):
    base = build(architecture, (PACKED | PADDED)[architecture])
    network = get_peft_model(base, adapters.lora(LORA, base)).eval()
    torch.manual_seed(0)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    rng = np.random.default_rng(0)
    rows = [
        Rendered(
            id=str(length),
            ids=rng.integers(3, 96, length).astype(np.int32),
            mask=np.arange(length) > length // 2,
            truncated=False,
        )
        for length in (30, 22, 12)
    ]
    rows[1].ids[:10] = rows[0].ids[:10]
    assert_same(taken(network, rows, layout), singly(network, rows))


def test_full_weights_come_one_example_at_a_time(ref, rendered):
    network = adapters.trainable(ref, Tuning(method="full")).eval()
    assert takes_one(network)
    found = np.concatenate([taken(network, [row]) for row in rendered[:2]])
    assert_same(found, singly(network, rendered[:2]))


def test_consumers(network, rendered):
    rows = taken(network, rendered)
    names, weights = parameter_names(network), torch.rand(3, len(rendered))
    whole, squares, sums = Whole(), Squares(), WeightedSums()
    sums.weights = weights
    take_gradients(network, rendered, padded(rendered), [whole, squares, sums])
    products = Products({name: whole.found[name][:2] for name in names})
    take_gradients(network, rendered, padded(rendered), [products])
    np.testing.assert_allclose(squares.found, (rows**2).sum(axis=1), rtol=1e-4)
    np.testing.assert_allclose(products.found, rows @ rows[:2].T, rtol=1e-3, atol=1e-4)
    summed = torch.cat([sums.found[name] for name in names], dim=1)
    np.testing.assert_allclose(summed, weights.double().numpy() @ rows, rtol=1e-3, atol=1e-4)


def moments_of(first, second, step=10):
    return Moments(first={"w": torch.tensor(first)}, second={"w": torch.tensor(second)}, step=step)


def adjusted(moments, adam, gradients):
    whole = Whole()
    AdamAdjusted(moments, adam, [whole]).add("w", torch.tensor(gradients))
    return whole.found["w"].numpy()


@pytest.mark.parametrize(
    ("adam", "gradients", "expected"),
    [
        ("code", [[1.0, 2.0]], [[1.81240, 0.09539]]),
        ("code", [[0.0, 0.0]], [[0.90045, -0.90045]]),
        ("exact", [[1.0, 2.0]], [[0.2763, 0.0145]]),
    ],
)
def test_adam_by_hand(adam, gradients, expected):
    found = adjusted(moments_of([0.1, -0.2], [0.01, 0.04]), adam, gradients)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_epsilon_in_the_root_hardly_normalizes_small_gradients():
    small = moments_of([1e-5, 1e-3], [1e-10, 1e-6], step=10**6)
    np.testing.assert_allclose(adjusted(small, "code", [[0.0, 0.0]]), [[0.0896, 0.8960]], atol=1e-4)
    np.testing.assert_allclose(adjusted(small, "exact", [[0.0, 0.0]]), [[0.8996, 0.9004]], atol=1e-4)
    assert small.small_share == 0.5


def test_exact_adam_is_a_step_of_the_optimizer():
    weights = torch.nn.Parameter(torch.zeros(5))
    optimizer = torch.optim.AdamW([weights], lr=1.0, weight_decay=0.0)
    torch.manual_seed(0)
    for _ in range(7):
        weights.grad = torch.randn(5)
        optimizer.step()
    state = optimizer.state[weights]
    moments = Moments(
        first={"w": state["exp_avg"].clone()}, second={"w": state["exp_avg_sq"].clone()}, step=7
    )
    before, gradient = weights.detach().clone(), torch.randn(5)
    weights.grad = gradient
    optimizer.step()
    found = adjusted(moments, "exact", gradient[None].tolist())[0]
    np.testing.assert_allclose(found, (before - weights.detach()).numpy(), atol=1e-5)


def sketched(rows, *, dimensions, seed=0, names=("a", "b")):
    consumer, half = CountSketch(dimensions=dimensions, seed=seed), rows.shape[1] // 2
    for name, part in zip(names, (rows[:, :half], rows[:, half:]), strict=True):
        consumer.add(name, torch.from_numpy(part))
    return consumer.found.numpy().astype(np.float64)


def test_sketches_keep_products_but_for_noise():
    rng = np.random.default_rng(0)
    x = rng.normal(size=3_000)
    y = 0.3 * x + rng.normal(size=3_000)
    rows = (np.stack([x, y]) / np.sqrt(3_000)).astype(np.float32)
    found = np.array(
        [np.prod(sketched(rows, dimensions=256, seed=seed), axis=0).sum() for seed in range(200)]
    )
    x, y = rows.astype(np.float64)
    variance = ((x @ x) * (y @ y) + (x @ y) ** 2 - 2 * (x**2 * y**2).sum()) / 256
    assert found.mean() == pytest.approx(x @ y, abs=4 * math.sqrt(variance / 200))
    assert found.std() == pytest.approx(math.sqrt(variance), rel=0.2)


def test_sketches_do_not_depend_on_the_order_of_parameters():
    rows = np.random.default_rng(0).normal(size=(2, 40)).astype(np.float32)
    turned = np.concatenate([rows[:, 20:], rows[:, :20]], axis=1)
    found = sketched(rows, dimensions=8)
    np.testing.assert_allclose(sketched(turned, dimensions=8, names=("b", "a")), found, atol=1e-6)
    assert not np.allclose(sketched(rows, dimensions=8, seed=1), found)


def test_places_of_a_sketch_stay_what_they_are():
    """Stored sketches of earlier versions would be noise beside new ones."""
    consumer = CountSketch(dimensions=8, seed=0)
    consumer.add("w", torch.arange(1.0, 7.0)[None])
    assert consumer.found.tolist() == [[0, 0, 3, 0, -5, 0, -10, -1]]


@pytest.fixture(scope="module")
def warmup(ref, rendered, tmp_path_factory):
    folder = tmp_path_factory.mktemp("warmup")
    fine_tune(ref, rendered, folder, tuning=WARMUP, label="warm-up", keep_epochs=True, layers="attention")
    return folder


def test_a_warm_up_keeps_its_epochs(warmup, rendered):
    epochs = kept_epochs(warmup)
    assert [epoch.step for epoch in epochs] == [3, 6, 9]
    # One step of nine rises, from 0; the others fall by half a cosine.
    rates = [0.0, *(1e-2 * 0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8))]
    assert [epoch.learning_rate for epoch in epochs] == pytest.approx(
        np.mean(np.reshape(rates, (3, 3)), axis=1)
    )
    last, end = (load_file(folder / "adapter_model.safetensors") for folder in (epochs[-1].folder, warmup))
    assert last.keys() == end.keys()
    assert all(torch.equal(last[name], end[name]) for name in end)
    moments = Moments.of(epochs[0])
    assert sorted(moments.first) == sorted(end)
    assert all("self_attn" in name for name in end)
    assert all(bool((value >= 0).all()) for value in moments.second.values())


def test_moments_are_those_of_the_optimizer(ref, rendered, tmp_path):
    """Of one step with all rows, the first is a tenth of the gradient, however names are ordered."""
    tuning = replace(WARMUP, epochs=1, batch_size=9, warmup=0.0, learning_rate=1e-30)
    fine_tune(ref, rendered, tmp_path, tuning=tuning, label="warm-up", keep_epochs=True)
    (epoch,) = kept_epochs(tmp_path)
    network = adapters.trainable(ref, tuning)
    tokens = torch.tensor([float(row.mask.sum()) for row in rendered])
    sums = WeightedSums()
    sums.weights = (tokens / tokens.sum())[None]
    take_gradients(network, rendered, padded(rendered), [sums])
    length = math.sqrt(sum(float(value.square().sum()) for value in sums.found.values()))
    moments = Moments.of(epoch)
    for name, value in sums.found.items():
        expected = 0.1 * value[0] / max(length, 1.0)
        np.testing.assert_allclose(moments.first[name], expected, atol=1e-6)


def test_gradients_at_a_kept_epoch_have_the_names_of_its_moments(ref, rendered, warmup):
    model = LanguageModel(ref)
    epoch = kept_epochs(warmup)[0]
    with model.adapter(epoch.folder):
        assert sorted(parameter_names(model.network)) == sorted(Moments.of(epoch).first)
        assert not takes_one(model.network)
        rows = taken(model.network, rendered[:3])
    assert np.linalg.norm(rows, axis=1).min() > 0


def test_a_killed_warm_up_keeps_the_same(ref, rendered, warmup, tmp_path, monkeypatch):
    from learnable.training import checkpoints, loop

    monkeypatch.setattr(checkpoints, "CHECKPOINT_EVERY_S", 0.0)
    steps = iter(range(5))
    step = loop.Loop.step
    monkeypatch.setattr(loop.Loop, "step", lambda self: (next(steps), step(self)))
    options = {"tuning": WARMUP, "label": "warm-up", "keep_epochs": True, "layers": "attention"}
    with pytest.raises(StopIteration):
        fine_tune(ref, rendered, tmp_path, **options)
    monkeypatch.setattr(loop.Loop, "step", step)
    fine_tune(ref, rendered, tmp_path, **options)
    for one, other in zip(kept_epochs(warmup), kept_epochs(tmp_path), strict=True):
        assert (one.step, one.learning_rate) == (other.step, other.learning_rate)
        for name in ("adapter_model.safetensors", "moments.safetensors"):
            assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes()


def test_moments_are_found_by_name_in_any_order(warmup, tmp_path):
    epoch = kept_epochs(warmup)[0]
    turned = dict(reversed(load_file(epoch.folder / "moments.safetensors").items()))
    save_file(turned, tmp_path / "moments.safetensors")
    one, other = Moments.of(epoch), Moments.of(replace(epoch, folder=tmp_path))
    assert all(torch.equal(other.first[name], value) for name, value in one.first.items())


def test_a_warm_up_without_moments_is_an_error(warmup, tmp_path):
    with pytest.raises(TrainError, match="keeps no epochs") as error:
        kept_epochs(tmp_path)
    assert "--keep-epochs" in error.value.hint
    (tmp_path / "epoch-1").mkdir()
    with pytest.raises(TrainError, match=r"has no moments of Adam: moments.safetensors is not there"):
        kept_epochs(tmp_path)


@pytest.mark.parametrize(
    ("tuning", "said"),
    [
        (Tuning(method="full"), r"takes LoRA: a gradient of all [\d,]+ weights has 0\.\d+ GB"),
        (Tuning(epochs=1.5), "takes whole epochs, got 1.5"),
    ],
)
def test_epochs_are_kept_of_adapters_and_whole_epochs_only(ref, rendered, tmp_path, tuning, said):
    with pytest.raises(UsageError, match=said):
        fine_tune(ref, rendered, tmp_path / "warmup", tuning=tuning, label="warm-up", keep_epochs=True)
    assert not (tmp_path / "warmup").exists()


def test_another_models_moments_are_an_error():
    with pytest.raises(TrainError, match="Adam's moments lack other"):
        AdamAdjusted(moments_of([0.0], [0.0]), "code", []).add("other", torch.zeros(1, 1))


def test_gradients_and_exact_adam_are_those_of_dattri(network, rendered):
    gradient = pytest.importorskip("dattri_llm.gradient")
    layout, found = padded(rendered), Whole()
    take_gradients(network, rendered, layout, [found])
    counted = [torch.from_numpy(row.mask) for row in rendered]
    labels = torch.full(layout.ids.shape, -100)
    for row, mask in enumerate(counted):
        labels[row, : len(mask)][mask] = layout.ids[row, : len(mask)][mask]
    capture = gradient.CaptureCallback()
    with gradient.HookManager(network, callbacks=[capture]).collect(deregister_on_exit=True):
        logits = network(input_ids=layout.ids).logits[:, :-1]
        nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none")
        (nll.sum(dim=1) / (labels[:, 1:] != -100).sum(dim=1)).sum().backward()
    network.zero_grad()
    theirs = capture.record.gradient.materialize().data
    assert len(theirs) == len(found.found)
    moments = moments_of([0.1, -0.2], [0.01, 0.04])
    for name, value in theirs.items():
        mine = found.found[name.replace(".default", ".weight")]
        torch.testing.assert_close(value.reshape(mine.shape), mine, rtol=1e-5, atol=1e-6)
    given = torch.tensor([[1.0, 2.0]])
    state = {"exp_avg": moments.first["w"], "exp_avg_sq": moments.second["w"]}
    expected = gradient.ops.precondition(given, state, optimizer_type="AdamW", step=moments.step + 1)
    np.testing.assert_allclose(adjusted(moments, "exact", given.tolist()), expected, rtol=1e-5)
