"""Models that were trained from one base, as its tensors with other values: whole models, and LoRA adapters as products."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from learnable.errors import ModelError
from learnable.models.adapters import check_is_adapter
from learnable.models.loading import empty_network, load_tokenizer
from learnable.models.source import identity, is_adapter, locate, quantization
from learnable.models.weights import broken_file
from learnable.runs.records import read_json
from learnable.types import ModelRef

_PLAIN = {"use_dora": False, "bias": "none", "alpha_pattern": {}, "rank_pattern": {}, "modules_to_save": None}
"""Settings of an adapter that is nothing but two factors for each layer; an empty value counts as none."""
ADAPTER = "adapter_config.json"
_FACTORS = (".lora_B.weight", ".lora_A.weight")


@dataclass(frozen=True)
class Tensors:
    """The tensors in the safetensors files of a folder, read one at a time."""

    folder: Path

    @cached_property
    def _files(self) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        for file in sorted(self.folder.glob("*.safetensors")):
            opened: Any = safe_open(file, framework="pt")
            found |= dict.fromkeys(opened.keys(), opened)
        if not found:
            raise ModelError(
                f"{self.folder} holds no weights as safetensors",
                hint="load the model with transformers, and save it again with save_pretrained",
            )
        return found

    @property
    def names(self) -> list[str]:
        """Their names, sorted."""
        return sorted(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one, which is not read."""
        return tuple(self._files[name].get_slice(name).get_shape())

    def bytes_each(self, name: str) -> int:
        """Return how many bytes a value of one has."""
        return {"F64": 8, "F32": 4, "I64": 8, "I32": 4}.get(self._files[name].get_slice(name).get_dtype(), 2)

    def read(self, name: str) -> torch.Tensor:
        """Return one."""
        tensor: torch.Tensor = self._files[name].get_tensor(name)
        return tensor


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A model that was trained from the base: a whole one, or ``factors``, names of B and A by tensor of the base.

    ``scale`` is that of their products, and ``transposed`` says whether the base has its weights the other way around.
    """

    name: str
    tensors: Tensors
    factors: Mapping[str, tuple[str, str]] | None = None
    scale: float = 1.0
    transposed: bool = False

    def change(self, tensor: str) -> torch.Tensor | None:
        """Return what an adapter adds to a tensor of the base, float32; None where it adds nothing."""
        if tensor not in (self.factors or {}):
            return None
        first, second = (self._finite(name).float() for name in (self.factors or {})[tensor])
        product = self.scale * (first @ second)
        return product.T.contiguous() if self.transposed else product

    def values(self, tensor: str, base: torch.Tensor) -> torch.Tensor | None:
        """Return its values of a tensor of the base, float32; None where they are the base's."""
        if self.factors is None:
            return self._finite(tensor).float()
        change = self.change(tensor)
        return None if change is None else base.float() + change

    def _finite(self, name: str) -> torch.Tensor:
        tensor = self.tensors.read(name)
        if not bool(tensor.isfinite().all()):
            count = int((~tensor.isfinite()).sum())
            raise ModelError(
                f"{self.name}: {name} has {count:,} values that are not numbers",
                hint="its training failed: train it again, with a lower learning rate or --dtype float32",
            )
        return tensor


@dataclass(frozen=True, kw_only=True)
class Base:
    """The model that copies began from: its ``tensors``, and those of its names that are merged.

    ``tied`` are names of tensors that are another one; ``buffers`` are taken from here as they are.
    """

    ref: ModelRef
    tensors: Tensors
    tied: frozenset[str]
    buffers: frozenset[str]

    @classmethod
    def of(cls, ref: ModelRef) -> "Base":
        """Find a base, without its weights."""
        folder = locate(ref)
        _refuse_quantized(ref.name, folder)
        network = empty_network(ref)
        return cls(
            ref=ref,
            tensors=Tensors(folder),
            tied=frozenset(network.all_tied_weights_keys),
            buffers=frozenset(name for name, _ in network.named_buffers()),
        )

    @property
    def names(self) -> list[str]:
        """The tensors that a model of this kind writes, each once."""
        return [name for name in self.tensors.names if name not in self.tied]

    def sizes(self, dtype: str | None) -> dict[str, tuple[int, int]]:
        """Return the number of values of each tensor, and its bytes in a dtype or in its own."""
        each = {"float32": 4, "bfloat16": 2}.get(dtype or "")
        counts = {name: math.prod(self.tensors.shape(name)) for name in self.names}
        return {
            name: (count, count * (each or self.tensors.bytes_each(name))) for name, count in counts.items()
        }


def copies_of(base: Base, names: Sequence[str]) -> list[Copy]:
    """Return models that were trained from a base, checked to be of its shape.

    Raises:
        ModelError: If one is not: another shape, vocabulary, tokenizer or base, quantized weights, or an adapter that is
            more than products of two factors.
    """
    folders = [locate(replace(base.ref, name=name, revision=None), adapter=True) for name in names]
    for name, folder in zip(names, folders, strict=True):
        if broken := broken_file(folder):
            raise ModelError(f"{broken} in {folder} is broken", hint="get the model again")
        if not is_adapter(folder):
            _refuse_quantized(name, folder)
    _check_bases(base, [folder for folder in folders if is_adapter(folder)])
    return [
        _adapter(base, name, folder)
        if is_adapter(folder)
        else _whole(base, replace(base.ref, name=name, revision=None), folder)
        for name, folder in zip(names, folders, strict=True)
    ]


