"""``learnable merge``: several trainings of one model in, one model out."""

import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from learnable.commands.network import to_fetch
from learnable.commands.options import DryRun, Output
from learnable.deferred import models, training
from learnable.errors import UsageError
from learnable.merging import Merger, SelectMerger, parse_merger, probabilities
from learnable.objects.given import finished, is_step
from learnable.runs.identity import fingerprint, source_of
from learnable.runs.price import Price
from learnable.runs.records import Outcome
from learnable.runs.step import Finished, Step, run
from learnable.types import ModelRef

LOW_COSINE = 0.2
"""Between changes: below, the models did not go the same way, and what lies between them may be no model."""
FEW = 0.001
"""Share of the parameters below which resampling changes nothing that can be seen."""
MUCH_ROUNDED = 0.1
"""Of the change's length: more than so much lost by rounding is said."""
GIB = 1 << 30


def merge(
    models: list[str],
    *,
    base: str = "starter",
    by: str = "select",
    dtype: Literal["base", "float32", "bfloat16"] = "base",
    rank: int | None = None,
    revision: str | None = None,
    trust_remote_code: Annotated[bool, Parameter(negative=())] = False,
    dry_run: DryRun = False,
    output: Output = "merged",
) -> Outcome:
    """Merge models that were trained from one base into one: by choosing each parameter from one of them, or otherwise.

    The folder itself holds the merged model, which plain transformers loads. Tensors are read one at a time, and merged
    in float32. LoRA adapters are merged by what they add to the weights, never by their factors.

    Args:
        models: Two or more: folders of whole models or LoRA adapters, hub ids, or what `learnable train` wrote.
        base: What they were trained from: folder, hub id, GGUF file, or `starter`.
        by: How: select, average or noise (see `learnable list mergers`), or a method of mergekit such as
            ties@density=0.5 (needs the extra `merging`). Each as NAME@key=value, such as
            select@p=0.5,0.3,0.2,resample=yes.
        dtype: Of the merged weights: that of the base's files, or another.
        rank: Of adapters: write an adapter of this rank instead, the best one to the merged change of each layer.
        revision: Commit or branch of the base's hub id.
        trust_remote_code: Run code that comes with the model.
    """
    merger = parse_merger(by)
    probabilities((), len(models))
    merger.check(len(models))
    if rank is not None and rank < 1:
        raise UsageError(f"rank must be at least 1, got {rank}", hint="leave it out for a whole model")
    if rank is not None and dtype != "base":
        raise UsageError("an adapter is float32: --dtype has no effect with --rank", hint="leave one out")
    ref = ModelRef(name=base, revision=revision, dtype="float32", trust_remote_code=trust_remote_code)
    folders, awaits = [trained_model(name) for name in models], to_fetch(ref) if dry_run else []

    def work(folder: Path) -> Finished:
        base_model, kept = training.Base.of(ref), None if dtype == "base" else dtype
        copies = training.copies_of(base_model, folders)
        seen = training.merge_copies(base_model, copies, folder, merger=merger, dtype=kept, rank=rank)
        return Finished(facts={"base": ref.name, "models": models, "by": by, **figures(seen, models, merger)})

    step = Step(
        verb="merge",
        parameters={"by": fingerprint(merger), "dtype": dtype, "rank": rank},
        inputs={} if awaits else identities(ref, folders),
        sources={"by": source_of(merger)} if ":" in by.partition("@")[0] else {},
        links={f"model {number}": Path(name) for number, name in enumerate(models, 1) if is_step(name)},
        says=[f"merge {len(models)} models by {by}"],
        awaits=awaits,
        plan=lambda: Price() if awaits else _price(ref, len(models), dtype, rank),
        work=work,
    )
    return run(step, output, dry_run=dry_run)


def trained_model(name: str) -> str:
    """Return where a model is that may be the output of `learnable train`.

    Raises:
        UsageError: If that output holds several.
    """
    if not is_step(name):
        return name
    if finished(name, "train", "merge").verb == "merge":
        return name
    parts = training.read_reference(Path(name)).parts
    if len(parts) > 1:
        raise UsageError(
            f"{name} holds {len(parts)} models, each of other rows", hint="train it with --folds 0"
        )
    return parts[0].name


def identities(base: ModelRef, folders: Sequence[str]) -> dict[str, str]:
    """Return what tells a base and the models that were trained from it from others."""
    found = {"base": models.source.identity(models.locate(base), "")}
    for number, name in enumerate(folders, start=1):
        folder = models.locate(ModelRef(name=name), adapter=True)
        found[f"model {number}"] = (
            models.adapter_key("", folder)
            if models.is_adapter(folder)
            else models.source.identity(folder, "")
        )
    return found


def figures(merged: "training.merging.Merged", names: Sequence[str], merger: Merger) -> dict[str, Any]:
    """Return what was seen in a merge as it is shown, with what is to be known before it is used."""
    cosines = [
        (merged.cosines[one][other], (one, other)) for one, other in combinations(range(len(names)), 2)
    ]
    known = [each for each in cosines if not math.isnan(each[0])]
    low, places = min(known, default=(math.nan, (0, 1)))
    pair = [names[place] for place in places]
    warnings = [
        f"{name} is the base itself: nothing was changed in it"
        for place, name in enumerate(names)
        if math.isnan(merged.cosines[place][place])
    ]
    warnings += [f"{names[one]} and {names[other]} are equal to the bit" for one, other in merged.equal]
    if merged.rounding > MUCH_ROUNDED:
        warnings.append(
            f"rounding takes {merged.rounding:.0%} of the change's length: the changes are small beside a step of the "
            "dtype; give --dtype float32 and load it so, or --rank for an adapter"
        )
    if low < LOW_COSINE:
        warnings.append(
            f"the changes of {pair[0]} and {pair[1]} have the cosine {low:.2f}: they did not go the same way, so what lies "
            "between them may be no model; were their adapters begun alike (one --seed, other --order-seed)?"
        )
    found = {
        "parameters that were changed": merged.scalars,
        "changes that are zero": f"{merged.zero:.2%}",
        "zero in some models only": f"{merged.replaceable:.2%}",
        "lowest cosine between changes": None if math.isnan(low) else low,
        "lost by rounding": f"{merged.rounding:.2%} of the change's length",
    }
    if getattr(merger, "resample", False) and merged.replaceable < FEW:
        found["note"] = "resampling changes nothing here: hardly a parameter is the base's in one model alone"
    if isinstance(merger, SelectMerger) and len(names) == 2 and len(set(probabilities(merger.p, 2))) == 1:
        found["selection"] = "of two models is their mean plus noise of a random sign"
    if merged.energy is not None:
        found |= {"energy kept": f"{merged.energy:.2%}"}
        del found["lost by rounding"]
    return found | {"warnings": warnings}


def _price(ref: ModelRef, models: int, dtype: str, rank: int | None) -> Price:
    """Return the memory and disk that a merge takes."""
    base = training.Base.of(ref)
    counts, sizes = zip(*base.sizes(dtype).values(), strict=True)
    return Price(peak_gib=4 * (models + 1) * max(counts) / GIB, disk_gib=0.0 if rank else sum(sizes) / GIB)
