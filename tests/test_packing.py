"""Batches as one sequence: what is shared, that nothing leaks, and which networks are not given one."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
)

from learnable.models import losses
from learnable.models.packing import Branch, packed, padded, shared_beginnings
from learnable.types import Rendered

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "initializer_range": 0.5,
    "pad_token_id": 0,
}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}


def row(ids, *, response=2):
    ids = np.array(ids, dtype=np.int32)
    return Rendered(id=str(ids), ids=ids, mask=np.arange(len(ids)) >= len(ids) - response, truncated=False)


def network(kind, config, **settings):
    torch.manual_seed(0)
    return kind(config(**SMALL | settings)).eval()


def nll_of(network, rows, layout):
    return np.array([part.sum() for part in losses.batch_token_nll(network, rows, layout)()])


@pytest.fixture(scope="module")
def llama():
    return network(LlamaForCausalLM, LlamaConfig, **HEADS)


@pytest.fixture(scope="module")
def rows():
    """Rows that share a beginning of 20 tokens, three of them one of 40; some of one length; one alone; one of 200."""
    rng = np.random.default_rng(0)
    system, question = rng.integers(1, 64, 20), rng.integers(1, 64, 20)
    ends = [rng.integers(1, 64, size) for size in (5, 9, 9, 12, 100, 9, 1, 30)]
    own = [
        *(np.append(system, end) for end in ends),
        *(np.concatenate([system, question, end]) for end in ends[:3]),
    ]
    return [row(ids, response=1 + number % 4) for number, ids in enumerate([*own, rng.integers(1, 64, 200)])]


def test_beginnings_within_beginnings_are_a_tree():
    system, question = list(range(10)), list(range(20, 40))
    chats = [
        [*system, *question, 1],
        [*system, *question, 2, 3],
        [*system, 50],
        [*system, 51],
        [*range(60, 75)],
    ]
    trunk = shared_beginnings([np.array(chat, dtype=np.int32) for chat in chats])
    # All four under the system turn save 30 tokens, and two of them under the question 20 more.
    assert trunk == Branch(
        shared=0,
        rows=[4],
        branches=[
            Branch(shared=10, rows=[2, 3], branches=[Branch(shared=30, rows=[0, 1], branches=[])]),
        ],
    )


def test_a_beginning_that_saves_little_is_no_branch():
    chats = [[*range(10), 20, 21, 22, 1], [*range(10), 20, 21, 22, 2], [*range(10), 3]]
    trunk = shared_beginnings([np.array(chat, dtype=np.int32) for chat in chats])
    assert [branch.branches for branch in trunk.branches] == [[]]


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=24), min_size=1, max_size=12))
def test_every_example_is_whole_and_keeps_a_token_of_its_own(drawn):
    given_rows = [row(ids, response=0) for ids in drawn]
    layout = packed(given_rows)
    flat, positions = layout.ids.flatten().numpy(), layout.positions.flatten().numpy()
    for example, places in zip(given_rows, layout.places, strict=True):
        np.testing.assert_array_equal(flat[places], example.ids)
        np.testing.assert_array_equal(positions[places], np.arange(len(example.ids)))
    assert len({int(places[-1]) for places in layout.places}) == len(given_rows)


def test_shared_tokens_are_computed_once(rows):
    # Eleven rows share 20 tokens, three of them 20 more.
    assert packed(rows).computed == sum(len(each.ids) for each in rows) - 10 * 20 - 2 * 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("limit", [1, 64, 4_096])
def test_one_sequence_gives_the_losses_of_padded_rows(llama, rows, dtype, limit, monkeypatch):
    monkeypatch.setattr("learnable.models.attention.FLASH_FROM", limit)
    model = llama if dtype == torch.float32 else network(LlamaForCausalLM, LlamaConfig, **HEADS).to(dtype)
    found, expected = (
        nll_of(model, rows, packed(rows)),
        nll_of(model, rows, padded(rows)),
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5 if dtype == torch.float32 else 5e-2)


def test_other_examples_change_nothing(llama, rows):
    alone = [nll_of(llama, [each], packed([each]))[0] for each in rows]
    np.testing.assert_allclose(nll_of(llama, rows, packed(rows)), alone, rtol=1e-5)


def test_a_batch_that_is_filled_up_gives_the_same_losses(llama, rows):
    filled = packed(rows, share=False, multiple=64)
    assert filled.computed == -(-packed(rows, share=False).computed // 64) * 64
    np.testing.assert_allclose(nll_of(llama, rows, filled), nll_of(llama, rows, packed(rows)), rtol=1e-5)


def test_the_usual_attention_is_back_afterwards(llama, rows):
    before = llama.config._attn_implementation
    nll_of(llama, rows, packed(rows))
    assert llama.config._attn_implementation == before
