"""A checkpoint has the weights of its network, no fewer, no more, of the same size; or the model is refused, by name."""

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from architectures import PACKED, build
from learnable.errors import ModelError
from learnable.models import source
from learnable.models.cache import cache_folder
from learnable.models.language_model import LanguageModel
from learnable.models.loading import load_network
from learnable.models.special_tokens import with_tokens
from learnable.runs.progress import say_once
from learnable.settings import NewToken, NewTokens
from learnable.testing import toy_examples
from learnable.types import ModelRef

UP = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(autouse=True)
def says_again():
    say_once.cache_clear()


@pytest.fixture
def folder(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "model")
    return tmp_path / "model"


def ref(folder, **options):
    return ModelRef(name=str(folder), **{"dtype": "float32", "device": "cpu"} | options)


def edit_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def edit_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def put_tokenizer(tiny, folder):
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tiny / name, folder)


def losses(folder):
    model = LanguageModel(ref(folder))
    return model.nll(model.renderer.render(toy_examples(4), max_length=128))


@pytest.mark.parametrize("missing", ["lm_head.weight", UP, "model.norm.weight"])
def test_a_weight_that_is_missing_is_named(folder, missing, capfd):
    edit_weights(folder, lambda weights: weights.pop(missing))
    with pytest.raises(ModelError, match=rf"missing in the checkpoint of .*: {missing}") as caught:
        LanguageModel(ref(folder))
    assert "random" in caught.value.hint
    assert "LOAD REPORT" not in capfd.readouterr().err


def test_a_buffer_that_is_trained_is_a_weight(tiny, tmp_path):
    build("deepseek_v3", PACKED["deepseek_v3"] | {"vocab_size": 400, "eos_token_id": 2}).save_pretrained(
        tmp_path
    )
    put_tokenizer(tiny, tmp_path)
    assert np.isfinite(losses(tmp_path)).all()
    edit_weights(tmp_path, lambda weights: weights.pop("model.layers.1.mlp.gate.e_score_correction_bias"))
    with pytest.raises(ModelError, match="e_score_correction_bias"):
        LanguageModel(ref(tmp_path))


def test_a_body_without_its_head_is_told_apart_from_a_broken_download(folder):
    edit_weights(folder, lambda weights: weights.pop("lm_head.weight"))
    edit_config(folder, architectures=["LlamaModel"])
    with pytest.raises(ModelError, match=r"lm_head\.weight") as caught:
        LanguageModel(ref(folder))
    assert "LlamaModel" in caught.value.hint
    assert "LlamaForCausalLM" in caught.value.hint


def test_a_head_that_is_the_embedding_is_not_missing(folder):
    edit_weights(
        folder,
        lambda weights: weights.update({"lm_head.weight": weights["model.embed_tokens.weight"].clone()}),
    )
    both = losses(folder)
    edit_weights(folder, lambda weights: weights.pop("lm_head.weight"))
    edit_config(folder, tie_word_embeddings=True)
    np.testing.assert_array_equal(losses(folder), both)


def test_more_layers_in_the_configuration_than_weights_are_missing_weights(folder):
    edit_config(folder, num_hidden_layers=3)
    with pytest.raises(ModelError, match=r"model\.layers\.2\..* and 6 more"):
        LanguageModel(ref(folder))


def test_fewer_layers_in_the_configuration_than_weights_are_refused(folder):
    edit_config(folder, num_hidden_layers=1)
    with pytest.raises(ModelError, match=r"no place for: model\.layers\.1\."):
        LanguageModel(ref(folder))


@pytest.mark.parametrize(
    "extra",
    [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.self_attn.q_norm.weight",
        "model.embedding_norm.weight",
        "model.layers.0.mlp.up_proj.lora_A.default.weight",
        "lm_head.bias",
        "final_logits_bias",
    ],
)
def test_a_weight_without_a_place_in_the_network_is_named(folder, extra):
    edit_weights(folder, lambda weights: weights.update({extra: torch.ones(8)}))
    with pytest.raises(ModelError, match=extra):
        LanguageModel(ref(folder))


@pytest.mark.parametrize(
    ("extra", "part"),
    [
        ("v_head.summary.weight", "v_head"),
        ("visual.blocks.0.attn.qkv.weight", "visual"),
        ("model.vision_tower.layers.0.weight", "model.vision_tower"),
        ("model.mtp.layers.0.mlp.up_proj.weight", "model.mtp"),
        ("mtp.fc.weight", "mtp"),
    ],
)
def test_parts_beside_the_language_model_are_left_out_and_it_is_said_once(folder, extra, part, capsys):
    before = losses(folder)
    edit_weights(folder, lambda weights: weights.update({extra: torch.ones(8)}))
    np.testing.assert_array_equal(losses(folder), before)
    losses(folder)
    assert capsys.readouterr().err.count(f"left out: {part} (1 weights)") == 1


