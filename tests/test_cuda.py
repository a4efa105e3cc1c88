"""On a real GPU: its kernels, losses, gradients, scores, trainings and answers are those of a CPU.

Skipped where there is none; tests/test_gpu_path.py tries what can be tried without.
"""

from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from architectures import PACKED, SWITCHING, WINDOWED, build
from asking import texts_of, vectors_of
from learnable.models.attention import Followed, Scores, by_flash, by_flex, by_segments
from learnable.models.batching import Batching
from learnable.models.language_model import LanguageModel
from learnable.models.losses import batch_token_nll
from learnable.models.packing import packed
from learnable.settings import Tuning
from learnable.testing import toy_examples
from learnable.training import fine_tune
from learnable.training.epochs import Moments, kept_epochs
from learnable.training.target_gradients import batch_sketches
from learnable.types import ModelRef, Rendered

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
    pytest.mark.filterwarnings("ignore"),  # slow paths say that they are slow
]

LENGTHS = (9, 70, 70, 24, 50, 33, 18, 40)
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.03}
"""How far a number around 1 may be from the same in float64."""
KERNELS = {
    "flash": (by_flash, torch.bfloat16, {}),
    "flash, a window": (by_flash, torch.bfloat16, {"window": 32}),
    "flex": (by_flex, torch.float32, {}),
    "flex, a window": (by_flex, torch.float32, {"window": 32}),
    "flex, soft caps": (by_flex, torch.bfloat16, {"softcap": 2.0}),
    "flex, sinks": (by_flex, torch.bfloat16, {"sinks": torch.tensor([0.5, -1.0, 2.0, 0.0])}),
    "segments": (by_segments, torch.bfloat16, {}),
}


