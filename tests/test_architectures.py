"""A row has the same loss alone and in any batch, whatever the architecture: tiny random models against a plain loop."""

import numpy as np
import pytest
import torch

from architectures import LEFT_OUT, LIMIT, PACKED, PADDED, REFUSED, SWITCH, SWITCHING, WINDOW, WINDOWED, build
from learnable.errors import ModelError
from learnable.models.batching import Batching, refuse_lookahead
from learnable.models.losses import batch_token_nll
from learnable.types import Rendered

pytestmark = pytest.mark.filterwarnings("ignore")  # slow paths say that they are slow

GROUPS = {"packed": PACKED, "windowed": WINDOWED, "switching": SWITCHING, "padded": PADDED}
LIST = [
    pytest.param(architecture, settings, group, id=f"{group}-{architecture}")
    for group, architectures in GROUPS.items()
    for architecture, settings in architectures.items()
]
NATS, TOKEN_NATS = 1e-5, 5e-5
"""How far rounding in float32 may move the loss of a row, per token, and that of a single token."""
WEAK = {"initializer_range": 0.02}
"""Weights as a training begins with them: what leaks is small."""
LENGTHS = (9, 70, 70, 24, 50, 33, 18, 40)


def row(ids):
    mask = np.arange(len(ids)) >= len(ids) // 2
    return Rendered(id=str(len(ids)), ids=np.asarray(ids, dtype=np.int32), mask=mask, truncated=False)


@pytest.fixture(scope="module")
def rows():
    """Rows on both sides of every window and switch, some of one length; two begin alike."""
    assert min(LENGTHS) < WINDOW < SWITCH < max(LENGTHS) < LIMIT
    rng = np.random.default_rng(1)
    ids = [rng.integers(3, 96, length) for length in LENGTHS]
    ids[5][:14] = ids[4][:14]
    return [row(each) for each in ids]


def batched(batching, network, rows):
    """Return the token losses of each row, computed as a measure does, and how the rows lay."""
    found, ways = [np.empty(0)] * len(rows), set()
    for group in batching.groups(rows):
        members = [rows[position] for position in group]
        layout = batching.layout(members)
        ways.add("padded" if layout.segments is None else "packed")
        for position, losses in zip(group, batch_token_nll(network, members, layout)(), strict=True):
            found[position] = losses
    return found, ways


def alone(network, example):
    """Return the token losses of a row by itself, the obvious way."""
    ids = torch.from_numpy(example.ids.astype(np.int64))[None]
    with torch.inference_mode():
        logits = network(input_ids=ids, use_cache=False).logits[0, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    return losses.numpy()[example.mask[1:]]


def compare(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert abs(one.mean(dtype=np.float64) - other.mean(dtype=np.float64)) <= NATS
        np.testing.assert_allclose(one, other, rtol=0, atol=TOKEN_NATS)


def changed(example, *, after):
    """Return a row of the same length with other tokens, but for those it begins with."""
    ids = example.ids.copy()
    ids[after:] = 3 + (ids[after:] - 3 + 1 + np.arange(len(ids) - after)) % 93
    return row(ids)


def test_the_list_is_long():
    assert len({architecture for group in GROUPS.values() for architecture in group}) >= 80
    assert all(LEFT_OUT.values())


@pytest.mark.parametrize(("architecture", "settings", "group"), LIST)
def test_a_row_has_the_same_loss_alone_and_in_any_batch(rows, architecture, settings, group):
    network = build(architecture, settings)
    refuse_lookahead(network, architecture)
    batching = Batching(network)
    expected = [alone(network, each) for each in rows]
    found, ways = batched(batching, network, rows)
    compare(found, expected)
    compare(batched(batching, network, rows[::-1])[0][::-1], expected)
    assert ways == {"padded" if group in ("padded", "windowed") else "packed"}
    if group == "windowed":
        short = [number for number, length in enumerate(LENGTHS) if length <= WINDOW]
        found, ways = batched(batching, network, [rows[number] for number in short])
        compare(found, [expected[number] for number in short])
        assert ways == {"packed"}


@pytest.mark.parametrize(("architecture", "settings", "group"), LIST)
def test_in_bfloat16_the_tokens_of_a_row_change_no_other_row(rows, architecture, settings, group):
    network = build(architecture, {**settings, **WEAK}, dtype=torch.bfloat16)
    batching = Batching(network)
    before, _ = batched(batching, network, rows)
    for numbers in ((1, 6), (5,)):
        others = [changed(row, after=14) if place in numbers else row for place, row in enumerate(rows)]
        after, _ = batched(batching, network, others)
        for position, (one, other) in enumerate(zip(before, after, strict=True)):
            assert np.array_equal(one, other) == (position not in numbers)


@pytest.mark.parametrize("architecture", REFUSED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_whose_tokens_see_later_ones_is_refused(architecture, dtype):
    with pytest.raises(ModelError, match="no causal language model"):
        refuse_lookahead(build(architecture, WEAK, dtype=dtype), "it")
