"""The loss engine against a plain loop over one example at a time."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

from learnable.errors import ModelError
from learnable.model import LanguageModel, losses
from learnable.testing import toy_examples
from learnable.types import ModelRef

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
    np.testing.assert_allclose(losses.batch_nll(network, rendered), plain_loop(network, rendered), rtol=1e-5)


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
    whole = losses.batch_nll

    def small_gpu(network, batch):
        if len(batch) > 4:
            raise torch.cuda.OutOfMemoryError("no room")
        return whole(network, batch)

    monkeypatch.setattr("learnable.model.language_model.batch_nll", small_gpu)
    np.testing.assert_allclose(model.nll(rendered), expected, rtol=1e-5)


def test_one_example_too_big_for_the_gpu_is_an_error(model, rendered, monkeypatch):
    def tiny_gpu(network, batch):
        raise torch.cuda.OutOfMemoryError("no room")

    monkeypatch.setattr("learnable.model.language_model.batch_nll", tiny_gpu)
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
