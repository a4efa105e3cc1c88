"""Tiny random models of the architectures of transformers: every kind of layer, with short windows and switches.

Widths do not matter for whether rows are computed right together; which layers there are does, and how long rows are.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from learnable.models.lengths import forget_lengths

WINDOW = 32
"""Tokens of every window and chunk."""
SWITCH = 48
"""Length above which rows are computed otherwise."""
LIMIT = 256
"""Positions."""

Settings = Mapping[str, Any]

USUAL: Settings = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": LIMIT, "initializer_range": 0.2,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "sliding_window": WINDOW, "attention_chunk_size": WINDOW,
    # the same by the names of older architectures
    "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": LIMIT, "d_model": 32, "n_heads": 4, "n_layers": 2,
    "num_layers": 2, "num_heads": 4, "ffn_dim": 48, "attention_heads": 4,
    # experts
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "shared_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 16, "intermediate_size_mlp": 48, "n_shared_experts": 1, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1,
    # latent attention
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    # recurrent layers
    "mamba_n_heads": 4, "mamba_num_heads": 4, "mamba_d_ssm": 32, "mamba_d_head": 8, "mamba_head_dim": 8,
    "mamba_d_state": 8, "ssm_state_size": 8, "state_size": 8, "mamba_chunk_size": 16, "chunk_size": 16,
    "mamba_expand": 1, "expand": 1, "mamba_n_groups": 1, "mamba_ngroups": 1, "n_groups": 1, "mamba_dt_rank": 8,
    "n_mamba_heads": 4, "linear_num_value_heads": 4, "linear_num_key_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "lru_width": 32, "attention_hidden_size": 32,
}  # fmt: skip
"""What every architecture gets whose configuration has a setting of that name."""

PLAIN: Settings = {}
LONGROPE = {
    "sliding_window": None,
    "original_max_position_embeddings": SWITCH,
    "rope_scaling": {
        "rope_type": "longrope",
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "original_max_position_embeddings": SWITCH,
    },
}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"]}
CONV = {"layer_types": ["conv", "full_attention", "conv"], "num_hidden_layers": 3}
LINEAR = {"layer_types": ["linear_attention", "full_attention", "linear_attention"], "num_hidden_layers": 3}
LATENT = {"num_key_value_heads": 4}

PACKED: Mapping[str, Settings] = {
    # Windows, soft caps and sinks are a matter of the layers that ask for them.
    **dict.fromkeys(
        ["afmoe", "cohere2", "cohere2_moe", "cwm", "exaone4", "gemma2", "gemma3_text", "gpt_oss", "granite_swa",
         "granitemoe_swa", "exaone_moe", "mimo_v2_flash", "ministral", "modernbert-decoder", "olmo3", "vaultgemma"],
        SLIDING,
    ),
    **dict.fromkeys(["flint", "kolibri1", "laguna", "mellum", "ministral3", "mistral", "mixtral", "phi3", "starcoder2"],
        PLAIN,
    ),
    **dict.fromkeys(
        ["apertus", "arcee", "biogpt", "bitnet", "cohere", "ctrl", "diffllama", "ernie4_5", "ernie4_5_moe", "flex_olmo",
         "gemma", "glm", "glm4", "glm4_moe", "gpt2", "gpt_bigcode", "gpt_neox", "granite", "granitemoe", "granitemoeshared",
         "helium", "hrm_text", "hunyuan_v1_dense", "hunyuan_v1_moe", "hy_v3", "hyperclovax", "jais2", "jetmoe", "llama", "minimax_m2",
         "minimax_m3_vl_text",
         "nanochat", "nemotron", "olmo", "olmo2", "olmoe", "persimmon", "phi", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe",
         "seed_oss", "solar_open", "stablelm"],
        PLAIN,
    ),
    "aria_text": {"moe_num_experts": 4},
    "bert": {"is_decoder": True},
    "deepseek_v2": LATENT | {"topk_method": "greedy"},
    "deepseek_v3": LATENT,
    "dots1": {"layer_types": ["full_attention"] * 2},
    "axk1": LATENT | {"mlp_layer_types": ["dense", "sparse"]},
    "gemma3n_text": SLIDING
    | {
        "intermediate_size": [48, 48],
        "num_kv_shared_layers": 0,
        "vocab_size_per_layer_input": 96,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 4,
        "activation_sparsity_pattern": [0.0, 0.0],
    },
    "gemma4_text": SLIDING
    | {"vocab_size_per_layer_input": 96, "hidden_size_per_layer_input": 8, "per_layer_config": {}},
    "longcat_flash": LATENT
    | {"ffn_hidden_size": 48, "moe_topk": 2, "zero_expert_num": 2, "expert_ffn_hidden_size": 16},
    "glm4_moe_lite": LATENT | {"mlp_layer_types": ["dense", "sparse"]},
    "minicpm3": LATENT,
    "opt": {"word_embed_proj_dim": 32},
    "smollm3": {"no_rope_layers": [1, 0]},
    "youtu": LATENT,
}  # fmt: skip
"""Attention to all that stands before: a batch is one sequence."""

WINDOWED: Mapping[str, Settings] = {
    "smollm3": SLIDING,
    "llama4_text": {
        "num_hidden_layers": 3,
        "layer_types": ["chunked_attention", "full_attention", "chunked_attention"],
        "no_rope_layers": [1, 0, 1],
        "interleave_moe_layer_step": 2,
    },
}  # fmt: skip
"""Attention to a window in some layers: a batch is one sequence while no row is longer, and padded above."""

SWITCHING: Mapping[str, Settings] = {
    "phi3": LONGROPE,
    "phimoe": LONGROPE
    | {"rope_scaling": LONGROPE["rope_scaling"] | {"short_mscale": 1.2, "long_mscale": 1.3}},
    "llama": {"max_position_embeddings": SWITCH, "rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
}
"""Frequencies that change with the length: a batch is one sequence of rows on one side of the switch."""

PADDED: Mapping[str, Settings] = {
    **dict.fromkeys(
        ["bloom", "falcon", "falcon_h1", "falcon_mamba", "gpt_neox_japanese", "mamba", "mpt", "openai-gpt", "rwkv", "xglm"],
        PLAIN,
    ),
    **dict.fromkeys(["lfm2", "lfm3"], CONV),
    **dict.fromkeys(["minimax", "olmo_hybrid", "qwen3_5_text", "qwen3_next"], LINEAR),
    "bamba": {"attn_layer_indices": [1]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
    "codegen": {"rotary_dim": 8},
    "doge": {},
    "gptj": {"rotary_dim": 8},
    "roberta": {"is_decoder": True},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "jamba": {"num_hidden_layers": 3, "attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": LINEAR
    | {
        "linear_head_dim": 8,
        "linear_num_heads": 4,
        "num_experts_per_token": 2,
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        "num_key_value_heads": 4,
    },
    "lfm2_moe": CONV | {"num_dense_layers": 1},
    "mamba2": {"num_heads": 4},
    "nemotron_h": {"layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"]},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "zamba2": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "mamba_headdim": 8,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "adapter_rank": 4,
        "num_key_value_heads": 4,
    },
}  # fmt: skip
"""States that go from token to token, caps and sinks of the scores, or places counted over the batch: rows are padded."""

REFUSED = ("bert", "bert-generation", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "rembert",
           "roberta", "roberta-prelayernorm", "roformer", "xlm-roberta", "xlm-roberta-xl")  # fmt: skip
"""Encoders that transformers opens as causal models: their tokens see those after them."""

LEFT_OUT = {
    "deepseek_v32, deepseek_v4, glm_moe_dsa, hy_v4, inkling_text": "parts that stay large, or slow on a CPU, however small the rest",
    "big_bird, reformer, xlnet": "attention at random, or in another order than that of the text",
    "bart, marian, mbart, pegasus, trocr and other decoders of translators": "they go with an encoder",
    "dots3_note_text, zaya, dbrx, zamba, qwen4_exp_text": "settings that transformers 5.23 does not take in a tiny form",
    "xlstm, inkling2_text": "they compute in two dtypes at once, and fail in one of float32 and bfloat16 on a CPU",
    "codes of pictures and sound, such as emu3, fuyu, moshi, musicgen, whisper": "they do not write text",
}
"""What is not in the list, and why."""


def build(architecture: str, settings: Settings, *, dtype: torch.dtype = torch.float32) -> Any:
    """Return a random model, in evaluation mode, as it is after loading."""
    names = AutoConfig.for_model(architecture).to_dict()
    config = AutoConfig.for_model(
        architecture, **{n: v for n, v in USUAL.items() if n in names} | {**settings}
    )
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    forget_lengths(network)
    return network
