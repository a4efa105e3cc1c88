"""What tests of exports have in common: a destination, and unsloth's class by plain transformers and peft."""

import types

from learnable.data.card_fit import ModelSize
from learnable.data.exports import Destination

QWEN = ModelSize(parameters=596_049_920, layers=28, width=1_024, vocabulary=151_936)
"""Qwen3-0.6B, of which the page has the configurations."""


def destination(**given):
    return Destination(**{"model": "m", "max_length": 10, "render": lambda examples: ()} | given)


def stand_in_for_unsloth(monkeypatch):
    """Put a module in the place of unsloth, which needs a GPU: it takes the arguments that the scripts give."""
    import sys

    import trl
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    class FastLanguageModel:
        @staticmethod
        def from_pretrained(*, model_name, max_seq_length, load_in_4bit, use_exact_model_name):
            assert max_seq_length > 0
            assert (load_in_4bit, use_exact_model_name) == (False, True)
            return AutoModelForCausalLM.from_pretrained(model_name), AutoTokenizer.from_pretrained(model_name)

        @staticmethod
        def get_peft_model(model, *, r, lora_alpha, use_gradient_checkpointing, random_state):
            assert (use_gradient_checkpointing, random_state) == ("unsloth", 0)
            return get_peft_model(model, LoraConfig(r=r, lora_alpha=lora_alpha, task_type="CAUSAL_LM"))

    module = types.ModuleType("unsloth")
    module.FastLanguageModel = FastLanguageModel
    monkeypatch.setitem(sys.modules, "unsloth", module)
    for kind in ("SFT", "DPO"):
        whole = getattr(trl, f"{kind}Config")
        monkeypatch.setattr(
            trl, f"{kind}Config", lambda whole=whole, **given: whole(**given, use_cpu=True, bf16=False)
        )
