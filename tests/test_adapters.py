"""A saved adapter is put on whole, or refused with what is wrong about it."""

import json
import shutil

import numpy as np
import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from learnable.errors import ModelError
from learnable.models.adapters import attach
from learnable.models.language_model import LanguageModel
from learnable.models.loading import load_network
from learnable.models.source import adapter_key
from learnable.testing import tiny_model, toy_examples
from learnable.types import ModelRef

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def ref(tiny):
    return ModelRef(name=str(tiny), dtype="float32", device="cpu")


def save_adapter(network, folder, **options):
    """Save an adapter that changes losses, as another trainer would."""
    torch.manual_seed(0)
    config = LoraConfig(**{"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | options)
    wearing = get_peft_model(network, config)
    for name, weight in wearing.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    wearing.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def made(ref, tmp_path_factory):
    return save_adapter(load_network(ref), tmp_path_factory.mktemp("adapter"))


@pytest.fixture
def adapter(made, tmp_path):
    shutil.copytree(made, tmp_path / "adapter")
    return tmp_path / "adapter"


def edit(adapter, change):
    weights = load_file(adapter / WEIGHTS)
    change(weights)
    save_file(weights, adapter / WEIGHTS, metadata={"format": "pt"})


def wear(ref, adapter):
    """Return losses without, with, and without the adapter again."""
    model = LanguageModel(ref)
    rendered = model.renderer.render(toy_examples(4), max_length=128)
    before = model.nll(rendered)
    with model.adapter(adapter):
        worn = model.nll(rendered)
    return before, worn, model.nll(rendered)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dora": True},
        {"use_rslora": True},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": {"embed_tokens": [5, 6]}},
        {"target_modules": ["q_proj"], "layers_to_transform": [1]},
        {"task_type": None},
    ],
    ids=lambda options: next(iter(options), "plain"),
)
def test_a_whole_adapter_of_any_make_is_worn_and_taken_off(ref, tmp_path, options):
    before, worn, after = wear(ref, save_adapter(load_network(ref), tmp_path / "own", **options))
    assert np.abs(worn - before).max() > 0.01
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("lost", ["lora_A", "lora_B"])
def test_a_weight_that_the_adapter_lacks_is_named(ref, adapter, lost):
    edit(adapter, lambda weights: weights.pop(next(name for name in weights if lost in name)))
    with pytest.raises(ModelError, match=rf"weights missing in the adapter .*{lost}"):
        wear(ref, adapter)


def test_a_second_adapter_is_looked_at_as_closely_as_the_first(ref, made, adapter):
    edit(adapter, lambda weights: weights.pop(next(iter(weights))))
    model = LanguageModel(ref)
    with model.adapter(made):
        pass
    with pytest.raises(ModelError, match="weights missing in the adapter"), model.adapter(adapter):
        pass


@pytest.mark.parametrize(
    "options", [{"modules_to_save": ["lm_head"]}, {"trainable_token_indices": {"embed_tokens": [5]}}], ids=str
)
def test_a_whole_layer_or_a_token_that_the_adapter_lacks_is_named(ref, tmp_path, options):
    folder = save_adapter(load_network(ref), tmp_path / "own", **options)
    edit(folder, lambda weights: [weights.pop(name) for name in [*weights] if "lora_" not in name])
    with pytest.raises(ModelError, match="weights missing in the adapter"):
        wear(ref, folder)


def test_a_base_with_fewer_layers_has_no_place_for_the_adapter(tiny, adapter, tmp_path):
    config = AutoConfig.from_pretrained(tiny, num_hidden_layers=1)
    shutil.copytree(tiny, tmp_path / "short")
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "short")
    with pytest.raises(ModelError, match=r"no place for: .*layers\.1\."):
        wear(ModelRef(name=str(tmp_path / "short"), dtype="float32", device="cpu"), adapter)


