"""Loads a causal language model with its tokenizer, ready to be measured or trained."""

import ctypes
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from learnable.errors import ModelError
from learnable.model.source import locate, resolved_device, resolved_dtype
from learnable.types import ModelRef

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def load_network(ref: ModelRef) -> tuple[Any, Any]:
    """Return the network, in evaluation mode on its device, and its tokenizer.

    Raises:
        ModelError: If transformers cannot load it, or loads it in another dtype than asked for.
    """
    folder, dtype = locate(ref), getattr(torch, resolved_dtype(ref))
    _keep_buffers()
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=ref.trust_remote_code)
            network = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=ref.trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        hint = (
            "it runs code of its own: read that code, then allow it with --trust-remote-code"
            if "trust_remote_code" in str(error)
            else "is it a causal language model that this version of transformers "
            f"({transformers.__version__}) knows?"
        )
        raise ModelError(f"cannot load the model {ref.name}: {str(error).splitlines()[0]}", hint=hint) from error
    loaded = next(network.parameters()).dtype
    if loaded != dtype:
        raise ModelError(f"{ref.name} was loaded as {loaded}, asked for was {dtype}", hint="choose another --dtype")
    return network.to(resolved_device(ref)).eval(), tokenizer


def convert_gguf(gguf: Path, folder: Path) -> None:
    """De-quantize a GGUF file into a folder of bfloat16 safetensors that loads in half a second.

    Raises:
        ModelError: If transformers does not know its architecture.
    """
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            network = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ModelError(
            f"cannot read the GGUF file {gguf.name}: {str(error).splitlines()[0]}",
            hint="give the original model folder or hub id instead",
        ) from error
    # The weights are plain now, but transformers still marks the model as quantized and would refuse to save it.
    del network.config.quantization_config
    network.hf_quantizer, network.is_quantized = None, False
    network.config._name_or_path = ""
    with _quiet():
        network.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _keep_buffers() -> None:
    """Make glibc keep big buffers instead of giving them back to the system at every step (1.1 to 1.7 times as fast)."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):
            library.mallopt(M_MMAP_MAX, 0)
            library.mallopt(M_TRIM_THRESHOLD, -1)


class _quiet:
    """Silences the progress bars of transformers; ours say what is going on."""

    def __enter__(self) -> None:
        self._was_on = transformers.utils.logging.is_progress_bar_enabled()
        transformers.utils.logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        if self._was_on:
            transformers.utils.logging.enable_progress_bar()
