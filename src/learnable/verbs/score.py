"""``learnable score``: the losses of a pool, and formulas over them."""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import polars as pl
from cyclopts import Parameter

from learnable.atomic import write_frame
from learnable.errors import ModelError, UsageError
from learnable.fingerprint import fingerprint
from learnable.measure import lengths, mean_loss, nll_measure, plan, run
from learnable.progress import say
from learnable.registry import build
from learnable.scorers import SCORERS
from learnable.steps import DONE, Outcome, Step
from learnable.store import Store
from learnable.types import Loading, ModelRef, Reading, Rendered, Scorer
from learnable.verbs.inputs import length_limit, pool_of, reference_identity, reference_models, would_run
from learnable.verbs.options import Flat, Output

if TYPE_CHECKING:
    from learnable.model import LanguageModel
    from learnable.training import References

WITH_REFERENCE, WITHOUT_REFERENCE = ("learnability", "difference", "length_matched"), ("loss",)


def score(
    data: list[str],
    *,
    model: str = "starter",
    reference: str | None = None,
    scorers: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    loading: Annotated[Loading, Flat] = Loading(),
    reading: Annotated[Reading, Flat] = Reading(),
    max_length: int | None = None,
    store: str = "runs/store",
    dry_run: bool = False,
    output: Output = "scores",
) -> Outcome:
    """Measure the losses of a pool, and score every example by formulas over them.

    Args:
        data: Files, or a folder that `learnable load` wrote.
        model: Folder, hub id, GGUF file, or `starter`.
        reference: Folder that `learnable train` wrote, or a fine-tuned model or LoRA adapter of your own.
        scorers: Names of scorers (see `learnable list`); learnability, difference and length_matched when a
            reference is given, else loss.
        loading: How to load the model.
        reading: How to read rows.
        max_length: Longest example in tokens; 2,048 or the model's own limit when not given.
        store: Folder of measurements; what is in it is never measured twice.
        dry_run: Say what would run, and run nothing.
        output: Folder to write.
    """
    from learnable.model.source import identify, is_here

    started = time.monotonic()
    names = list(scorers or (WITHOUT_REFERENCE if reference is None else WITH_REFERENCE))
    methods: dict[str, Scorer] = {name: build("scorer", name, SCORERS) for name in names}
    needs = _needs(methods, reference)
    ref = ModelRef(name=model, **asdict(loading))
    longest = length_limit(ref, max_length)
    pool, loaded = pool_of(data, reading, output)
    if dry_run and not is_here(ref):
        return Outcome.planned("score", [f"fetch or convert {model}", *_price(len(pool), needs)])
    inputs = {"pool": loaded.identity, "base": identify(ref)}
    if reference is not None:
        if dry_run and not Path(reference).exists():
            return Outcome.planned("score", ["after the reference", *_price(len(pool), needs)])
        inputs["reference"] = reference_identity(reference, loading, inputs["base"])
    parameters = {
        "scorers": {name: fingerprint(method) for name, method in methods.items()},
        "max_length": longest,
    }
    step = Step(verb="score", parameters=parameters, inputs=inputs)
    folder = step.folder(output)
    if dry_run:
        return would_run(step, folder, _price(len(pool), needs))
    links = {"pool": loaded.folder}
    if reference is not None and (Path(reference) / DONE).is_file():
        links["reference"] = Path(reference)
    if done := step.begin(folder, links=links):
        return done
    say(f"scoring {len(pool):,} examples: {', '.join(_price(len(pool), needs))}")
    from learnable.model import LanguageModel

    network = LanguageModel(ref)
    if network.renderer.uses_default_template:
        say(f"{model} brings no chat template: the default one is used (### Instruction / ### Response)")
    skip = loaded.facts["on_error"] == "skip"
    rendered = network.renderer.render(list(pool.iter_examples()), max_length=longest, skip_refused=skip)
    frame = pl.concat([pool.examples.select("id", "source"), lengths(rendered).drop("id")], how="horizontal")
    losses = _Losses(network, rendered, frame, Store(Path(store)), longest)
    frame = frame.with_columns(losses.base().alias("loss_before"))
    if "loss_after" in needs and reference is not None:
        frame = frame.with_columns(
            losses.reference(reference_models(reference, loading), loading).alias("loss_after")
        )
    frame = frame.with_columns(
        pl.Series(name, method(frame), dtype=pl.Float32) for name, method in methods.items()
    )
    write_frame(frame, folder / "scores.parquet")
    total = int(frame["tokens"].sum())
    facts = {
        "examples": frame.height,
        "tokens": total,
        "truncated": int(frame["truncated"].sum()),
        "undefined": frame["undefined"].drop_nulls().len(),
        "model": model,
        "dtype": str(network.dtype),
        "max_length": longest,
        "scorers": names,
        "lowest first": [name for name, method in methods.items() if not method.higher_is_better],
    }
    passes = losses.tokens / max(total, 1)
    return step.finish(folder, facts=facts, started=started, links=links, tokens=losses.tokens, passes=passes)


