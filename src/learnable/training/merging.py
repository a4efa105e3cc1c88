"""Several trainings of one base as one model: a walk over its tensors, one at a time, in float32.

Peak memory is that of the largest tensor in each model, and of one file that is written. Adapters are merged on their
products: mixed factors are not mixed products.
"""

import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import split_state_dict_into_shards_factory
from numpy.typing import NDArray
from safetensors.torch import save_file

from learnable.errors import UsageError
from learnable.merging import Merger, stream
from learnable.models.loading import load_tokenizer
from learnable.runs.files import write_json
from learnable.runs.progress import bar
from learnable.runs.records import read_json
from learnable.training.adapters import as_whole
from learnable.training.copies import Base, Copy

PIECE = 1 << 20
"""Scalars that are merged at once where each is merged by itself."""
SHARD_BYTES = 2 << 30
RECORD = "merge.json"


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What a merge saw, of the tensors that some model changed.

    Args:
        scalars: In these tensors.
        zero: Share of the k changes of each scalar that are none, once written.
        replaceable: Share of the scalars that some models changed and others did not: what resampling is about.
        cosines: Between the changes of the models, (k, k); NaN of one that changed nothing.
        equal: Pairs of models with the same bits.
        rounding: Length of what rounding to the dtype that is written took from the change, as a share of the change's.
        energy: Share of the squared change that an adapter of the rank asked for holds; None for a whole model.
    """

    scalars: int
    zero: float
    replaceable: float
    cosines: list[list[float]]
    equal: list[tuple[int, int]]
    rounding: float
    energy: float | None = None


@dataclass(kw_only=True)
class _Sums:
    """What is added up over the tensors of k models."""

    models: int
    scalars: int = 0
    unmoved: int = 0
    mixed: int = 0
    lost: float = 0.0
    kept: list[float] = field(default_factory=lambda: [0.0, 0.0])
    products: NDArray[np.float64] = field(init=False)
    differ: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.products = np.zeros((self.models, self.models))
        self.differ = np.zeros((self.models, self.models), dtype=np.bool_)

    def add(self, values: NDArray[np.float32], base: NDArray[np.float32], moved: NDArray[np.bool_]) -> None:
        """Take note of a piece: values (k, n) and whether they moved from the base's (n,)."""
        changes = values - base
        self.scalars += base.size
        self.unmoved += int((~moved).sum())
        self.mixed += int((moved.any(axis=0) & ~moved.all(axis=0)).sum())
        self.products += np.einsum("in,jn->ij", changes, changes, dtype=np.float64)
        for one, other in combinations(range(self.models), 2):
            if not self.differ[one, other]:
                self.differ[one, other] = not np.array_equal(values[one], values[other])

    def merged(self, change: float, *, with_rank: bool) -> Merged:
        """Return the figures; ``change`` is the squared length of the merged change."""
        lengths = np.sqrt(np.diag(self.products))
        with np.errstate(invalid="ignore"):
            cosines = self.products / np.outer(lengths, lengths)
        return Merged(
            scalars=self.scalars,
            zero=self.unmoved / max(self.models * self.scalars, 1),
            replaceable=self.mixed / max(self.scalars, 1),
            cosines=cosines.tolist(),
            equal=[pair for pair in combinations(range(self.models), 2) if not self.differ[pair]],
            rounding=math.sqrt(self.lost / change) if change else 0.0,
            energy=self.kept[0] / self.kept[1] if with_rank and self.kept[1] else None,
        )


def merge_copies(
    base: Base,
    copies: Sequence[Copy],
    folder: Path,
    *,
    merger: Merger,
    dtype: str | None = None,
    rank: int | None = None,
) -> Merged:
    """Write the merged model into ``folder``, and return what was seen; a folder that is there whole is kept.

    Configuration, tokenizer and buffers are the base's, and so is the dtype of the weights when none is given. With a
    ``rank`` an adapter is written, the best one of this rank to each layer's merged change.

    Raises:
        UsageError: If the merger does not take so many models, or a rank is asked of whole models.
        ModelError: If a copy has values that are no numbers.
    """
    merger.check(len(copies))
    if rank is not None and any(copy.factors is None for copy in copies):
        whole = next(copy.name for copy in copies if copy.factors is None)
        raise UsageError(
            f"--rank makes an adapter of adapters, and {whole} is a whole model", hint="leave --rank out"
        )
    if (folder / RECORD).is_file():
        record = read_json(folder / RECORD)
        return Merged(**record | {"equal": [(one, other) for one, other in record["equal"]]})
    sums = _Sums(models=len(copies))
    with as_whole(folder, last=RECORD) as aside:
        if rank is None:
            change = _write_whole(base, copies, aside, merger, dtype, sums)
        else:
            change = _write_adapter(base, copies, aside, merger, rank, sums)
        merged = sums.merged(change, with_rank=rank is not None)
        write_json(aside / RECORD, asdict(merged))
    return merged


