"""LoRA on tiny random models of many families: which layers it takes, that it trains, and that what is saved comes back."""

import shutil

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText

from architectures import PACKED, PADDED, USUAL, WINDOWED, build
from learnable.errors import ModelError
from learnable.models.adapters import lora_targets
from learnable.models.language_model import LanguageModel
from learnable.models.loading import load_network
from learnable.models.rendering import Renderer
from learnable.runs.progress import say_once
from learnable.settings import Tuning
from learnable.testing import toy_examples
from learnable.training import fine_tune
from learnable.types import ModelRef

ATTENTION = "q_proj k_proj v_proj o_proj"
GATED = "gate_proj up_proj down_proj"
FAMILIES = {
    "qwen2": f"{ATTENTION} {GATED}",
    "gemma2": f"{ATTENTION} {GATED}",
    "phi3": "qkv_proj o_proj gate_up_proj down_proj",
    "falcon": "query_key_value dense dense_h_to_4h dense_4h_to_h",
    "gpt2": "c_attn c_proj c_fc",
    "mixtral": ATTENTION,
    "gpt_oss": ATTENTION,
    "phimoe": ATTENTION,
    # PEFT takes layers of the names in GATED for the experts of these.
    "deepseek_v3": "q_a_proj q_b_proj kv_a_proj_with_mqa kv_b_proj o_proj",
    "qwen3_next": f"in_proj_qkvz in_proj_ba out_proj {ATTENTION} shared_expert_gate",
    "llama4_text": f"{ATTENTION} {GATED}",
    # Fused kernels read past out_proj, and past x_proj and dt_proj of the first Mamba.
    "mamba": "in_proj",
    "mamba2": "in_proj",
    "falcon_h1": f"in_proj {ATTENTION} {GATED}",
    "bamba": f"in_proj {ATTENTION} {GATED}",
    "granitemoehybrid": f"in_proj {ATTENTION} input_linear output_linear",
    "nemotron_h": f"in_proj {ATTENTION} up_proj down_proj",
    "jamba": f"in_proj x_proj out_proj {ATTENTION} {GATED}",
    "lfm2": "in_proj out_proj q_proj k_proj v_proj w1 w2 w3",
}
"""Which linear layers adapters go on."""

WITH_EXPERTS = {
    *("mixtral", "gpt_oss", "phimoe", "deepseek_v3", "qwen3_next", "llama4_text"),
    *("granitemoehybrid", "nemotron_h", "jamba"),
}
SETTINGS = {**PADDED, **WINDOWED, **PACKED}


def network_of(family):
    return build(family, SETTINGS.get(family, {}) | {"vocab_size": 400, "eos_token_id": 2})


@pytest.fixture(params=FAMILIES)
def family(request):
    say_once.cache_clear()
    return request.param


@pytest.fixture
def ref(family, tiny, tmp_path):
    network_of(family).save_pretrained(tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tiny / name, tmp_path / "model")
    return ModelRef(name=str(tmp_path / "model"), dtype="float32", device="cpu")


def test_an_adapter_of_each_family_trains_and_comes_back(family, ref, tmp_path, capsys):
    model = LanguageModel(ref)
    targets = lora_targets(model.network)
    assert {name.rpartition(".")[2] for name in targets} == set(FAMILIES[family].split())
    said = capsys.readouterr().err
    assert ("the experts of this" in said) == (family in WITH_EXPERTS)

    rendered = Renderer.of(ref).render(toy_examples(6), max_length=64)
    before = model.nll(rendered)
    tuning = Tuning(learning_rate=1e-2, batch_size=3, rank=4, epochs=2)
    folder = fine_tune(ref, rendered, tmp_path / "adapter", tuning=tuning, label="training").folder
    saved = load_file(folder / "adapter_model.safetensors")
    assert {name.split(".lora_")[0].removeprefix("base_model.model.") for name in saved} == set(targets)
    with model.adapter(folder):
        after = model.nll(rendered)
    assert after.sum() < before.sum() - 1
    np.testing.assert_array_equal(model.nll(rendered), before)
    assert [name for name, weight in saved.items() if "lora_B" in name and not weight.any()] == []

    again = LanguageModel(ref)
    with again.adapter(folder):
        np.testing.assert_array_equal(again.nll(rendered), after)


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "phi3", "falcon", "lfm2"])
def test_where_nothing_is_in_the_way_the_targets_are_all_linear_layers(family):
    network = network_of(family)
    ours = set(lora_targets(network))
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    theirs = {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.default")
        for name, _ in get_peft_model(network, config).named_modules()
        if name.endswith(".lora_A.default")
    }
    assert ours == theirs


def test_all_weights_of_a_state_space_model_can_be_trained(tiny, tmp_path):
    network_of("mamba").save_pretrained(tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tiny / name, tmp_path / "model")
    ref = ModelRef(name=str(tmp_path / "model"), dtype="float32", device="cpu")
    rendered = Renderer.of(ref).render(toy_examples(6), max_length=64)
    before = LanguageModel(ref).nll(rendered)
    tuning = Tuning(method="full", learning_rate=1e-2, batch_size=3, epochs=2)
    folder = fine_tune(ref, rendered, tmp_path / "whole", tuning=tuning, label="training").folder
    after = LanguageModel(ModelRef(name=str(folder), dtype="float32", device="cpu")).nll(rendered)
    assert after.sum() < before.sum() - 1


def test_what_reads_pictures_beside_a_language_model_stays_as_it_is(tiny, tmp_path, capsys):
    say_once.cache_clear()
    text = {name: USUAL[name] for name in USUAL if not name.startswith(("num_expert", "num_local"))}
    seeing = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model(
        "gemma3",
        text_config=text | {"vocab_size": 400, "eos_token_id": 2},
        vision_config=seeing | {"image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
    )
    AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tiny / name, tmp_path / "model")
    model = LanguageModel(ModelRef(name=str(tmp_path / "model"), dtype="float32", device="cpu"))
    assert any("vision" in name for name, _ in model.network.named_modules())
    targets = lora_targets(model.network)
    assert {name.rpartition(".")[2] for name in targets} == set(f"{ATTENTION} {GATED}".split())
    assert not any("vision" in name for name in targets)
    assert "experts" not in capsys.readouterr().err
    assert np.isfinite(model.nll(model.renderer.render(toy_examples(3), max_length=64))).all()


def test_a_network_without_a_linear_layer_says_what_can_be_done(tiny):
    network = load_network(ModelRef(name=str(tiny), dtype="float32", device="cpu"))
    for name, module in [*network.named_modules()]:
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, torch.nn.Identity())
    with pytest.raises(ModelError, match="no linear layer") as caught:
        lora_targets(network)
    assert "--method full" in caught.value.hint