def _needs(methods: dict[str, Scorer], reference: str | None) -> set[str]:
    wanting = sorted(name for name, method in methods.items() if "loss_after" in method.needs)
    if wanting and reference is None:
        raise UsageError(
            f"{', '.join(wanting)} compares with a reference model, and none is given",
            hint="make one with `learnable train DATA -o reference`, then give --reference reference",
        )
    return {column for method in methods.values() for column in method.needs}


def _price(examples: int, needs: set[str]) -> list[str]:
    price = [f"1 base pass over {examples:,} examples"]
    return [*price, f"1 reference pass over {examples:,} examples"] if "loss_after" in needs else price


class _Losses:
    """Measures what is missing, and remembers how many tokens that took."""

    def __init__(
        self,
        network: "LanguageModel",
        rendered: Sequence[Rendered],
        frame: pl.DataFrame,
        store: Store,
        max_length: int,
    ) -> None:
        self._network, self._rendered, self._frame = network, rendered, frame
        self._store, self._max_length = store, max_length
        self.tokens = 0

    def base(self) -> pl.Series:
        """Return the loss per token under the base model, (n,)."""
        return self._measured(self._network, list(range(self._frame.height)), "base loss")

    def reference(self, references: "References", loading: Loading) -> pl.Series:
        """Return the loss per token under the reference, (n,); each example by the part that did not train on it."""
        parts = self._frame.join(references.assignment, on="id", how="left", maintain_order="left")[
            "part"
        ].fill_null(0)
        after = pl.Series("loss", [float("nan")] * self._frame.height, dtype=pl.Float32)
        for number, part in enumerate(references.parts):
            members = [position for position, assigned in enumerate(parts) if assigned == number]
            of = f", part {number + 1} of {len(references.parts)}" if len(references.parts) > 1 else ""
            if part.kind == "adapter":
                with self._network.adapter(Path(part.name)):
                    losses = self._measured(self._network, members, f"reference loss{of}")
            else:
                losses = self._measured(self._whole(part.name, loading), members, f"reference loss{of}")
            after[members] = losses
        return after

    def _whole(self, name: str, loading: Loading) -> "LanguageModel":
        from learnable.model import LanguageModel

        whole = LanguageModel(ModelRef(name=name, **asdict(replace(loading, revision=None))))
        if whole.renderer.vocabulary != self._network.renderer.vocabulary:
            raise ModelError(
                f"the reference {name} has another tokenizer than the base model, so their losses cannot be compared",
                hint="give a reference that was fine-tuned from this base model",
            )
        return whole

    def _measured(self, network: "LanguageModel", members: list[int], label: str) -> pl.Series:
        rendered = [self._rendered[position] for position in members]
        measure = nll_measure(network, rendering=self._network.renderer.key, max_length=self._max_length)
        todo = plan(measure, rendered, store=self._store, batch_tokens=network.batch_tokens)
        say(
            f"{label}: {todo.examples:,} examples, {todo.tokens:,} tokens to measure; {todo.stored:,} stored already"
        )
        run(todo, network, rendered, store=self._store, label=label)
        self.tokens += todo.tokens
        return mean_loss(measure, self._frame[members], store=self._store)
