"""Where models are found, what identifies them, and what is said when there is none."""

import json
import re
import shutil

import pytest
import torch

from learnable.errors import ModelError
from learnable.model import LanguageModel, self_test, source
from learnable.model.source import resolved_dtype
from learnable.testing import tiny_model
from learnable.types import ModelRef


def ref(folder, **options):
    return ModelRef(name=str(folder), **options)


def test_a_copy_elsewhere_is_the_same_model(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "copy")
    assert source.identify(ref(tiny, dtype="float32")) == source.identify(
        ref(tmp_path / "copy", dtype="float32")
    )


@pytest.mark.parametrize("change", ["weights", "template", "dtype"])
def test_what_changes_the_losses_changes_the_identity(tiny, tmp_path, change):
    shutil.copytree(tiny, tmp_path / "other")
    before = source.identify(ref(tmp_path / "other", dtype="float32"))
    if change == "weights":
        tiny_model(tmp_path / "new", seed=1)
        shutil.copy(tmp_path / "new" / "model.safetensors", tmp_path / "other")
    elif change == "template":
        (tmp_path / "other" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    dtype = "bfloat16" if change == "dtype" else "float32"
    assert source.identify(ref(tmp_path / "other", dtype=dtype)) != before


def test_device_is_no_part_of_the_identity(tiny):
    assert source.identify(ref(tiny, dtype="float32", device="cpu")) == source.identify(
        ref(tiny, dtype="float32", device="meta")
    )


def test_a_hash_is_remembered_until_the_file_changes(tiny, tmp_path, monkeypatch):
    shutil.copytree(tiny, tmp_path / "m")
    first = source.identify(ref(tmp_path / "m", dtype="float32"))
    read = []
    digest = source.file_digest
    monkeypatch.setattr(source, "file_digest", lambda path: read.append(path.name) or digest(path))
    assert source.identify(ref(tmp_path / "m", dtype="float32")) == first
    assert read == []
    (tmp_path / "m" / "config.json").write_text((tmp_path / "m" / "config.json").read_text() + "\n")
    source.identify(ref(tmp_path / "m", dtype="float32"))
    assert read == ["config.json"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/such/folder", "there is no model 'no/such/folder'"),
        ("nothere", "there is no model 'nothere'"),
        ("./nothere", "there is no model './nothere'"),
        ("some-owner/some-model", "cannot get the model 'some-owner/some-model'"),
    ],
)
def test_a_model_that_does_not_exist_is_named(name, message):
    with pytest.raises(ModelError, match=message) as caught:
        source.locate(ModelRef(name=name))
    assert caught.value.hint


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        source.locate(ref(tmp_path))


def test_a_file_that_is_no_gguf_is_refused(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match="not a GGUF file"):
        source.locate(ref(tmp_path / "model.bin"))


def test_a_broken_gguf_is_one_clear_error_and_leaves_nothing(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"not a gguf file at all")
    with pytest.raises(ModelError, match=r"cannot read the GGUF file broken\.gguf"):
        source.locate(ref(tmp_path / "broken.gguf"))
    assert list((source.cache_folder() / "converted").glob("broken-*")) == []


def test_a_lora_adapter_given_as_model_is_explained(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="LoRA adapter, not a whole model"):
        source.locate(ref(tmp_path))


def test_weights_of_an_unknown_architecture_are_one_clear_error(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "odd")
    config = json.loads((tmp_path / "odd" / "config.json").read_text())
    (tmp_path / "odd" / "config.json").write_text(json.dumps(config | {"model_type": "nonsense"}))
    with pytest.raises(ModelError, match="cannot load"):
        LanguageModel(ref(tmp_path / "odd"))


def test_a_merged_model_without_its_tokenizer_is_told_to_get_one(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "merged", ignore=shutil.ignore_patterns("*token*"))
    with pytest.raises(ModelError) as caught:
        LanguageModel(ref(tmp_path / "merged"))
    assert "needs a tokenizer too" in caught.value.hint


def test_auto_dtype_follows_the_device(tiny):
    native = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    assert source.resolved_dtype(ref(tiny, device="cpu")) == ("bfloat16" if native else "float32")
    assert source.resolved_dtype(ref(tiny, device="cpu", dtype="float32")) == "float32"


def test_the_limit_of_positions_is_read_without_weights(tiny):
    assert source.position_limit(ref(tiny)) == 256


@pytest.fixture
def computes_in_bfloat16(monkeypatch, tmp_path):
    monkeypatch.setenv("LEARNABLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: True)


@pytest.mark.usefixtures("computes_in_bfloat16")
def test_bfloat16_is_tried_once_and_what_it_moves_is_said(tiny, capsys):
    assert resolved_dtype(ModelRef(name=str(tiny), device="cpu")) == "bfloat16"
    assert re.search(r"moves the loss of 6 rows by at most 0\.\d+ nats", capsys.readouterr().err)
    assert resolved_dtype(ModelRef(name=str(tiny), device="cpu")) == "bfloat16"
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("computes_in_bfloat16")
def test_float32_where_bfloat16_moves_the_losses_too_far(tiny, monkeypatch, capsys):
    monkeypatch.setitem(self_test.FROM_FLOAT32_NATS, "bfloat16", 1e-6)
    assert resolved_dtype(ModelRef(name=str(tiny), device="cpu")) == "float32"
    assert "float32 is used" in capsys.readouterr().err


@pytest.mark.usefixtures("computes_in_bfloat16")
def test_a_model_too_large_for_float32_is_not_tried_and_it_is_said(tiny, monkeypatch, capsys):
    monkeypatch.setattr(self_test, "free_and_total_bytes", lambda _: (10, 10))
    assert resolved_dtype(ModelRef(name=str(tiny), device="cpu")) == "bfloat16"
    assert "untried" in capsys.readouterr().err