def _refuse_quantized(name: str, folder: Path) -> None:
    if method := quantization(folder):
        raise ModelError(
            f"the weights of {name} are quantized ({method}), and cannot be merged",
            hint="give the model that it was made from",
        )


def _whole(base: Base, ref: ModelRef, folder: Path) -> Copy:
    tensors = Tensors(folder)
    ours, theirs = set(base.names) - base.buffers, set(tensors.names) - base.tied - base.buffers
    for name in sorted(ours | theirs):
        sides = [
            f"{tuple(held.shape(name))} in {called}" if name in names else f"not in {called}"
            for held, names, called in ((base.tensors, ours, base.ref.name), (tensors, theirs, ref.name))
        ]
        if name not in ours & theirs or base.tensors.shape(name) != tensors.shape(name):
            raise ModelError(
                f"{ref.name} has another shape than its base: {name} is {sides[0]} and {sides[1]}",
                hint="give models that were trained from one base; with new tokens, give the base that has them too",
            )
    ties = [
        read_json(each / "config.json").get("tie_word_embeddings") for each in (base.tensors.folder, folder)
    ]
    if ties[0] != ties[1]:
        raise ModelError(
            f"{ref.name} has tie_word_embeddings {ties[1]} in its config.json, and its base {ties[0]}",
            hint="one of them shares its input and output embedding, and the other does not",
        )
    _check_tokenizer(base.ref, ref)
    return Copy(name=ref.name, tensors=tensors)


def _check_tokenizer(base: ModelRef, ref: ModelRef) -> None:
    """Refuse a model whose tokens are others than the base's."""
    ours, theirs = (load_tokenizer(replace(each, chat_template=None)).get_vocab() for each in (base, ref))
    if other := sorted(set(ours.items()) ^ set(theirs.items())):
        token = other[0][0]
        raise ModelError(
            f"{ref.name} has another tokenizer than {base.name}: {token!r} is token {theirs.get(token)}, and "
            f"{ours.get(token)} in the base ({len(other):,} such entries)",
            hint="merge models of one vocabulary",
        )


def _adapter(base: Base, name: str, folder: Path) -> Copy:
    check_is_adapter(folder)
    tensors, config = Tensors(folder), read_json(folder / ADAPTER)
    odd = [key for key, value in _PLAIN.items() if (config.get(key) or None) != (value or None)]
    if odd or config.get("peft_type") != "LORA":
        what = f"{odd[0]} is {config[odd[0]]!r}" if odd else f"it is {config.get('peft_type')}"
        raise ModelError(
            f"the adapter {name} is more than products of two factors: {what}",
            hint="merge it into a whole model first, and give that",
        )
    transposed, factors = bool(config.get("fan_in_fan_out")), dict[str, tuple[str, str]]()
    for each in tensors.names:
        layer = each.rpartition(".lora_")[0]
        if not each.endswith(_FACTORS):
            raise ModelError(
                f"the adapter {name} has {each}, which is no factor of a linear layer",
                hint="merge it into a whole model first, and give that",
            )
        first, second = (f"{layer}{ending}" for ending in _FACTORS)
        if first not in tensors.names or second not in tensors.names:
            raise ModelError(f"the adapter {name} has one factor of {layer} only", hint="get it again")
        weight = _weight_of(layer.removeprefix("base_model.model."), base, name)
        shape = (tensors.shape(first)[0], tensors.shape(second)[1])
        if (shape[::-1] if transposed else shape) != base.tensors.shape(weight):
            raise ModelError(
                f"the adapter {name} was trained on another base: {weight} is {base.tensors.shape(weight)} in "
                f"{base.ref.name}, and the adapter's change of it {shape}",
                hint="give its own base with --base",
            )
        factors[weight] = (first, second)
    rank = int(config["r"])
    scale = config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)
    return Copy(name=name, tensors=tensors, factors=factors, scale=scale, transposed=transposed)


def _weight_of(layer: str, base: Base, adapter: str) -> str:
    """Return the tensor of the base that holds the weight of a layer; files may leave out the first part of a name."""
    weight = f"{layer}.weight"
    if weight in base.tensors.names:
        return weight
    close = [name for name in base.names if weight.endswith(f".{name}") or name.endswith(f".{weight}")]
    if len(close) != 1:
        raise ModelError(
            f"the adapter {adapter} was trained on another base: {base.ref.name} has no tensor {weight}",
            hint="give its own base with --base",
        )
    return close[0]


def _check_bases(base: Base, adapters: Sequence[Path]) -> None:
    """Refuse adapters that name different bases, or another one than is given, unless these are one model in two places."""
    own, named = identity(base.tensors.folder, ""), dict[str, tuple[str, Path]]()
    for folder in adapters:
        name = str(read_json(folder / ADAPTER).get("base_model_name_or_path"))
        is_here = (Path(name) / "config.json").is_file()
        named.setdefault(identity(Path(name), "") if is_here else name, (name, folder))
        if is_here and own not in named:
            raise ModelError(
                f"{folder} was trained on {name}, which is not the base {base.ref.name}",
                hint=f"give --base {name}",
            )
    if len(named) > 1:
        (one, first), (other, second) = list(named.values())[:2]
        raise ModelError(
            f"the adapters have different bases: {first} was trained on {one}, {second} on {other}",
            hint="give adapters of one base",
        )