def test_a_base_of_another_width_does_not_fit(tiny, adapter, tmp_path):
    config = AutoConfig.from_pretrained(tiny, hidden_size=64)
    shutil.copytree(tiny, tmp_path / "wide")
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "wide")
    with pytest.raises(ModelError, match=r"does not fit .*size mismatch"):
        wear(ModelRef(name=str(tmp_path / "wide"), dtype="float32", device="cpu"), adapter)


def test_modules_named_in_another_order_make_no_other_adapter(adapter):
    settings = adapter / "adapter_config.json"
    config, keys = json.loads(settings.read_text(encoding="utf-8")), []
    for modules in (["q_proj", "v_proj"], ["v_proj", "q_proj"], ["q_proj", "k_proj"]):
        settings.write_text(json.dumps(config | {"target_modules": modules}), encoding="utf-8")
        keys.append(adapter_key("base", adapter))
    assert keys[0] == keys[1] != keys[2]


def test_layers_that_the_settings_do_not_name_are_not_left_out(ref, adapter):
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"target_modules": ["q_proj"]}))
    with pytest.raises(ModelError, match=r"no place for: .*gate_proj.* and 21 more"):
        wear(ref, adapter)


def test_an_adapter_that_would_write_over_the_base_is_refused(ref, tmp_path):
    wearing = get_peft_model(
        load_network(ref), LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        wearing.get_input_embeddings().weight.mul_(2)
    wearing.save_pretrained(tmp_path / "own", save_embedding_layers=True)
    with pytest.raises(ModelError, match=r"no place for: .*embed_tokens\.weight") as caught:
        wear(ref, tmp_path / "own")
    assert "merge" in caught.value.hint


@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig])
def test_prompt_and_prefix_tuning_are_no_lora_adapters(ref, tmp_path, kind):
    wearing = get_peft_model(load_network(ref), kind(num_virtual_tokens=4, task_type="CAUSAL_LM"))
    wearing.save_pretrained(tmp_path / "own")
    with pytest.raises(ModelError, match=r"is no LoRA adapter but (prompt|prefix) tuning"):
        wear(ref, tmp_path / "own")


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", None])
def test_a_broken_file_of_an_adapter_is_named(ref, adapter, content):
    file = adapter / WEIGHTS
    file.write_bytes(file.read_bytes()[:2000] if content is None else content)
    with pytest.raises(ModelError, match=rf"{WEIGHTS} in .* is broken"):
        wear(ref, adapter)


def test_an_adapter_without_weights_is_not_looked_for_on_the_hub(ref, adapter):
    (adapter / WEIGHTS).unlink()
    with pytest.raises(ModelError, match="holds no weights of an adapter"):
        wear(ref, adapter)


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys")  # of the trainer
def test_an_adapter_on_experts_that_another_trainer_made_is_worn(tiny, tmp_path):
    config = AutoConfig.for_model(
        "qwen3_moe", vocab_size=400, hidden_size=32, moe_intermediate_size=16, num_hidden_layers=2, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2, num_experts=4, num_experts_per_tok=2, initializer_range=0.2,
    )  # fmt: skip
    tiny_model(tmp_path / "base")
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    ref = ModelRef(name=str(tmp_path / "base"), dtype="float32", device="cpu")
    folder = save_adapter(load_network(ref), tmp_path / "own")
    assert any("experts" in name for name in load_file(folder / WEIGHTS))
    before, worn, after = wear(ref, folder)
    assert np.abs(worn - before).max() > 0.01
    np.testing.assert_array_equal(after, before)


def test_what_is_trained_on_is_kept_in_float32(tiny, adapter):
    network = load_network(ModelRef(name=str(tiny), dtype="bfloat16", device="cpu"))
    wearing = attach(network, adapter, trainable=True)
    kinds = {weight.dtype for name, weight in wearing.named_parameters() if "lora_" in name}
    assert kinds == {torch.float32}
    assert all(weight.requires_grad == ("lora_" in name) for name, weight in wearing.named_parameters())
