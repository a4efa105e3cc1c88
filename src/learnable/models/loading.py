"""Loads a causal language model with its tokenizer, ready to be measured or trained."""

import ctypes
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from learnable.errors import LearnableError, ModelError, first_line
from learnable.models.batching import refuse_lookahead
from learnable.models.lengths import forget_lengths
from learnable.models.source import concrete_dtype, locate, quantization
from learnable.models.templates import choose_template
from learnable.models.weights import broken_file, quiet, read_network
from learnable.runs.progress import say_once
from learnable.types import ModelRef

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 1 << 30


def load_tokenizer(ref: ModelRef) -> Any:
    """Return the tokenizer of a model with the chosen chat template, without loading its weights."""
    folder = locate(ref, weights=False)
    with loading_errors(ref):
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=ref.trust_remote_code)
    if ref.chat_template is not None:
        choose_template(tokenizer, ref.chat_template, name=ref.name)
    return tokenizer


def load_network(ref: ModelRef) -> Any:
    """Return the network, in evaluation mode on its device.

    Raises:
        ModelError: If transformers cannot load it, its weights are not all there, it is loaded in another dtype than
            asked for, or its tokens see later ones.
    """
    folder, wanted = locate(ref), concrete_dtype(ref)
    dtype = getattr(torch, wanted)
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        # Freed buffers are kept up to a gigabyte, and not given back to the system at every step.
        library.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    with loading_errors(ref):
        network = read_network(ref.name, folder, dtype=dtype, trust_remote_code=ref.trust_remote_code)
    quantized = bool(getattr(network, "is_quantized", False))
    if (method := quantization(folder)) and not quantized:
        say_once(f"{ref.name}: its weights ({method}) are computed in {wanted}, without their quantization")
        network = network.to(dtype)  # what was not quantized is still in the dtype of the file
    loaded = next(network.parameters()).dtype
    if loaded != dtype:
        hint = "choose another --dtype"
        if method:
            hint = f"its weights are quantized ({method}), and the rest of it is in {loaded}: give that as --dtype, "
            hint += "or give the unquantized model"
        raise ModelError(f"{ref.name} was loaded as {loaded}, asked for was {dtype}", hint=hint)
    network = network.to(resolved_device(ref)).eval()
    forget_lengths(network)
    if not quantized:  # eight-bit activations are scaled over all tokens, which the trial is not about
        refuse_lookahead(network, ref.name)
    return network


def empty_network(ref: ModelRef) -> Any:
    """Return the network of a model without its weights, which takes no memory."""
    with loading_errors(ref), torch.device("meta"):
        code = {"trust_remote_code": ref.trust_remote_code}
        config = AutoConfig.from_pretrained(locate(ref), **code)
        return AutoModelForCausalLM.from_config(config, **code)  # type: ignore[no-untyped-call]


@contextmanager
def loading_errors(ref: ModelRef) -> Iterator[None]:
    """Turn whatever transformers says about loading a model into a ``ModelError``; silences its bars."""
    try:
        with quiet():
            yield
    except LearnableError:
        raise
    except Exception as error:  # a configuration that was edited by hand fails in any way
        folder = locate(ref, weights=False)
        said, hint = _explained(str(error) or type(error).__name__, folder)
        raise ModelError(f"cannot load {ref.name}: {said}", hint=hint) from error


def _explained(said: str, folder: Path) -> tuple[str, str]:
    """Return what an error of transformers says in one line, and what to do about it."""
    known = f"transformers {transformers.__version__}"
    if broken := broken_file(folder):
        return f"{broken} is broken", "download it again; the file is not whole"
    lines = [*map(str.strip, said.strip().splitlines()), ""]
    first = lines[0].removesuffix(" from one of:")
    if first.endswith(":"):  # what is wrong stands on the next line
        first = f"{first} {lines[1]}"
    if "trust_remote_code" in said:
        return first, "it brings code of its own: read that code, then allow it with --trust-remote-code"
    if method := quantization(folder):
        install = "install the package that is named, or give the unquantized model"
        return first, f"its weights are quantized ({method}): {install}"
    if other := re.search(r"Unrecognized configuration class <class '[\w.]*\.(\w+)Config'>", said):
        return (
            f"{other[1]} is not an architecture of causal language models",
            "give a model that writes text from left to right, such as a Llama or a Qwen; of one that reads pictures "
            "too, its language model saved by itself",
        )
    if "does not recognize this architecture" in said:
        return first, f"{known} does not know it: a newer one may"
    if "tokenizer" in said:
        return first, "its folder needs a tokenizer too: save that of the model it was made from there"
    return first, f"is the folder whole, and its config.json one that {known} takes?"


def resolved_device(ref: ModelRef) -> str:
    """Return the device that ``auto`` stands for, CUDA, else Apple's MPS, else the CPU; or the one that is asked for."""
    if ref.device != "auto":
        if re.fullmatch(r"cuda:[1-9]\d*", ref.device):
            raise ModelError(
                f"device {ref.device!r}: a run uses the first visible GPU",
                hint="choose one with CUDA_VISIBLE_DEVICES",
            )
        try:
            torch.empty(0, device=ref.device)
        except (RuntimeError, AssertionError) as error:
            raise ModelError(
                f"there is no device {ref.device!r} here: {first_line(error)}", hint="give --device cpu"
            ) from error
        return ref.device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
