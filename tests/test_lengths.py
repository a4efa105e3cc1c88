"""Rows on two sides of a length at which a network switches are never computed together."""

import numpy as np
import pytest
import torch

from architectures import SWITCH, SWITCHING, build
from learnable.models import concepts
from learnable.models.decoding import Draws, decode
from learnable.models.lengths import LengthSwitches

STOPS = (2,)
GREEDY = Draws(0.0, 1.0, ())


@pytest.fixture(scope="module", params=list(SWITCHING))
def network(request):
    return build(request.param, SWITCHING[request.param])


def prompts(*lengths):
    rng = np.random.default_rng(0)
    return [rng.integers(3, 96, length) for length in lengths]


@pytest.mark.parametrize(
    ("architecture", "borders", "growing_from"), [("phi3", (SWITCH,), None), ("llama", (), SWITCH)]
)
def test_switches_are_read_off_the_configuration(architecture, borders, growing_from):
    found = LengthSwitches.of(build(architecture, SWITCHING[architecture]))
    assert found == LengthSwitches(borders=borders, growing_from=growing_from)
    assert LengthSwitches.of(build(architecture, {})) == LengthSwitches()


def test_switches_of_some_layers_count():
    network = build("gemma3_text", {"layer_types": ["sliding_attention", "full_attention"]})
    longrope = {"rope_type": "longrope", "original_max_position_embeddings": 40}
    network.config.rope_parameters = {
        "sliding_attention": {"rope_type": "default"},
        "full_attention": longrope,
    }
    assert LengthSwitches.of(network).borders == (40,)


def test_rows_are_grouped_by_side_and_where_they_grow_by_where_they_switch():
    longrope, dynamic = LengthSwitches(borders=(48,)), LengthSwitches(growing_from=48)
    lengths = [10, 48, 49, 60, 30, 49]
    assert longrope.groups(lengths) == [[0, 1, 4], [2, 3, 5]]
    assert dynamic.groups(lengths) == [[0, 1, 4], [2, 5], [3]]
    # The second and the fifth switch on their way, at different tokens.
    assert longrope.groups(lengths, growing_by=20) == [[0], [1], [2, 3, 5], [4]]
    assert dynamic.groups(lengths, growing_by=20) == [[0], [1], [2, 5], [3], [4]]


def test_answers_do_not_depend_on_the_other_prompts(network):
    given = prompts(10, 30, 45, 45, 48, 49, 70, 90)
    alone = [decode(network, [each], max_new_tokens=12, stops=STOPS, draws=GREEDY)[0] for each in given]
    assert decode(network, given, max_new_tokens=12, stops=STOPS, draws=GREEDY) == alone
    assert decode(network, given[::-1], max_new_tokens=12, stops=STOPS, draws=GREEDY) == alone[::-1]


def test_drawn_answers_keep_their_seeds_whatever_is_decoded_together(network):
    given = prompts(20, 60, 47, 70)
    draws = [Draws(1.0, 0.9, [seed]) for seed in range(4)]
    alone = [
        decode(network, [each], max_new_tokens=8, stops=STOPS, draws=draw)[0]
        for each, draw in zip(given, draws, strict=True)
    ]
    together = decode(network, given, max_new_tokens=8, stops=STOPS, draws=Draws(1.0, 0.9, list(range(4))))
    assert together == alone


def test_beginnings_are_shared_on_one_side_only(network):
    beginning = prompts(40)[0]
    given = [np.append(beginning, end) for end in prompts(20, 25, 30, 5)]
    alone = [decode(network, [each], max_new_tokens=3, stops=STOPS, draws=GREEDY)[0] for each in given]
    assert decode(network, given, max_new_tokens=3, stops=STOPS, draws=GREEDY) == alone


@torch.inference_mode()
def test_a_row_does_not_depend_on_those_that_were_computed_before(network):
    short, longer, longest = (torch.from_numpy(each)[None] for each in prompts(SWITCH, 60, 90))
    first = [network(input_ids=each).logits for each in (short, longer)]
    network(input_ids=longest)
    for each, before in zip((short, longer), first, strict=True):
        assert torch.equal(network(input_ids=each).logits, before)


def test_distances_of_texts_do_not_depend_on_the_other_texts(network):
    weights = [np.full(length, 1 / length, dtype=np.float32) for length in (20, 30, 60, 70, 40, 60)]
    texts = list(zip(prompts(20, 30, 60, 70, 40, 60), weights, strict=True))
    alone = [concepts._distances(network, texts[pair : pair + 2])[:, 0] for pair in (0, 2, 4)]
    np.testing.assert_allclose(concepts._distances(network, texts).T, alone, rtol=1e-4)