def rows_of(lengths, *, shared, seed=0):
    """Return rows of random tokens; the first three begin alike."""
    rng = np.random.default_rng(seed)
    beginning = rng.integers(3, 96, size=shared)
    found = []
    for number, length in enumerate(lengths):
        ids = rng.integers(3, 96, length).astype(np.int32)
        if number < 3 and length > shared:
            ids[:shared] = beginning
        found.append(
            Rendered(id=str(number), ids=ids, mask=np.arange(length) >= length // 2, truncated=False)
        )
    return found


@pytest.mark.parametrize("shared", [0, 40])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_and_its_gradients_are_those_of_the_plain_way(kernel, shared):
    way, dtype, options = KERNELS[kernel]
    layout = packed(rows_of((200, 70, 300, 24, 129), shared=shared))
    torch.manual_seed(0)
    count = layout.ids.shape[1]
    states = [torch.randn(1, heads, count, 32).to(dtype) for heads in (4, 2, 2)]
    given = {}
    for device, kind in (("cpu", torch.float64), ("cuda", dtype)):
        leaves = [part.to(device, kind).requires_grad_() for part in states]
        chosen = {n: v.to(device) if isinstance(v, torch.Tensor) else v for n, v in options.items()}
        followed = Followed(layout, torch.device(device))
        found = (by_segments if device == "cpu" else way)(*leaves, followed, Scores(scale=32**-0.5, **chosen))
        found.sin().sum().backward()
        given[device] = [found, *(leaf.grad for leaf in leaves)]
    for ours, exact in zip(given["cuda"], given["cpu"], strict=True):
        apart = (ours.detach().cpu().double() - exact.detach()).norm() / exact.detach().norm()
        assert apart < ROUNDING[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        pytest.param(name, settings, id=f"{group}-{name}")
        for group, members in {"packed": PACKED, "windowed": WINDOWED, "switching": SWITCHING}.items()
        for name, settings in members.items()
    ],
)
def test_a_row_has_the_loss_that_a_cpu_finds_for_it_alone(architecture, settings, dtype):
    rows = rows_of(LENGTHS, shared=14)
    plain = build(architecture, settings)
    exact = []
    for row in rows:
        ids = torch.from_numpy(row.ids.astype(np.int64))[None]
        with torch.inference_mode():
            logits = plain(input_ids=ids, use_cache=False).logits[0, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        exact.append(losses.numpy()[row.mask[1:]])
    network = plain.to("cuda", dtype)
    batching = Batching(network)
    found = [np.empty(0)] * len(rows)
    for group in batching.groups(rows):
        members = [rows[place] for place in group]
        for place, losses in zip(
            group, batch_token_nll(network, members, batching.layout(members))(), strict=True
        ):
            found[place] = losses
    limit = 2e-4 if dtype == torch.float32 else 0.5  # these random models are sharp: bfloat16 moves them far
    assert max(np.abs(one.mean() - other.mean()) for one, other in zip(found, exact, strict=True)) < limit


def test_a_mask_of_another_batch_compiles_nothing_anew():
    from torch._dynamo.utils import counters

    seen = []
    for seed in range(6):
        lengths = np.random.default_rng(seed).integers(20, 300, size=5 + seed)
        followed = Followed(packed(rows_of(lengths, shared=0)), torch.device("cuda"))
        count = followed.layout.ids.shape[1]
        states = [torch.randn(1, heads, count, 32, device="cuda", requires_grad=True) for heads in (4, 2, 2)]
        by_flex(*states, followed, Scores(scale=0.2, window=64)).sum().backward()
        seen.append(counters["stats"]["unique_graphs"])
    assert seen[2] == seen[-1]


@pytest.fixture(scope="module")
def models(tiny):
    return {
        device: LanguageModel(ModelRef(name=str(tiny), dtype="float32", device=device))
        for device in ("cpu", "cuda")
    }


@pytest.fixture(scope="module")
def rendered(models):
    return models["cpu"].renderer.render(toy_examples(60), max_length=128)


def test_rows_have_the_same_loss_as_on_a_cpu(models, rendered):
    here, there = (models[device].nll(rendered) for device in ("cuda", "cpu"))
    np.testing.assert_allclose(here, there, rtol=1e-4)


def test_a_training_has_the_same_losses_as_on_a_cpu(models, rendered, tmp_path: Path):
    losses = {}
    for device, model in models.items():
        tuning = Tuning(learning_rate=1e-2, batch_size=4, rank=4, epochs=2)
        fine_tune(model.ref, rendered, tmp_path / device, tuning=tuning, label="training", keep_losses=True)
        losses[device] = pl.read_parquet(tmp_path / device / "last_epoch.parquet").sort("id")["nll"]
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=2e-3)


def test_greedy_answers_are_those_of_a_cpu(models):
    prompts = [example.messages[:-1] for example in toy_examples(12)]
    answers = {
        device: texts_of(model, prompts, max_new_tokens=12, temperature=0.0)
        for device, model in models.items()
    }
    assert answers["cuda"] == answers["cpu"]


def test_embeddings_are_those_of_a_cpu(models, rendered):
    here, there = (vectors_of(models[device], rendered) for device in ("cuda", "cpu"))
    np.testing.assert_allclose(here, there, atol=1e-4)


def test_gradients_of_examples_are_those_of_a_cpu(models, rendered, tmp_path: Path):
    """Sketches lie in the same places on every device; Adam's moments travel to the GPU."""
    ref = models["cpu"].ref
    tuning = Tuning(rank=4, epochs=1, batch_size=4, learning_rate=1e-2)
    fine_tune(ref, rendered, tmp_path, tuning=tuning, label="warm-up", keep_epochs=True, layers="attention")
    (epoch,) = kept_epochs(tmp_path)
    launch = partial(batch_sketches, moments=Moments.of(epoch), adam="exact", dimensions=512, seed=0)
    found = {}
    for device, model in models.items():
        with model.adapter(epoch.folder):
            found[device] = np.stack(list(model.begin(launch, rendered)()))
    np.testing.assert_allclose(found["cuda"], found["cpu"], atol=2e-3)