def test_layers_that_guess_further_tokens_are_beside_the_language_model(folder):
    edit_weights(folder, lambda weights: weights.update({"model.layers.2.eh_proj.weight": torch.ones(8)}))
    with pytest.raises(ModelError, match=r"model\.layers\.2\.eh_proj"):
        LanguageModel(ref(folder))
    edit_config(folder, num_nextn_predict_layers=1)
    assert np.isfinite(losses(folder)).all()


def test_masks_and_positions_that_old_checkpoints_carry_are_no_weights(tiny, tmp_path):
    config = AutoConfig.for_model("gpt2", vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=256)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    put_tokenizer(tiny, tmp_path)
    before = losses(tmp_path)
    mask = torch.ones(1, 1, 256, 256).tril()
    old = {"transformer.h.0.attn.bias": mask, "transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}
    edit_weights(tmp_path, lambda weights: weights.update(old))
    np.testing.assert_array_equal(losses(tmp_path), before)


def test_a_weight_of_another_size_is_named_with_both_sizes(folder):
    edit_config(folder, intermediate_size=48)
    with pytest.raises(
        ModelError, match=r"down_proj\.weight is \(32, 64\), .* asks for \(32, 48\) \(and 5 more\)"
    ):
        LanguageModel(ref(folder))


@pytest.mark.parametrize("lost", ["experts.2.up_proj", "experts.3."])
def test_experts_that_are_not_all_there_are_refused(tiny, tmp_path, lost):
    config = AutoConfig.for_model(
        "qwen3_moe", vocab_size=400, hidden_size=32, intermediate_size=64, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_experts=4, num_experts_per_tok=2, head_dim=8,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    put_tokenizer(tiny, tmp_path)
    assert np.isfinite(losses(tmp_path)).all()
    edit_weights(
        tmp_path, lambda weights: [weights.pop(name) for name in [*weights] if f"layers.1.mlp.{lost}" in name]
    )
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.experts\.(gate_up|down)_proj"):
        LanguageModel(ref(tmp_path))


def test_shards_are_one_checkpoint(folder):
    before = losses(folder)
    load_network(ref(folder)).save_pretrained(folder, max_shard_size="40kB")
    (folder / "model.safetensors").unlink()
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1
    np.testing.assert_array_equal(losses(folder), before)
    shards[1].unlink()
    with pytest.raises(ModelError, match=shards[1].name):
        LanguageModel(ref(folder))


def test_new_tokens_are_given_to_a_whole_model_only(folder, tmp_path):
    edit_weights(folder, lambda weights: weights.pop("lm_head.weight"))
    new = NewTokens(added=(NewToken.parse("<sep>"),), init="mean", init_seed=0)
    with pytest.raises(ModelError, match=r"lm_head\.weight"):
        with_tokens(ref(folder), new, tmp_path / "longer")


# Broken files


def test_a_git_lfs_pointer_is_called_one_before_anything_is_loaded(folder):
    (folder / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 8\n"
    )
    with pytest.raises(ModelError, match=r"model\.safetensors is a git-lfs pointer") as caught:
        source.locate(ref(folder), weights=False)
    assert "git lfs pull" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html></html>" * 9, None])
def test_a_file_of_weights_that_is_not_whole_is_named(folder, content):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:3000] if content is None else content)
    with pytest.raises(ModelError, match=r"model\.safetensors is broken") as caught:
        LanguageModel(ref(folder))
    assert "again" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"not pickled at all", None])
def test_a_pickled_file_of_weights_that_is_not_whole_is_named(folder, content):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert np.isfinite(losses(folder)).all()
    file = folder / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:3000] if content is None else content)
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is broken"):
        LanguageModel(ref(folder))


def test_a_folder_without_weights_says_so(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no file named model\.safetensors"):
        LanguageModel(ref(folder))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": "large"}, "'hidden_size' expected int, got str"),
        ({"num_attention_heads": 5}, "not a multiple of the number of attention heads"),
        ({"rope_scaling": {"rope_type": "nonsense"}}, "nonsense"),
    ],
)
def test_a_configuration_that_was_edited_wrongly_is_one_line(folder, changes, words):
    edit_config(folder, **changes)
    with pytest.raises(ModelError, match=words) as caught:
        LanguageModel(ref(folder))
    assert "\n" not in caught.value.message


def test_a_configuration_that_is_no_json_is_one_line(folder):
    (folder / "config.json").write_text('{"model_type": ')
    with pytest.raises(ModelError, match=r"config\.json is not valid JSON"):
        source.locate(ref(folder))


