"""Files of a model, of an adapter and of a run that was moved here are data: none of them brings code that runs."""

import json
import os
import pickle
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from learnable.errors import LearnableError, ModelError
from learnable.models.language_model import LanguageModel
from learnable.models.rendering import Renderer
from learnable.testing import toy_examples
from learnable.types import ModelRef

CODE = """
import pathlib
pathlib.Path("{ran}").touch()
from transformers import LlamaConfig as Config, LlamaForCausalLM as Model, PreTrainedTokenizerFast as Tokenizer
"""


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


@pytest.fixture
def ran(tmp_path):
    """Return what is there once something has run, and check that it works."""
    place = tmp_path / "ran"
    pickle.loads(pickle.dumps(Bomb(place)))
    place.rmdir()
    return place


@pytest.fixture
def copied(tiny, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    return folder


def ref_of(folder):
    return ModelRef(name=str(folder), dtype="float32", device="cpu")


def test_pickled_weights_of_a_model_are_not_run(copied, ran):
    (weights,) = copied.glob("*.safetensors")
    torch.save({**load_file(weights), "bomb": Bomb(ran)}, copied / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ModelError):
        LanguageModel(ref_of(copied))
    assert not ran.exists()


def test_pickled_weights_of_an_adapter_are_not_run(copied, tmp_path, ran):
    model = LanguageModel(ref_of(copied))
    folder = tmp_path / "adapter"
    get_peft_model(model.network, LoraConfig(target_modules=["q_proj"])).save_pretrained(folder)
    weights = folder / "adapter_model.safetensors"
    torch.save({**load_file(weights), "bomb": Bomb(ran)}, folder / "adapter_model.bin")
    weights.unlink()
    model = LanguageModel(ref_of(copied))
    with pytest.raises(ModelError), model.adapter(folder):
        pass
    assert not ran.exists()


def says(path, **content):
    path.write_text(json.dumps(json.loads(path.read_text()) | content))


def test_an_architecture_beside_a_model_is_not_run(copied, ran):
    (copied / "theirs.py").write_text(CODE.format(ran=ran))
    names = {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"}
    says(copied / "config.json", auto_map=names, model_type="theirs")
    with pytest.raises(ModelError) as error:
        LanguageModel(ref_of(copied))
    assert "--trust-remote-code" in error.value.hint
    assert not ran.exists()


def test_a_tokenizer_beside_a_model_is_not_run(copied, ran):
    (copied / "theirs.py").write_text(CODE.format(ran=ran))
    says(copied / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "theirs.Tokenizer"]})
    Renderer.of(ref_of(copied)).render(toy_examples(1), max_length=64)
    assert not ran.exists()


def test_a_chat_template_reaches_nothing_but_the_conversation(copied, ran):
    escape = "{{ cycler.__init__.__globals__.os.mkdir(RAN) }}{{ messages[0].content }}"
    (copied / "chat_template.jinja").write_text(escape.replace("RAN", repr(str(ran))))
    with pytest.raises(LearnableError):
        Renderer.of(ref_of(copied)).render(toy_examples(1), max_length=64)
    assert not ran.exists()
