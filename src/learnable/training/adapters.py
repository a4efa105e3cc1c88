"""What a training moves: LoRA adapters on a network, the rows of new tokens, or all weights; and adapters merged into them."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model
from transformers.pytorch_utils import Conv1D

from learnable.models.adapters import attach, lora_targets
from learnable.models.loading import load_network, load_tokenizer
from learnable.models.source import concrete_dtype
from learnable.models.weights import quiet
from learnable.runs.files import replacing
from learnable.settings import Tuning
from learnable.types import ModelRef

Layers = Literal["linear", "attention"]


def trainable(
    ref: ModelRef,
    tuning: Tuning,
    *,
    token_ids: Sequence[int] = (),
    start: Path | None = None,
    layers: Layers = "linear",
) -> Any:
    """Return a network as a training begins: its weights, and fresh adapters from the seed, or those of ``start``.

    Full fine-tuning keeps float32 weights and computes in bfloat16: bfloat16 weights would lose small updates.
    """
    if tuning.method == "full":
        return load_network(replace(ref, dtype="float32"))
    network = load_network(ref)
    if start is not None:
        return attach(network, start, trainable=True)
    with torch.random.fork_rng([network.device] if network.device.type == "cuda" else []):
        torch.manual_seed(tuning.seed)
        return get_peft_model(network, lora(tuning, network, token_ids, layers=layers))


def lora(
    tuning: Tuning, network: Any, token_ids: Sequence[int] = (), *, layers: Layers = "linear"
) -> LoraConfig:
    """Return the adapters that a training moves: on linear layers, and on the rows of these tokens.

    A token has a row of the input embedding and one of the output embedding, which most small models share. ``layers``
    are all linear ones, or those of attention alone: queries, keys, values, and what joins the heads.
    """
    rows = {}
    if token_ids:
        embeddings = (network.get_input_embeddings(), network.get_output_embeddings())
        tied = embeddings[0].weight is embeddings[1].weight
        for part in embeddings[:1] if tied else embeddings:
            name = next(name for name, module in network.named_modules() if module is part)
            rows[name.rpartition(".")[2]] = list(token_ids)
    targets = lora_targets(network, attention=layers == "attention")
    return LoraConfig(
        r=tuning.rank,
        lora_alpha=2 * tuning.rank,
        lora_dropout=0.0,
        target_modules=targets,
        # GPT-2 has its weights the other way around.
        fan_in_fan_out=all(isinstance(network.get_submodule(name), Conv1D) for name in targets),
        task_type="CAUSAL_LM",
        trainable_token_indices=rows or None,
    )


def save_whole(ref: ModelRef, adapter: Path, folder: Path) -> None:
    """Write a model with its adapter merged into the weights: a folder that plain transformers loads.

    Weights are added in float32 and rounded once, to the dtype of ``ref``: in bfloat16 a change below 1/512 of a weight can
    be lost. A folder that is there is kept.
    """
    if (folder / "config.json").is_file():
        return
    network = attach(load_network(replace(ref, dtype="float32", device="cpu")), adapter)
    merged = network.merge_and_unload().to(getattr(torch, concrete_dtype(ref)))
    with as_whole(folder, last="config.json") as aside, quiet():
        merged.save_pretrained(aside)
        load_tokenizer(ref).save_pretrained(aside)


@contextmanager
def as_whole(folder: Path, *, last: str) -> Iterator[Path]:
    """Give a folder to write a model into, whose files then come into ``folder``, one of them last.

    Where the last one is, the model is whole, also after a kill.
    """
    for leftover in folder.glob("merged*"):  # of a run that was killed while it wrote
        shutil.rmtree(leftover)
    with replacing(folder / "merged") as aside:
        aside.mkdir(parents=True)
        yield aside
    for file in sorted((folder / "merged").iterdir(), key=lambda file: file.name == last):
        file.replace(folder / file.name)
    (folder / "merged").rmdir()
