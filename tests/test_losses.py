"""The loss engine against a plain loop over one example at a time."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

from asking import vectors_of
from learnable.errors import ModelError
from learnable.models import attention, losses, packing
from learnable.models.language_model import LanguageModel
from learnable.settings import Tuning
from learnable.testing import toy_examples
from learnable.training import fine_tune
from learnable.types import ModelRef, Rendered

TOLERANCE_NATS_PER_TOKEN = 1e-4


def plain_loop(network, rendered):
    """Return summed nll the obvious way: full logits, one example at a time, labels of -100 where masked."""
    sums = []
    for example in rendered:
        ids = torch.tensor(example.ids[None].astype(np.int64))
        labels = torch.where(torch.tensor(example.mask[None]), ids, -100)
        with torch.no_grad():
            logits = network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()
        sums.append(torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum").item())
    return np.array(sums)


@pytest.fixture(scope="module", params=["chatml", "generation", "base"])
def model(request, tiny_models):
    return LanguageModel(ModelRef(name=str(tiny_models[request.param]), dtype="float32", device="cpu"))


@pytest.fixture(scope="module")
def rendered(model):
    return model.renderer.render([*toy_examples(9), *toy_examples(6, turns=3, seed=1)], max_length=256)


@pytest.fixture(scope="module")
def expected(model, rendered):
    return plain_loop(model.network, rendered)


@pytest.mark.parametrize("size", [1, 4, 15])
def test_batched_losses_equal_the_plain_loop(model, rendered, expected, size):
    got = np.concatenate(
        [model.nll(rendered[start : start + size]) for start in range(0, len(rendered), size)]
    )
    counts = np.array([example.mask.sum() for example in rendered])
    assert np.abs(got - expected).max() <= (TOLERANCE_NATS_PER_TOKEN * counts).min()


def test_the_order_within_a_batch_does_not_matter(model, rendered, expected):
    order = np.random.default_rng(0).permutation(len(rendered))
    got = model.nll([rendered[position] for position in order])
    np.testing.assert_allclose(got, expected[order], rtol=1e-5)


def test_the_vocabulary_is_projected_in_chunks(model, rendered, expected, monkeypatch):
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", {"cpu": 7 * model.network.config.vocab_size})
    np.testing.assert_allclose(model.nll(rendered), expected, rtol=1e-5)


def test_logits_that_the_model_caps_are_capped(tiny, tmp_path):
    config = Gemma2Config(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, final_logit_softcapping=1.0, initializer_range=0.5, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    network = Gemma2ForCausalLM(config).eval()
    rendered = LanguageModel(ModelRef(name=str(tiny), dtype="float32")).renderer.render(
        toy_examples(5), max_length=256
    )
    found = [part.sum() for part in losses.batch_token_nll(network, rendered, packing.padded(rendered))()]
    np.testing.assert_allclose(found, plain_loop(network, rendered), rtol=1e-5)


def test_an_example_without_response_tokens_has_no_loss(model, rendered):
    (empty,) = model.renderer.render(toy_examples(1), max_length=3)
    assert model.nll([empty, rendered[0]])[0] == 0
    assert model.nll([empty])[0] == 0


def test_losses_that_are_not_finite_are_an_error(tiny):
    model = LanguageModel(ModelRef(name=str(tiny), dtype="float32"))
    with torch.no_grad():
        model.network.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite on example"):
        model.nll(model.renderer.render(toy_examples(2), max_length=99))


def test_a_batch_too_big_for_the_gpu_is_halved(model, rendered, expected, monkeypatch):
    whole = losses.batch_token_nll

    def small_gpu(network, batch, layout):
        if len(batch) > 4:
            raise torch.cuda.OutOfMemoryError("no room")
        return whole(network, batch, layout)

    monkeypatch.setattr("learnable.models.language_model.batch_token_nll", small_gpu)
    np.testing.assert_allclose(model.nll(rendered), expected, rtol=1e-5)


def test_one_example_too_big_for_the_gpu_is_an_error(model, rendered, monkeypatch):
    def tiny_gpu(network, batch, layout):
        raise torch.cuda.OutOfMemoryError("no room")

    monkeypatch.setattr("learnable.models.language_model.batch_token_nll", tiny_gpu)
    with pytest.raises(ModelError, match="does not fit the GPU's memory"):
        model.nll(rendered[:3])


def test_bfloat16_stays_near_float32(tiny, rendered):
    half = LanguageModel(ModelRef(name=str(tiny), dtype="bfloat16"))
    full = LanguageModel(ModelRef(name=str(tiny), dtype="float32"))
    same = half.renderer.render(toy_examples(9), max_length=256)
    counts = np.array([example.mask.sum() for example in same])
    np.testing.assert_allclose(half.nll(same) / counts, full.nll(same) / counts, atol=0.05)


def test_the_network_is_a_plain_one_of_transformers(tiny, model):
    assert type(model.network) is type(AutoModelForCausalLM.from_pretrained(tiny))


def batched(compute, rendered, size):
    """Return what a measure gives in batches of a size, example by example."""
    return [row for start in range(0, len(rendered), size) for row in compute(rendered[start : start + size])]


def plain_token_losses(network, example):
    ids = torch.tensor(example.ids[None].astype(np.int64))
    with torch.no_grad():
        logits = network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()
    losses = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="none")
    return losses.numpy()[example.mask[1:]]


@pytest.mark.parametrize("size", [1, 4, 15])
def test_token_losses_equal_the_plain_loop(model, rendered, size):
    for found, example in zip(batched(model.token_nll, rendered, size), rendered, strict=True):
        np.testing.assert_allclose(found, plain_token_losses(model.network, example), atol=1e-4)


def test_token_losses_add_up_to_the_loss(model, rendered):
    found = model.token_nll(rendered)
    assert [len(losses) for losses in found] == [example.mask.sum() for example in rendered]
    assert {losses.dtype for losses in found} == {np.dtype(np.float32)}
    np.testing.assert_allclose(
        [losses.sum(dtype=np.float64) for losses in found], model.nll(rendered), rtol=1e-6
    )


def test_an_example_without_response_tokens_has_no_token_losses(model, rendered):
    (empty,) = model.renderer.render(toy_examples(1), max_length=3)
    found = model.token_nll([empty, rendered[0], empty])
    assert [len(losses) for losses in found] == [0, rendered[0].mask.sum(), 0]
    assert [len(losses) for losses in model.token_nll([empty, empty])] == [0, 0]


def last_states(network, ids):
    """Return what stands before the output layer, (T, d)."""
    with torch.no_grad():
        return network.model(input_ids=torch.tensor([ids])).last_hidden_state[0]


def test_later_tokens_weigh_more_in_a_vector(model):
    example = Rendered(
        id="abc",
        ids=np.array([11, 12, 13], dtype=np.int32),
        mask=np.array([False, False, True]),
        truncated=False,
    )
    one, two, three = last_states(model.network, [11, 12, 13])
    np.testing.assert_allclose(vectors_of(model, [example])[0], (one + 2 * two + 3 * three) / 6, atol=1e-6)


@pytest.mark.parametrize("size", [1, 4, 15])
def test_vectors_do_not_depend_on_the_batch(model, rendered, size):
    alone = np.concatenate([vectors_of(model, [example]) for example in rendered])
    assert (alone.shape, alone.dtype) == ((15, model.network.config.hidden_size), np.float32)
    np.testing.assert_allclose(
        batched(lambda rows: vectors_of(model, rows), rendered, size), alone, atol=1e-5
    )


def test_vectors_do_not_depend_on_the_order(model, rendered):
    order = np.random.default_rng(0).permutation(len(rendered))
    shuffled = vectors_of(model, [rendered[position] for position in order])
    np.testing.assert_allclose(shuffled, vectors_of(model, rendered)[order], atol=1e-5)


def test_vectors_of_different_texts_differ(model, rendered):
    found = vectors_of(model, rendered)
    assert len(np.unique(found.round(4), axis=0)) == len(rendered)


@pytest.mark.parametrize("name", ["batch_token_nll", "batch_embeddings"])
def test_tokens_and_vectors_too_big_for_the_gpu_are_halved(model, rendered, name):
    whole = getattr(losses, name)
    expected = model.begin(whole, rendered)()

    def small_gpu(network, batch, layout):
        if len(batch) > 4:
            raise torch.cuda.OutOfMemoryError("no room")
        return whole(network, batch, layout)

    found = model.begin(small_gpu, rendered)()
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_a_model_keeps_one_adapter_in_memory(tiny, tmp_path):
    model = LanguageModel(ModelRef(name=str(tiny), dtype="float32", device="cpu"))
    rendered = model.renderer.render(toy_examples(4), max_length=128)
    base = model.nll(rendered)
    folders = [
        fine_tune(
            model.ref,
            rendered,
            tmp_path / str(seed),
            tuning=Tuning(learning_rate=1e-2, batch_size=1, seed=seed),
            label="x",
        ).folder
        for seed in range(2)
    ]
    worn = []
    for folder in (*folders, folders[0]):
        with model.adapter(folder):
            worn.append(model.nll(rendered))
        assert len(model.network.peft_config) == 1
    np.testing.assert_array_equal(worn[2], worn[0])
    assert not np.array_equal(worn[1], worn[0])
    np.testing.assert_array_equal(model.nll(rendered), base)


def test_whether_logits_are_plain_is_found_while_attention_follows_a_batch(tiny, rendered):
    network = LanguageModel(ModelRef(name=str(tiny), dtype="float32")).network
    with attention.attending(network, packing.packed(rendered)):
        assert losses.gives_plain_logits(network)


def test_attention_that_follows_another_batch_is_an_error(tiny, rendered):
    network = LanguageModel(ModelRef(name=str(tiny), dtype="float32")).network
    with (
        attention.attending(network, packing.packed(rendered)),
        pytest.raises(ValueError, match="1 tokens attend where a layout of"),
    ):
        network(input_ids=torch.zeros((1, 1), dtype=torch.int64), use_cache=False)
