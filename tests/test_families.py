"""LoRA on tiny random models of many families: which layers it takes, that it trains, and that what is saved comes back."""

import shutil

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from learnable.errors import ModelError
from learnable.model import LanguageModel, Renderer
from learnable.model.adapters import lora_targets
from learnable.model.loading import load_network
from learnable.progress import say_once
from learnable.testing import toy_examples
from learnable.training import fine_tune
from learnable.types import ModelRef, Tuning

ATTENTION = "q_proj k_proj v_proj o_proj"
GATED = "gate_proj up_proj down_proj"
SMALL = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    # Larger than usual, so that an untrained model has opinions.
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MIXER = {
    "mamba_d_state": 8,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}
DELTA = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}

FAMILIES: dict[str, tuple[dict, str]] = {
    "qwen2": ({}, f"{ATTENTION} {GATED}"),
    "gemma2": ({"head_dim": 8}, f"{ATTENTION} {GATED}"),
    "phi3": ({}, "qkv_proj o_proj gate_up_proj down_proj"),
    "falcon": ({}, "query_key_value dense dense_h_to_4h dense_4h_to_h"),
    "gpt2": ({"n_embd": 32, "n_layer": 2, "n_head": 4}, "c_attn c_proj c_fc"),
    "mixtral": (EXPERTS, ATTENTION),
    "gpt_oss": (EXPERTS | {"head_dim": 8}, ATTENTION),
    "phimoe": (EXPERTS, ATTENTION),
    "deepseek_v3": (
        LATENT
        | {
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 1,
            "n_group": 1,
            "topk_group": 1,
            "num_key_value_heads": 4,
        },
        "q_a_proj q_b_proj kv_a_proj_with_mqa kv_b_proj o_proj",
    ),
    "llama4_text": (EXPERTS | {"head_dim": 8, "intermediate_size_mlp": 48}, f"{ATTENTION} {GATED}"),
    "mamba": ({"state_size": 8, "time_step_rank": 2}, "in_proj"),
    "mamba2": ({"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 8, "chunk_size": 8}, "in_proj"),
    "falcon_h1": (MIXER | {"mamba_d_ssm": 64, "head_dim": 8}, f"in_proj {ATTENTION} {GATED}"),
    "jamba": (
        EXPERTS
        | {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "mamba_d_state": 8,
            "mamba_dt_rank": 2,
            "use_mamba_kernels": False,
        },
        f"in_proj x_proj out_proj {ATTENTION} {GATED}",
    ),
    "bamba": (MIXER | {"attn_layer_indices": [1]}, f"in_proj {ATTENTION} {GATED}"),
    "granitemoehybrid": (
        EXPERTS | MIXER | {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 48},
        f"in_proj {ATTENTION} input_linear output_linear",
    ),
    "nemotron_h": (
        {
            "layers_block_type": ["mamba", "attention", "mlp"],
            "mamba_num_heads": 4,
            "mamba_head_dim": 16,
            "n_groups": 1,
            "ssm_state_size": 8,
            "chunk_size": 8,
            "head_dim": 8,
        },
        f"in_proj {ATTENTION} up_proj down_proj",
    ),
    "lfm2": ({"layer_types": ["conv", "full_attention"]}, "in_proj out_proj q_proj k_proj v_proj w1 w2 w3"),
    "qwen3_next": (
        EXPERTS | DELTA | {"head_dim": 8, "shared_expert_intermediate_size": 16},
        f"in_proj_qkvz in_proj_ba out_proj {ATTENTION} shared_expert_gate",
    ),
}
WITH_EXPERTS = [
    "mixtral",
    "gpt_oss",
    "phimoe",
    "deepseek_v3",
    "llama4_text",
    "jamba",
    "granitemoehybrid",
    "qwen3_next",
]


def network_of(family):
    config = AutoConfig.for_model(family)
    taken = {name: value for name, value in SMALL.items() if hasattr(config, name)}
    own = FAMILIES[family][0]
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **taken | own))


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
    assert {name.rpartition(".")[2] for name in targets} == set(FAMILIES[family][1].split())
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


def test_a_network_without_a_linear_layer_says_what_can_be_done(tiny):
    network = load_network(ModelRef(name=str(tiny), dtype="float32", device="cpu"))
    for name, module in [*network.named_modules()]:
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, torch.nn.Identity())
    with pytest.raises(ModelError, match="no linear layer") as caught:
        lora_targets(network)
    assert "--method full" in caught.value.hint
