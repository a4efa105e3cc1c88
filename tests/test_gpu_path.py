"""The whole path of a GPU, tried without one: fake tensors on a device called cuda know shapes, dtypes and devices.

What is on the wrong device, and what waits for the device where the CPU should go on, is an error here.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from transformers import Gemma2Config, LlamaConfig, MistralConfig, Qwen3Config
from transformers.models.auto import AutoModelForCausalLM

from learnable.models import attention, losses
from learnable.models.attention import attending
from learnable.models.packing import packed, padded
from learnable.models.speed import Shapes
from learnable.training.batches import batch_of, inputs_of
from learnable.training.loss import response_nll
from learnable.types import Rendered

SMALL = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
}
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

CONFIGS = {
    "llama": LlamaConfig(**SMALL),
    "qwen3": Qwen3Config(**SMALL),
    "mistral, a window": MistralConfig(**SMALL, sliding_window=32),
    "gemma2, a window and soft caps": Gemma2Config(**SMALL, sliding_window=32, query_pre_attn_scalar=16),
}


def watched(dispatch):
    """Refuse copies back, which wait for the device; fakes refuse values, and shapes that depend on them."""

    def dispatch_watched(self, function, types, args=(), kwargs=None):
        found = dispatch(self, function, types, args, kwargs)
        name = getattr(function, "_name", "")
        if name in ("aten::_to_copy", "aten::copy_"):
            source = args[1] if name == "aten::copy_" else args[0]
            if source.device.type == "cuda" and found.device.type == "cpu":
                raise AssertionError("a copy to the CPU waits for the device")
        return found

    return dispatch_watched


META, CUDA = 14, 1
"""Numbers of devices in torch's own list of them."""


@pytest.fixture(scope="module", autouse=True)
def _guard():
    """Lend CUDA the guard of meta tensors, which does nothing: indexing asks for one, and a CPU build has none."""
    if torch.backends.cuda.is_built():
        yield
        return
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * 20).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    guards[CUDA] = guards[META]
    yield
    guards[CUDA] = None


@contextmanager
def a_gpu(monkeypatch) -> Iterator[None]:
    """Within the block, cuda is a device of fake tensors."""
    monkeypatch.setattr(attention, "_flex", lambda _: attention.flex_attention)
    monkeypatch.setattr(losses, "Arriving", lambda values: values)
    monkeypatch.setattr(FakeTensorMode, "__torch_dispatch__", watched(FakeTensorMode.__torch_dispatch__))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:

        def sent(values, device=torch.device("cuda:0")):  # noqa: B008
            tensor = torch.as_tensor(values)
            return (tensor if isinstance(tensor, FakeTensor) else mode.from_tensor(tensor)).to(device)

        for room in (losses, attention):
            monkeypatch.setattr(room, "sent", sent)
        yield sent


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    beginning = rng.integers(1, 90, size=20)
    found = []
    for number, length in enumerate((70, 40, 40, 9, 25)):
        ids = np.concatenate([beginning if number < 3 else [], rng.integers(1, 90, size=length)])
        mask = np.arange(len(ids)) >= len(ids) - length + 4
        found.append(Rendered(id=str(number), ids=ids.astype(np.int32), mask=mask, truncated=False))
    return found


def network_on_gpu(config, dtype, *, attention="sdpa"):
    with torch.device("cuda"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention).eval()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("measure", ["batch_token_nll", "batch_embeddings"])
def test_a_batch_is_begun_without_waiting_for_the_gpu(monkeypatch, rows, name, dtype, measure):
    monkeypatch.setitem(losses.LOGITS_AT_ONCE, "cuda", 7 * 96)  # several chunks of logits
    layout = packed(rows)
    with a_gpu(monkeypatch):
        network = network_on_gpu(CONFIGS[name], dtype, attention="eager" if "gemma" in name else "sdpa")
        monkeypatch.setattr(losses, "gives_plain_logits", lambda _: "gemma" not in name)
        kernels = called(monkeypatch)
        # Fakes and inference mode do not go together.
        monkeypatch.setattr(losses, "hidden_states", losses.hidden_states.__wrapped__)
        with torch.no_grad():
            getattr(losses, measure).__wrapped__(network, rows, layout)
        wants_flash = dtype == torch.bfloat16 and "gemma" not in name
        assert set(kernels) == {"flash" if wants_flash else "flex"}
        assert len(kernels) == CONFIGS[name].num_hidden_layers


def called(monkeypatch):
    """Record which kernels are called."""
    seen = []
    for name in ("flash", "flex"):
        kernel = getattr(attention, f"by_{name}")

        def counted(*args, kernel=kernel, name=name, **options):
            seen.append(name)
            found = kernel(*args, **options)
            assert found.device.type == "cuda"
            assert found.dtype == args[0].dtype
            return found

        monkeypatch.setattr(attention, f"by_{name}", counted)
    return seen


@pytest.mark.parametrize("lay", [packed, padded])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_loss_of_a_training_step_is_there_without_waiting_for_the_gpu(monkeypatch, rows, lay, dtype):
    from learnable.training import loss

    monkeypatch.setitem(loss.LOGITS_AT_ONCE, "cuda", 7 * 96)
    monkeypatch.setattr(loss, "gives_plain_logits", lambda _: True)
    members, layout = batch_of(list(enumerate(rows))), lay(rows)
    given = inputs_of(members, layout)
    with a_gpu(monkeypatch) as sent:
        network = network_on_gpu(CONFIGS["qwen3"], dtype).train()
        inputs = {
            name: sent(value) if isinstance(value, torch.Tensor) else value for name, value in given.items()
        }
        # Gradients need streams, which no fake has; tests/test_training_memory.py takes them on a CPU.
        with attending(network, layout), torch.no_grad():
            nll, _ = response_nll(network, inputs, count=len(members), forward=network)
        assert (nll.dtype, nll.device.type) == (torch.float32, "cuda")


def test_what_waits_or_lies_elsewhere_is_noticed(monkeypatch):
    with a_gpu(monkeypatch):
        there = torch.zeros(3, device="cuda")
        with pytest.raises(DataDependentOutputException):
            there.sum().item()
        with pytest.raises(DynamicOutputShapeException):
            torch.nonzero(there)
        with pytest.raises(AssertionError, match="waits"):
            there.cpu()
        with pytest.raises(RuntimeError, match="device"):
            there + torch.zeros(3)


def test_a_batch_is_as_large_as_the_memory_allows():
    # 21,504 numbers come out of the distinct matrices of a layer: 86,016 bytes a token, twice over in bfloat16.
    shapes = Shapes(
        body=0,
        head=0,
        attention=0,
        products=((1_024, 4_096), (4_096, 4_096), (4_096, 12_288), (12_288, 4_096)),
    )
    assert shapes.tokens_within(60 << 30, most=32_768, item_bytes=2) == 32_768
    assert shapes.tokens_within(1 << 30, most=32_768, item_bytes=2) == 4_096
    assert shapes.tokens_within(1, most=32_768, item_bytes=2) == 1
