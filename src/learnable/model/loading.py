"""Loads a causal language model with its tokenizer, ready to be measured or trained."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from learnable.errors import ModelError
from learnable.model.source import locate, resolved_device, resolved_dtype
from learnable.types import ModelRef

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 1 << 30


def load_tokenizer(ref: ModelRef) -> Any:
    """Return the tokenizer of a model, without loading its weights.

    Raises:
        ModelError: If transformers cannot load it.
    """
    folder = locate(ref, weights=False)
    with loading_errors(ref):
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=ref.trust_remote_code)


def load_network(ref: ModelRef) -> Any:
    """Return the network, in evaluation mode on its device.

    Raises:
        ModelError: If transformers cannot load it, or loads it in another dtype than asked for.
    """
    folder, dtype = locate(ref), getattr(torch, resolved_dtype(ref))
    _keep_buffers()
    with loading_errors(ref):
        network: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=ref.trust_remote_code
        )
    loaded = next(network.parameters()).dtype
    if loaded != dtype:
        raise ModelError(
            f"{ref.name} was loaded as {loaded}, asked for was {dtype}", hint="choose another --dtype"
        )
    return network.to(resolved_device(ref)).eval()


@contextmanager
def loading_errors(ref: ModelRef) -> Iterator[None]:
    """Turn what transformers says about loading a model into a ``ModelError``; silences its bars."""
    try:
        with quiet():
            yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        hint = f"is it a causal language model that transformers {transformers.__version__} knows?"
        if "trust_remote_code" in str(error):
            hint = "it brings code of its own: read that code, then allow it with --trust-remote-code"
        elif "tokenizer" in str(error):
            hint = "its folder needs a tokenizer too: save that of the model it was made from there"
        said = str(error).splitlines()[0].removesuffix(" from one of: ").removesuffix(" from one of:")
        raise ModelError(f"cannot load {ref.name}: {said}", hint=hint) from error


def convert_gguf(gguf: Path, folder: Path) -> None:
    """De-quantize a GGUF file into a folder of bfloat16 safetensors that loads in half a second.

    Raises:
        ModelError: If transformers does not know its architecture.
    """
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            network: Any = AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ModelError(
            f"cannot read the GGUF file {gguf.name}: {str(error).splitlines()[0]}",
            hint="give the original model folder or hub id instead",
        ) from error
    # The weights are plain now, but transformers still marks the model as quantized and would refuse to save it.
    del network.config.quantization_config
    network.hf_quantizer, network.is_quantized = None, False
    network.config._name_or_path = ""
    with quiet():
        network.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _keep_buffers() -> None:
    """Make glibc keep up to a gigabyte of freed buffers instead of giving them back to the system at every step."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):
            library.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
            library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars of transformers; ours say what is going on."""
    was_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if was_on:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
