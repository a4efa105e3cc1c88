"""``learnable evaluate``: how good a model is, on local data."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import polars as pl

from learnable.commands.inputs import given_part, length_limit, look_up, opened, pinned, to_fetch
from learnable.commands.options import Flat, Output
from learnable.errors import ModelError, UsageError
from learnable.evaluators import GRADES, EvaluatedModel, Evaluator, Specification, build_evaluator, parse
from learnable.evaluators import evaluate as graded
from learnable.experiments import interval
from learnable.runs.files import write_frame
from learnable.runs.identity import fingerprint, source_of
from learnable.runs.records import Outcome
from learnable.runs.step import Finished, Step, run
from learnable.runs.store import Store
from learnable.settings import Loading
from learnable.types import Example, ModelRef

if TYPE_CHECKING:
    from learnable.models import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An evaluator with its data, read."""

    label: str
    evaluator: Evaluator
    examples: list[Example]

    @property
    def identity(self) -> str:
        """Fingerprint of the evaluator's settings and of the examples."""
        return fingerprint(
            [self.label, fingerprint(self.evaluator), [example.id for example in self.examples]]
        )

    def grade(self, model: EvaluatedModel, *, store: Store, max_length: int, what: str = "") -> pl.DataFrame:
        """Return the grades of a model: ``evaluation``, ``id``, ``source``, ``value``, ``answer``, ``why``."""
        frame = graded(
            model,
            self.evaluator,
            self.examples,
            store=store,
            max_length=max_length,
            label=f"{self.label}{what}",
        )
        return frame.select(pl.lit(self.label).alias("evaluation"), pl.all())


def wants_heldout(written: Sequence[str]) -> bool:
    """Tell whether an evaluation is on the rows that the data itself sets aside: ``heldout`` without a file."""
    return any(_is_heldout(parse(text)) for text in written)


def _is_heldout(specification: Specification) -> bool:
    return specification.name == "heldout" and specification.path is None


def check_place(asked: Sequence[Specification], on: str | None) -> None:
    """Say which evaluation is not known, or cannot be done where the model runs; no data is read.

    Raises:
        UsageError: If there is no such evaluator, it does not know a setting, or it takes the model into its own hands
            and the model is on a cluster.
    """
    for specification in asked:
        if build_evaluator(specification).kind == "harness" and on is not None:
            raise UsageError(
                f"{specification.label} runs the model itself, and with --on {on} there is none here",
                hint=f"evaluate {specification.name} by itself, without --on",
            )


def evaluations_of(written: Sequence[str], *, heldout: Path | None = None) -> list[Evaluation]:
    """Return the evaluations that were asked for, their data read; ``heldout`` are the rows that were set aside.

    Raises:
        UsageError: If one is not known.
        DataError: If its data cannot be read.
    """
    specifications = {text: parse(text) for text in dict.fromkeys(written)}
    labels = [specification.label for specification in specifications.values()]
    found = []
    for text, specification in specifications.items():
        # Files of one name in two folders are told apart by their paths.
        label = specification.label if labels.count(specification.label) == 1 else text
        if heldout is not None and _is_heldout(specification):
            settings = {"source_column": "source", **specification.settings}
            specification = replace(specification, path=str(heldout), settings=settings)
        evaluator = build_evaluator(specification)
        examples = evaluator.read(specification.path)
        found.append(Evaluation(label=label, evaluator=evaluator, examples=examples))
    return found


def evaluate(
    evaluations: list[str],
    *,
    model: str = "starter",
    adapter: str | None = None,
    loading: Annotated[Loading, Flat] = Loading(),
    max_length: int | None = None,
    on: str | None = None,
    store: str = "runs/store",
    dry_run: bool = False,
    output: Output = "evaluation",
) -> Outcome:
    """Evaluate a model on local data: held-out loss, exact answers, rules, multiple choice, any lm-eval task.

    Args:
        evaluations: Each NAME:PATH@key=value,key=value, such as heldout:eval.jsonl, exact_match:gsm8k.parquet@n=100 or
            ifeval:ifeval.jsonl (see `learnable list`).
        model: Folder, hub id, GGUF file, or `starter`.
        adapter: LoRA adapter that the model wears.
        loading: How to load the model.
        max_length: Longest scored example in tokens; 2,048 or the model's own limit when not given.
        on: Where the model runs: here, or `ray[:ADDRESS]`, a model on each GPU of a Ray cluster, or on its CPUs.
        store: Folder of measurements; what is in it is never measured twice.
        dry_run: Say what would run, and run nothing.
        output: Folder to write.
    """
    check_place([parse(text) for text in evaluations], on)
    look_up(model, loading)
    look_up(adapter, loading, reference=True)
    asked = evaluations_of(evaluations)
    from learnable.models.source import identify

    ref = ModelRef(name=model, **asdict(loading))
    awaits = to_fetch(ref) if dry_run else []
    ref = ref if awaits else pinned(ref, on=on)
    longest = length_limit(ref, max_length)
    inputs = {each.label: each.identity for each in asked}
    part = None
    if not awaits:
        inputs["model"] = identify(ref)
        part = _adapter(adapter, replace(loading, dtype=ref.dtype)) if adapter is not None else None
    if part is not None:
        inputs["adapter"] = part[1]

    def work(folder: Path) -> Finished:
        network = opened(ref, on=on)
        with network.adapter(part[0]) if part is not None else nullcontext():
            grades = graded_all(network, asked, store=Store(Path(store)), max_length=longest)
        write_frame(grades, folder / "results.parquet")
        return Finished(facts={"model": model, "adapter": adapter, **_summaries(asked, grades)})

    items = sum(len(each.examples) for each in asked)
    step = Step(
        verb="evaluate",
        parameters={"max_length": longest},
        inputs=inputs,
        sources={each.label: source_of(each.evaluator) for each in asked},
        says=[f"{items:,} evaluation items"],
        awaits=awaits,
        work=work,
    )
    return run(step, output, dry_run=dry_run)


def _adapter(name: str, loading: Loading) -> tuple[Path, str]:
    """Return where an adapter is, and its identity.

    Raises:
        ModelError: If it is a whole model.
    """
    folder, kind, key = given_part(name, loading)
    if kind != "adapter":
        raise ModelError(
            f"{name} is a whole model, not an adapter", hint=f"give it as the model: --model {name}"
        )
    return Path(folder), key


def _summaries(asked: Sequence[Evaluation], grades: pl.DataFrame) -> dict[str, str]:
    """Return the mean of each evaluation with its interval, in words, by label."""
    found = {}
    for each in asked:
        mine = grades.filter(pl.col("evaluation") == each.label)
        mean = interval(mine["value"].to_numpy()[None, :])
        words = (
            f"{mean.mean:.4g} ({mean.low:.4g} to {mean.high:.4g}) {each.evaluator.unit}, {mean.items:,} items"
        )
        found[each.label] = words + (f", {mean.ungraded:,} could not be graded" if mean.ungraded else "")
    return found


def graded_all(
    network: "LanguageModel",
    evaluations: Sequence[Evaluation],
    *,
    store: Store,
    max_length: int,
    what: str = "",
) -> pl.DataFrame:
    """Return the grades of all evaluations of one model, as it is now (its adapter on or off)."""
    nothing: dict[str, Any] = {"evaluation": pl.String, **GRADES}
    grades = [each.grade(network, store=store, max_length=max_length, what=what) for each in evaluations]
    return pl.concat([pl.DataFrame(schema=nothing), *grades])