# Models of another kind


@pytest.mark.parametrize("kind", ["t5", "bart", "umt5"])
def test_an_encoder_decoder_is_called_one_before_anything_is_loaded(folder, kind):
    AutoConfig.for_model(kind).save_pretrained(folder)
    with pytest.raises(ModelError, match=rf"encoder-decoder model \({kind}\)") as caught:
        source.locate(ref(folder), weights=False)
    assert "causal" in caught.value.hint


def test_a_model_that_writes_no_text_is_told_what_it_is(folder):
    AutoConfig.for_model("vit").save_pretrained(folder)
    with pytest.raises(ModelError, match="ViT is not an architecture of causal language models"):
        LanguageModel(ref(folder))


@pytest.mark.parametrize(
    "settings",
    [
        {"quant_method": "gptq", "bits": 4, "group_size": 8},
        {"quant_method": "awq", "bits": 4, "group_size": 8},
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"quant_method": "compressed-tensors", "config_groups": {}},
    ],
    ids=lambda settings: settings["quant_method"],
)
def test_quantized_weights_are_the_reason_that_is_given(folder, settings):
    edit_config(folder, quantization_config=settings)
    with pytest.raises(ModelError) as caught:
        LanguageModel(ref(folder))
    assert f"quantized ({settings['quant_method']})" in caught.value.hint
    assert "unquantized" in caught.value.hint


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.filterwarnings("ignore")
def test_weights_in_eight_bits_are_computed_in_the_dtype_that_was_asked_for(folder, dtype, capsys):
    before = losses(folder)

    def quantize(weights):
        for name, weight in [*weights.items()]:
            if "proj" not in name:
                weights[name] = weight.bfloat16()
                continue
            scale = weight.abs().max() / 448
            weights[name] = (weight / scale).to(torch.float8_e4m3fn)
            weights[f"{name}_scale_inv"] = scale.reshape(1, 1)

    edit_weights(folder, quantize)
    edit_config(folder, quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})
    model = LanguageModel(ref(folder, dtype=dtype))
    assert {str(weight.dtype) for weight in model.network.parameters()} == {f"torch.{dtype}"}
    after = model.nll(model.renderer.render(toy_examples(4), max_length=128))
    np.testing.assert_allclose(after, before, rtol=0.05)
    assert "fp8" in capsys.readouterr().err


# GGUF


def write_gguf(folder, file, *, without=(), extra=()):
    """Write the tiny model as a GGUF file, without some of its weights, or with more tensors."""
    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(2)
    writer.add_chat_template((folder / "chat_template.jinja").read_text())
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, weight in load_file(folder / "model.safetensors").items():
        heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
        values = weight.float().numpy()
        if (
            rotated := heads.get(name.split(".")[-2])
        ) is not None:  # GGUF has the two halves of a head in turns
            values = values.reshape(rotated, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        if name not in without:
            writer.add_tensor(
                names.get_name(name.removesuffix(".weight")) + ".weight", np.ascontiguousarray(values)
            )
    for name, values in extra:
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_a_gguf_file_gives_the_losses_of_the_model_it_was_made_from(folder, tmp_path):
    file = write_gguf(folder, tmp_path / "whole.gguf", extra=[("rope_freqs.weight", np.ones(4, np.float32))])
    np.testing.assert_allclose(losses(file), losses(folder), rtol=0.01)  # it is kept in bfloat16


def test_a_gguf_file_that_lacks_a_weight_is_refused(folder, tmp_path):
    file = write_gguf(folder, tmp_path / "less.gguf", without=[UP])
    with pytest.raises(ModelError, match=f"missing in the checkpoint of less.gguf: {UP}"):
        source.locate(ref(file))
    assert list((cache_folder() / "converted").glob("less-*")) == []


@pytest.mark.parametrize("name", ["blk.0.attn_q.bias", "blk.2.attn_q.weight", "rope_freqs.weight"])
def test_a_gguf_file_of_which_a_part_would_be_left_out_is_refused(folder, tmp_path, name):
    file = write_gguf(folder, tmp_path / "more.gguf", extra=[(name, np.full(32, 2, np.float32))])
    with pytest.raises(ModelError, match=r"more\.gguf .*(a place for|scales its rotary)") as caught:
        source.locate(ref(file))
    assert "original model" in caught.value.hint


def test_the_hint_for_a_pointer_names_its_folder(tmp_path):
    (tmp_path / "m.gguf").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 8\n")
    with pytest.raises(ModelError, match="git-lfs pointer") as caught:
        source.locate(ref(tmp_path / "m.gguf"))
    assert str(Path(tmp_path)) in caught.value.hint
