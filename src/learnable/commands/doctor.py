"""``learnable doctor``: whether the losses of a model can be trusted on this machine, and how fast they can be had."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable import data as rows
from learnable.commands.inputs import look_up
from learnable.commands.options import Flat, ModelName
from learnable.deferred import diagnosis, models
from learnable.errors import UsageError
from learnable.objects.given import compared_with, length_limit, pinned
from learnable.runs.progress import say
from learnable.settings import Loading, Reading
from learnable.types import Example, ModelRef, Rendered

LONGEST, EXAMPLES = 512, 8


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What the doctor says of a model, and with what machine it was computed, on how many rows."""

    model: str
    machine: Mapping[str, str]
    rows: int
    checks: tuple["diagnosis.checks.CheckResult", ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong; warnings are not wrong."""
        return all(check.verdict != "wrong" for check in self.checks)

    def lines(self) -> Iterator[str]:
        """Yield what there is to print: the machine, a line for each check with what to do, and a verdict."""
        for name, value in self.machine.items():
            yield f"{name}: {value}"
        for check in self.checks:
            yield f"{check.verdict}: {check.name}: {check.found}"
            if check.remedy:
                yield f"    hint: {check.remedy}"
        count = len(self.checks)
        wrong, warn = (
            sum(check.verdict == verdict for check in self.checks) for verdict in ("wrong", "warning")
        )
        said = f"nothing is wrong, {warn} of {count} checks warn" if warn else f"all {count} checks are ok"
        yield f"{self.model}: {f'{wrong} of {count} checks are wrong' if wrong else said}"


def doctor(
    data: list[str] | None = None,
    *,
    model: ModelName = "starter",
    reference: str | None = None,
    n: int | None = None,
    loading: Annotated[Loading, Flat] = Loading(),
    reading: Annotated[Reading, Flat] = Reading(),
    max_length: int | None = None,
) -> Diagnosis:
    """Check on a few rows that a model's losses can be trusted, and find the batch size that suits the machine.

    Batch size, order, padding, shared beginnings, dtype, chat template, mask, and the reference where one is given.
    Each check prints its figure and its bound, and what to do where it fails. Exit code 1 if something is wrong.

    Args:
        data: Files, or a folder that `learnable load` wrote; built-in conversations when not given.
        reference: Folder that `learnable train` wrote, or a fine-tuned model or LoRA adapter of your own.
        n: How many rows of the data, from the shortest to the longest; 8 when not given.
        max_length: Longest row in tokens; 512 or the model's own limit when not given.
    """
    ref = ModelRef(name=model, **asdict(loading))
    longest = min(length_limit(ref, None), LONGEST) if max_length is None else length_limit(ref, max_length)
    look_up(reference, loading, reference=True)
    examples = _chosen(data, reading, n)
    machine, ref = diagnosis.checks.machine_facts(ref), pinned(ref)
    say(f"checking the chat template of {model} on {len(examples)} conversations")
    renderer = models.Renderer.of(ref)
    checks = [diagnosis.checks.threads_check(), *diagnosis.templates.template_checks(renderer, examples)]
    rendered = renderer.render(examples, max_length=longest, skip_refused=True)
    usable = [row for row in rendered if row.mask.any()]
    checks += _loss_checks(ref, usable, reference)
    return Diagnosis(model=model, machine=machine, rows=len(usable), checks=tuple(checks))


def _chosen(data: list[str] | None, reading: Reading, n: int | None) -> list[Example]:
    """Return the conversations to check on: built-in ones, or n of the user's from the shortest to the longest."""
    if not data:
        if reading != Reading() or n is not None:
            raise UsageError(
                "n and settings of reading have no effect on the built-in conversations",
                hint="give files: learnable doctor DATA",
            )
        return list(models.conversations.CONVERSATIONS)
    if n is not None and n < 2:
        raise UsageError(f"n is {n}, and batches are compared on at least 2 rows")
    pool = rows.read(data, **asdict(reading))
    content = pl.element().struct.field("content").str.len_chars()
    order = pool.examples["messages"].list.eval(content).list.sum().arg_sort()
    count = min(n or EXAMPLES, len(pool))
    spread = np.unique(np.linspace(0, len(pool) - 1, count).round().astype(np.int64))
    return list(replace(pool, conversations=pool.examples[order.gather(spread)].lazy()).iter_examples())


def _loss_checks(
    ref: ModelRef, rendered: Sequence[Rendered], reference: str | None
) -> "list[diagnosis.checks.CheckResult]":
    if len(rendered) < 2:
        found = f"not checked: {len(rendered)} rows have a response within the length limit, and 2 are needed"
        return [
            diagnosis.checks.wrong(
                "losses", found, "see the lines above; give other rows, or a higher --max-length"
            )
        ]

    def looked_at(model: "models.LanguageModel") -> "Iterator[diagnosis.checks.CheckResult]":
        say("timing batches")
        yield diagnosis.batch_budget.budget_check(model, rendered)
        say(f"comparing losses on {len(rendered)} rows")
        yield from diagnosis.losses.loss_checks(model, rendered)

    say(f"loading {ref.name}")
    model = models.LanguageModel(ref)
    checks = diagnosis.checks.guarded("losses", looked_at(model))
    if checks[-1].name == "losses":  # there are none, so there is nothing else to look at
        return checks
    nll, dtype = model.nll(rendered), model.dtype
    if reference is not None:
        say(f"comparing with the reference {reference}")
        checks += diagnosis.checks.guarded("reference", _reference_checks(model, nll, rendered, reference))
    del model  # two of them may not fit the memory
    if dtype != "float32":
        say("loading it in float32")
        checks += diagnosis.checks.guarded("dtype", diagnosis.losses.dtype_check(ref, rendered, nll))
    return checks


def _reference_checks(
    model: "models.LanguageModel",
    nll: NDArray[np.float64],
    rendered: Sequence[Rendered],
    reference: str,
) -> "Iterator[diagnosis.checks.CheckResult]":
    parts = compared_with(reference, model.ref).models.parts
    for number, part in enumerate(parts, start=1):
        name = f"reference, part {number} of {len(parts)}" if len(parts) > 1 else "reference"
        if part.kind == "adapter":
            yield diagnosis.losses.adapter_check(model, rendered, Path(part.name), name)
        else:
            whole = replace(model.ref, name=part.name, revision=None)
            yield diagnosis.losses.whole_model_check(whole, model.renderer.vocabulary, nll, rendered, name)
