"""Which rows are computed together: what a trial finds, when it is made, and what it is made in."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from architectures import LIMIT, PACKED, PADDED, WINDOW, WINDOWED, build
from learnable.errors import ModelError
from learnable.models import batching as room
from learnable.models.batching import Batching, refuse_lookahead
from learnable.models.losses import hidden_states
from learnable.models.network import in_float32
from learnable.models.packing import padded
from test_architectures import alone, batched, compare, row


def rows(*lengths):
    rng = np.random.default_rng(0)
    return [row(rng.integers(3, 96, length)) for length in lengths]


def after_each_layer(network, change):
    """Let a network change what comes out of each of its layers."""
    for layer in network.model.layers:
        layer.register_forward_hook(lambda _, __, output: change(output))
    return network


@pytest.fixture
def sees_the_batch():
    """A network whose rows depend on others, before them in one sequence or beside them."""
    network = build("llama", {})
    return after_each_layer(
        network, lambda states: states + states.mean(dim=0, keepdim=True) + states.cumsum(dim=1) / 64
    )


def test_rows_that_depend_on_each_other_even_when_padded_are_computed_one_at_a_time(sees_the_batch, capsys):
    given, batching = rows(9, 24, 24, 40), Batching(sees_the_batch)
    found, ways = batched(batching, sees_the_batch, given)
    compare(found, [alone(sees_the_batch, each) for each in given])
    assert (ways, batching.verdict(given)[0]) == ({"padded"}, "alone")
    assert list(batching.groups(given)) == [[0], [1], [2], [3]]
    said = capsys.readouterr().err
    assert said.count("one at a time") == 1


def test_what_sees_later_tokens_in_long_rows_only_is_refused_there():
    network = build("llama", {})
    after_each_layer(
        network, lambda states: states + states.mean(dim=1, keepdim=True) * (states.shape[1] > 100)
    )
    refuse_lookahead(network, "it")
    batching = Batching(network)
    with pytest.raises(ModelError, match="no causal language model"):
        batching.layout(rows(120, 20))


def test_a_trial_is_made_once_and_remembered_by_the_key_of_the_model(monkeypatch, capsys):
    network = build("jamba", PADDED["jamba"])
    for size in ((70, 20), (70, 20), (9, 9), (40, 40, 40)):
        assert Batching(network, key="one").verdict(rows(*size))[0] == "padded"
    assert capsys.readouterr().err.count("batches are padded") == 4  # once for each that is opened
    monkeypatch.setattr(room, "_differs", lambda *_, **__: pytest.fail("tried again"))
    known = Batching(network, key="one")
    assert {known.verdict(rows(*size))[0] for size in ((70, 20), (9, 9))} == {"padded"}
    assert capsys.readouterr().err.count("batches are padded") == 1
    for key in ("another", None):
        with pytest.raises(pytest.fail.Exception, match="tried again"):
            Batching(network, key=key).verdict(rows(9, 9))


def test_a_larger_trial_that_went_well_tells_of_all_smaller_batches(monkeypatch):
    batching = Batching(build("llama", {}))
    assert batching.verdict(rows(100, 100, 90))[0] == "packed"
    monkeypatch.setattr(room, "_differs", lambda *_, **__: pytest.fail("tried again"))
    assert batching.verdict(rows(9, 50, 128))[0] == "packed"
    with pytest.raises(pytest.fail.Exception, match="tried again"):
        batching.verdict(rows(129, 9))


def test_rows_are_one_sequence_up_to_a_chunk_and_no_further():
    batching = Batching(build("llama4_text", WINDOWED["llama4_text"]))
    assert [batching.verdict(rows(length, 9))[0] for length in (WINDOW, WINDOW + 1)] == ["packed", "padded"]


def test_positions_that_are_counted_over_the_batch_limit_it():
    settings = {**WINDOWED["llama4_text"], "attn_temperature_tuning": True, "floor_scale": 300}
    network = build("llama4_text", settings)
    batching, given = Batching(network), rows(*[20] * 30)
    assert [batching.verdict(given[:count])[0] for count in (10, 30)] == ["packed", "padded"]
    compare(batched(batching, network, given)[0], [alone(network, each) for each in given])


def test_no_trial_is_longer_than_the_positions_of_a_model():
    network = build("gpt2", {"n_positions": 100})
    assert Batching(network, position_limit=100).verdict(rows(90, 20))[0] == "packed"
    assert Batching(build("gpt2", {}), position_limit=LIMIT).verdict(rows(LIMIT, 20))[0] == "packed"


def test_a_network_that_cannot_be_tried_in_float32_gets_its_rows_one_at_a_time():
    network = build("llama", {}, dtype=torch.bfloat16)

    def only_bfloat16(states):
        if states.dtype == torch.float32:
            raise RuntimeError("no kernel for float32")
        return states

    batching = Batching(after_each_layer(network, only_bfloat16))
    assert batching.verdict(rows(20, 9)) == ("alone", "no kernel for float32")


@pytest.mark.parametrize("architecture", ["llama", "jamba", "gpt2", "qwen3_moe"])
@pytest.mark.filterwarnings("ignore")
def test_a_network_in_bfloat16_computes_in_float32_within_a_block_and_keeps_its_bits(architecture):
    settings = {**PACKED, **PADDED}[architecture]
    network = build(architecture, settings, dtype=torch.bfloat16)
    before = {name: weights.clone() for name, weights in network.state_dict().items()}
    layout = padded(rows(30))
    expected = hidden_states(deepcopy(network).float(), layout)
    rounded = hidden_states(network, layout)
    with in_float32(network):
        found = hidden_states(network, layout)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(hidden_states(network, layout), rounded)
    after = network.state_dict()
    assert all(torch.equal(weights, after[name]) for name, weights in before.items())
    assert {weights.dtype for weights in after.values()} == {weights.dtype for weights in before.values()}


def test_weights_are_put_back_after_an_error():
    network = build("llama", {}, dtype=torch.bfloat16)
    with pytest.raises(IndexError), in_float32(network):
        network(input_ids=torch.tensor([[1000]]))
    assert {weights.dtype for weights in network.parameters()} == {torch.bfloat16}
