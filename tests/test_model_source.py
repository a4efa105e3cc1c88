"""Where models are found, what identifies them, and what is said when there is none."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from learnable.errors import DiskError, ModelError
from learnable.models import cache, dtype, source
from learnable.models.cache import cache_folder, recalled, remember
from learnable.models.dtype import resolved
from learnable.models.language_model import LanguageModel
from learnable.runs.identity import file_digest, fingerprint
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


@pytest.mark.parametrize(
    ("config", "anew"),
    [
        ({"model_type": "llama"}, False),
        ({"model_type": "llama", "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, False),
        ({"model_type": "falcon_h1"}, True),
        ({"model_type": "llama4", "text_config": {"model_type": "llama4_text"}}, True),
        ({"model_type": "phi3", "rope_scaling": {"type": "su"}}, True),
        ({"model_type": "x", "rope_parameters": {"full_attention": {"rope_type": "dynamic"}}}, True),
    ],
)
def test_models_whose_losses_depended_on_the_batch_are_measured_anew_and_no_others(tmp_path, config, anew):
    (tmp_path / "config.json").write_text(json.dumps(config))
    content = {"files": {"config.json": file_digest(tmp_path / "config.json")}, "dtype": "float32"}
    assert (source.identity(tmp_path, "float32") != fingerprint(content)) == anew


def test_device_is_no_part_of_the_identity(tiny):
    assert source.identify(ref(tiny, dtype="float32", device="cpu")) == source.identify(
        ref(tiny, dtype="float32", device="meta")
    )


@pytest.fixture
def large(tmp_path, monkeypatch):
    """Return a file that is larger than its edges, and whose digest is known already."""
    monkeypatch.setenv("LEARNABLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "EDGE_BYTES", 8)
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(range(64)))
    cache.remembered_digest(file)
    return file


def test_a_large_file_is_hashed_once(large, monkeypatch):
    known = cache.remembered_digest(large)
    monkeypatch.setattr(cache, "file_digest", lambda _: pytest.fail("read again"))
    assert cache.remembered_digest(large) == known == file_digest(large)


@pytest.mark.parametrize("place", [0, 32, 63])
@pytest.mark.parametrize("how", ["replaced", "written over"])
def test_a_file_of_the_same_size_and_time_is_another_one(large, tmp_path, place, how):
    stat, content = large.stat(), bytearray(large.read_bytes())
    content[place] ^= 1
    target = large if how == "written over" else tmp_path / "other"
    target.write_bytes(content)
    os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    target.replace(large)
    assert large.stat().st_mtime_ns == stat.st_mtime_ns
    assert cache.remembered_digest(large) == file_digest(large)


@pytest.mark.parametrize("place", [0, 63])
def test_the_ends_of_a_file_are_read_where_no_stamp_tells(large, place, monkeypatch):
    """As on a network drive that keeps inode and ctime of what was replaced on the other side."""
    stat, content = large.stat(), bytearray(large.read_bytes())
    content[place] ^= 1
    large.write_bytes(content)
    ask = Path.stat
    monkeypatch.setattr(
        Path, "stat", lambda path, **how: stat if path.name == large.name else ask(path, **how)
    )
    assert cache.remembered_digest(large) == file_digest(large)


def test_a_model_replaced_by_one_of_the_same_size_and_time_is_another_model(tiny, tmp_path):
    one, other = tmp_path / "m", tiny_model(tmp_path / "other", seed=1)
    shutil.copytree(tiny, one)
    before, stat = source.identify(ref(one, dtype="float32")), (one / "model.safetensors").stat()
    shutil.copy(other / "model.safetensors", one)
    os.utime(one / "model.safetensors", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert source.identify(ref(one, dtype="float32")) != before


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
    assert list((cache_folder() / "converted").glob("broken-*")) == []


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
    assert resolved(ref(tiny, device="cpu")).dtype == ("bfloat16" if native else "float32")
    assert resolved(ref(tiny, device="cpu", dtype="float32")).dtype == "float32"


def test_the_limit_of_positions_is_read_without_weights(tiny):
    assert source.position_limit(ref(tiny)) == 256


@pytest.fixture
def computes_in_bfloat16(monkeypatch, tmp_path):
    monkeypatch.setenv("LEARNABLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: True)


@pytest.mark.usefixtures("computes_in_bfloat16")
def test_bfloat16_is_tried_once_and_what_it_moves_is_said(tiny, capsys):
    assert resolved(ModelRef(name=str(tiny), device="cpu")).dtype == "bfloat16"
    assert re.search(r"moves the loss of 6 rows by at most 0\.\d+ nats", capsys.readouterr().err)
    assert resolved(ModelRef(name=str(tiny), device="cpu")).dtype == "bfloat16"
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("computes_in_bfloat16")
def test_float32_where_bfloat16_moves_the_losses_too_far(tiny, monkeypatch, capsys):
    monkeypatch.setitem(dtype.FROM_FLOAT32_NATS, "bfloat16", 1e-6)
    assert resolved(ModelRef(name=str(tiny), device="cpu")).dtype == "float32"
    assert "float32 is used" in capsys.readouterr().err


@pytest.mark.usefixtures("computes_in_bfloat16")
def test_a_model_whose_template_takes_nothing_is_not_tried_and_it_is_said(tiny, tmp_path, capsys):
    shutil.copytree(tiny, tmp_path / "odd")
    (tmp_path / "odd" / "chat_template.jinja").write_text("{{ raise_exception('no') }}")
    assert resolved(ref(tmp_path / "odd", device="cpu")).dtype == "bfloat16"
    assert "untried" in capsys.readouterr().err


@pytest.mark.usefixtures("computes_in_bfloat16")
def test_a_model_too_large_for_float32_is_not_tried_and_it_is_said(tiny, monkeypatch, capsys):
    monkeypatch.setattr(dtype, "free_and_total_bytes", lambda _: (10, 10))
    assert resolved(ModelRef(name=str(tiny), device="cpu")).dtype == "bfloat16"
    assert "untried" in capsys.readouterr().err


# A cache that cannot be written: as a read-only home folder, or none at all.


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    (tmp_path / "taken").touch()
    monkeypatch.setenv("LEARNABLE_CACHE", str(tmp_path / "taken" / "cache"))
    monkeypatch.setattr(cache, "_not_written", {})


def test_a_model_is_identified_without_a_cache_and_that_is_said_once(tiny, no_cache, monkeypatch, capsys):
    monkeypatch.setattr(cache, "EDGE_BYTES", 8)
    before = source.identify(ref(tiny, dtype="float32"))
    assert source.identify(ref(tiny, dtype="float32")) == before
    monkeypatch.setattr(cache, "file_digest", lambda file: pytest.fail(f"{file} is read again"))
    assert cache.remembered_digest(tiny / "model.safetensors")
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("cannot write")
    assert "set LEARNABLE_CACHE" in said


def test_a_model_is_not_converted_without_a_cache(tmp_path, no_cache):
    (tmp_path / "some.gguf").write_bytes(b"GGUF")
    with pytest.raises(DiskError, match="cannot write") as caught:
        source.locate(ref(tmp_path / "some.gguf"))
    assert "LEARNABLE_CACHE" in caught.value.hint


def test_where_there_is_no_home_the_cache_is_asked_for(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("LEARNABLE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(DiskError, match="no place for a cache"):
        cache_folder()


@pytest.mark.parametrize("content", ["", "{", "[1]", "\udcff"])
def test_what_is_damaged_in_the_cache_is_found_out_again(content):
    remember("tests", "key", {"found": 1})
    assert recalled("tests", "key") == {"found": 1}
    (cache_folder() / "tests" / "key.json").write_text(content, errors="surrogateescape")
    assert recalled("tests", "key") is None


def test_the_name_of_a_gguf_file_may_be_as_long_as_a_name_can_be(tmp_path):
    file = tmp_path / ("x" * 250 + ".gguf")
    file.write_bytes(b"not a gguf file at all")
    with pytest.raises(ModelError, match="cannot read the GGUF file xxx"):
        source.locate(ref(file))
