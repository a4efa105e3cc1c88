"""The calls that attend on a GPU, held to attention written out, on a CPU where their operators exist there."""

from itertools import permutations

import numpy as np
import pytest
import torch

from learnable.models import attention
from learnable.models.attention import Followed, Scores, by_flash, by_flex
from learnable.models.packing import packed
from learnable.types import Rendered

HEADS, GROUPS, WIDTH = 4, 2, 16
LENGTHS = (5, 150, 1, 40, 40, 290, 9)


def rows_of(lengths, *, shared=0, seed=0):
    rng = np.random.default_rng(seed)
    beginning = rng.integers(0, 90, size=shared)
    return [
        Rendered(
            id=str(number),
            ids=np.concatenate([beginning, rng.integers(0, 90, size=length)]).astype(np.int32),
            mask=np.ones(shared + length, dtype=bool),
            truncated=False,
        )
        for number, length in enumerate(lengths)
    ]


def orders():
    """A question with three options in all six orders: each option of 40 tokens begins two of them."""
    parts = np.random.default_rng(2).integers(0, 90, size=(4, 40))
    chosen = [np.concatenate([parts[3], *parts[list(order)]]) for order in permutations(range(3))]
    return [
        Rendered(id=str(ids), ids=ids.astype(np.int32), mask=np.ones(160, dtype=bool), truncated=False)
        for ids in chosen
    ]


def states(count, *, heads, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, heads, count, WIDTH, generator=generator)


def written_out(query, key, value, layout, *, scale, window=None, softcap=None, sinks=None):
    """Attention of each example by itself, as a product of matrices: (1, H, N, d), NaN where no example looked."""
    found = torch.full_like(query, torch.nan)
    for places in layout.places:
        q, k, v = (part[0][:, places] for part in (query, key, value))
        k, v = (part.repeat_interleave(HEADS // GROUPS, dim=0) for part in (k, v))
        scores = q @ k.transpose(1, 2) * scale
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        distance = torch.arange(len(places))[:, None] - torch.arange(len(places))
        hidden = (distance < 0) | (distance >= (window or len(places)))
        scores = scores.masked_fill(hidden, -torch.inf)
        if sinks is not None:
            scores = torch.cat([scores, sinks[:, None, None].expand(-1, len(places), 1)], dim=2)
        found[0][:, places] = scores.softmax(dim=-1)[..., : len(places)] @ v
    return found


def flash_on_a_cpu(query, key, value, borders_q, borders_k, most_q, most_k, *, scale, window_size):
    """What the kernel is documented to do: row by row, the last query facing the last key."""
    found = []
    assert int(borders_q.diff().max()) == most_q
    assert int(borders_k.diff().max()) == most_k
    for row in range(len(borders_q) - 1):
        q = query[borders_q[row] : borders_q[row + 1]].transpose(0, 1)
        k, v = (
            each[borders_k[row] : borders_k[row + 1]].transpose(0, 1).repeat_interleave(HEADS // GROUPS, 0)
            for each in (key, value)
        )
        behind = k.shape[1] - q.shape[1]
        distance = torch.arange(q.shape[1])[:, None] + behind - torch.arange(k.shape[1])
        hidden = distance < -window_size[1]
        if window_size[0] >= 0:
            hidden |= distance > window_size[0]
        scores = (q @ k.transpose(1, 2) * scale).masked_fill(hidden, -torch.inf)
        found.append((scores.softmax(dim=-1) @ v).transpose(0, 1))
    return torch.cat(found)


@pytest.fixture
def batches():
    return {
        "nothing shared": packed(rows_of(LENGTHS)),
        "a beginning shared": packed(rows_of(LENGTHS, shared=30)),
        "beginnings within beginnings": packed(orders()),
        "two groups": packed([*rows_of((3, 60, 8), shared=140), *rows_of((200, 7), shared=20, seed=1)]),
    }


@pytest.fixture
def three(batches):
    """Query, key and value for each batch."""
    return {
        name: (
            states(layout.ids.shape[1], heads=HEADS, seed=1),
            states(layout.ids.shape[1], heads=GROUPS, seed=2),
            states(layout.ids.shape[1], heads=GROUPS, seed=3),
        )
        for name, layout in batches.items()
    }


NAMES = ["nothing shared", "a beginning shared", "beginnings within beginnings", "two groups"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("window", [None, 1, 33])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_sees_what_each_example_alone_would_see(batches, three, name, window):
    layout = batches[name]
    followed = Followed(layout, torch.device("cpu"))
    found = by_flex(*three[name], followed, Scores(scale=0.3, window=window))
    expected = written_out(*three[name], layout, scale=0.3, window=window).transpose(1, 2)
    assert not expected.isnan().any()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("more", [{"softcap": 1.5}, {"sinks": torch.tensor([-1.0, 0.0, 2.0, 5.0])}])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_takes_soft_caps_and_sinks(batches, three, more):
    layout = batches["two groups"]
    followed = Followed(layout, torch.device("cpu"))
    found = by_flex(*three["two groups"], followed, Scores(scale=2.0, window=50, **more))
    expected = written_out(*three["two groups"], layout, scale=2.0, window=50, **more).transpose(1, 2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("window", [None, 1, 33])
def test_flash_attention_is_given_the_rows_that_each_example_alone_would_see(
    monkeypatch, batches, three, name, window
):
    monkeypatch.setattr(attention, "_flash", lambda: (flash_on_a_cpu, {}))
    layout = batches[name]
    followed = Followed(layout, torch.device("cpu"))
    found = by_flash(*three[name], followed, Scores(scale=0.3, window=window))
    expected = written_out(*three[name], layout, scale=0.3, window=window).transpose(1, 2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_gradients_of_a_shared_beginning_are_those_of_its_examples_together(monkeypatch, batches, three):
    monkeypatch.setattr(attention, "_flash", lambda: (flash_on_a_cpu, {}))
    layout = batches["two groups"]
    followed = Followed(layout, torch.device("cpu"))
    ours = [part.clone().requires_grad_() for part in three["two groups"]]
    theirs = [part.clone().requires_grad_() for part in three["two groups"]]
    by_flash(*ours, followed, Scores(scale=0.3)).square().sum().backward()
    written_out(*theirs, layout, scale=0.3).square().sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("more", [{}, {"softcap": 1.5}, {"sinks": torch.tensor([-1.0, 0.0, 2.0, 5.0])}])
@pytest.mark.parametrize("window", [None, 1, 33, 100])
def test_segment_by_segment_sees_the_same_with_windows_soft_caps_and_sinks(
    batches, three, name, more, window
):
    layout = batches[name]
    followed = Followed(layout, torch.device("cpu"))
    scores = Scores(scale=0.3, window=window, **more)
    found = attention.by_segments(*three[name], followed, scores)
    expected = written_out(*three[name], layout, scale=0.3, window=window, **more).transpose(1, 2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