def _write_whole(
    base: Base, copies: Sequence[Copy], folder: Path, merger: Merger, dtype: str | None, sums: _Sums
) -> float:
    """Write a whole model tensor by tensor, and return the squared length of its change."""
    change, total, sizes = 0.0, 0, base.sizes(dtype)
    files = split_state_dict_into_shards_factory(
        sizes,
        get_storage_size=lambda size: size[1],
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=SHARD_BYTES,
    )
    with bar("merging", sum(count for count, _ in sizes.values()), unit="weights") as progress:
        for file, names in files.filename_to_tensors.items():
            written = dict[str, torch.Tensor]()
            for name in names:
                tensor, values = base.tensors.read(name), list[torch.Tensor | None]()
                plain = not tensor.is_floating_point()
                merged = tensor if dtype is None or plain else tensor.to(getattr(torch, dtype))
                if not plain and name not in base.buffers:
                    values = [copy.values(name, tensor) for copy in copies]
                if any(each is not None for each in values):
                    origin = tensor.float().numpy()
                    given = np.stack([origin if each is None else each.numpy() for each in values])
                    exact = _tensor(given, origin, merger, name, merged.dtype, sums)
                    merged = torch.from_numpy(exact).to(merged.dtype)
                    moved = exact.astype(np.float64) - origin
                    change += float(np.vdot(moved, moved))
                    lost = merged.double().numpy() - exact
                    sums.lost += float(np.vdot(lost, lost))
                written[name] = merged.contiguous()
                progress.advance(tensor.numel())
            save_file(written, folder / file, metadata={"format": "pt"})
            total += sum(tensor.nbytes for tensor in written.values())
    if files.is_sharded:
        index = {"metadata": {"total_size": total}, "weight_map": files.tensor_to_filename}
        write_json(folder / "model.safetensors.index.json", index)
    _copy_texts(base, folder, dtype)
    return change


def _write_adapter(
    base: Base, copies: Sequence[Copy], folder: Path, merger: Merger, rank: int, sums: _Sums
) -> float:
    """Write an adapter of the merged changes, layer by layer, and return their squared length."""
    factors, alpha, change = dict[str, torch.Tensor](), 2 * rank, 0.0
    layers = {weight: pair for copy in copies for weight, pair in (copy.factors or {}).items()}
    with bar("merging", len(layers), unit="layers") as progress:
        for weight, (first, second) in sorted(layers.items()):
            shape = base.tensors.shape(weight)
            origin = np.zeros(shape, dtype=np.float32)
            changes = [copy.change(weight) for copy in copies]
            given = np.stack([origin if each is None else each.numpy() for each in changes])
            exact = torch.from_numpy(_tensor(given, origin, merger, weight, torch.float32, sums))
            exact = exact.T if copies[0].transposed else exact
            left, sizes, right = torch.linalg.svd(exact, full_matrices=False)
            kept = min(rank, len(sizes))
            factor = torch.zeros((exact.shape[0], rank)), torch.zeros((rank, exact.shape[1]))
            factor[0][:, :kept] = left[:, :kept] * sizes[:kept] * (rank / alpha)
            factor[1][:kept] = right[:kept]
            factors |= {first: factor[0], second: factor[1].contiguous()}
            energy = sizes.double() ** 2
            sums.kept[0] += float(energy[:kept].sum())
            sums.kept[1] += float(energy.sum())
            change += float(energy.sum())
            progress.advance(1)
    save_file(factors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = read_json(copies[0].tensors.folder / "adapter_config.json")
    config |= {"r": rank, "lora_alpha": alpha, "use_rslora": False}
    write_json(folder / "adapter_config.json", config)
    return change


def _tensor(
    values: NDArray[np.float32],
    base: NDArray[np.float32],
    merger: Merger,
    name: str,
    dtype: torch.dtype,
    sums: _Sums,
) -> NDArray[np.float32]:
    """Return the merged values of a tensor (...), of those of k models (k, ...)."""
    rng, found = stream(merger.seed, name), list[NDArray[np.float32]]()
    flat, origin = values.reshape(len(values), -1), base.reshape(-1)
    places = range(0, origin.size, PIECE)
    # Where it is another one than the base's in the dtype that is written.
    moved = np.empty(flat.shape, dtype=np.bool_)
    for at in places:
        piece = slice(at, at + PIECE)
        written, was = (torch.from_numpy(part[..., piece]).to(dtype) for part in (flat, origin))
        moved[:, piece] = (written != was).numpy()
    for at in places:
        piece = slice(at, at + PIECE)
        sums.add(flat[:, piece], origin[piece], moved[:, piece])
        if merger.by_scalar:
            found.append(merger(flat[:, piece], base=origin[piece], moved=moved[:, piece], rng=rng))
    if not merger.by_scalar:
        return merger(values, base=base, moved=moved.reshape(values.shape), rng=rng).reshape(base.shape)
    return np.concatenate(found).reshape(base.shape)


def _copy_texts(base: Base, folder: Path, dtype: str | None) -> None:
    """Write the configuration and the tokenizer of the base."""
    config = read_json(base.tensors.folder / "config.json")
    if dtype is not None:
        config = {name: value for name, value in config.items() if name != "torch_dtype"} | {"dtype": dtype}
    write_json(folder / "config.json", config)
    if (generation := base.tensors.folder / "generation_config.json").is_file():
        shutil.copyfile(generation, folder / generation.name)
    load_tokenizer(base.ref).save_pretrained(folder)
