"""``learnable score``: the losses of a pool, and formulas over them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import polars as pl
from cyclopts import Parameter
from numpy.typing import NDArray

from learnable.commands.inputs import (
    finished,
    is_made,
    length_limit,
    look_up,
    most_bad,
    opened,
    pinned,
    pool_of,
    reference_identity,
    reference_models,
    render_rows,
    to_fetch,
)
from learnable.commands.options import Flat, Output
from learnable.errors import ModelError, UsageError
from learnable.measure import (
    END_NLL,
    SUMS,
    answers_alone,
    end_nll,
    end_of_turn,
    keep_sums,
    lengths,
    listed,
    mean_loss,
    measure_of,
    plan,
    run,
)
from learnable.runs.files import write_frame
from learnable.runs.identity import fingerprint, source_of
from learnable.runs.progress import say
from learnable.runs.records import DONE, Outcome
from learnable.runs.step import Finished, Step
from learnable.runs.step import run as execute
from learnable.runs.store import Store
from learnable.scorers import END_OF_TURN_SHARE, SCORERS, end_of_turn_share
from learnable.settings import Loading, Reading
from learnable.spec import build
from learnable.types import Example, Measure, ModelRef, Pool, Rendered, Scorer

if TYPE_CHECKING:
    from learnable.models import LanguageModel
    from learnable.training import References

Vectors = Literal["none", "model", "wordllama"]
VECTORS = "vectors.parquet"
MEASURED = {
    "tokens",
    "response_tokens",
    "loss_before",
    "loss_after",
    "loss_alone",
    "end_tokens",
    "end_nll_before",
    "end_nll_after",
    "token_losses_before",
    "token_losses_alone",
}
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
    vectors: Vectors = "none",
    on: str | None = None,
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
        vectors: Vectors of the examples, which some selectors need: of the model (its last hidden states, one more
            pass), or of `wordllama` (word vectors from a pip package, no pass).
        on: Where the model runs: here, or `ray[:ADDRESS]`, a model on each GPU of a Ray cluster, or on its CPUs.
        store: Folder of measurements; what is in it is never measured twice.
        dry_run: Say what would run, and run nothing.
        output: Folder to write.
    """
    names = list(scorers or (WITHOUT_REFERENCE if reference is None else WITH_REFERENCE))
    methods: dict[str, Scorer] = {name: build("scorer", name, SCORERS) for name in names}
    needs = _needs(methods, reference)
    ref = ModelRef(name=model, **asdict(loading))
    longest = length_limit(ref, max_length)
    # A dry run of a recipe has not made its reference yet.
    made = reference is None or not dry_run or is_made(reference)
    look_up(reference if made else None, loading, reference=True)
    pool, loaded = pool_of(data, reading, output, dry_run=dry_run)
    from learnable.models.source import identify

    awaits = to_fetch(ref) if dry_run else []
    inputs, links = {"pool": loaded.identity}, {"pool": loaded.folder}
    if not awaits:
        ref = pinned(ref, on=on)
        inputs["base"] = identify(ref)
    loading = replace(loading, dtype=ref.dtype)
    if reference is not None and not made:
        awaits.append("after the reference")
    elif reference is not None and not awaits:
        inputs["reference"] = reference_identity(reference, loading, inputs["base"])
        if (Path(reference) / DONE).is_file():
            links["reference"] = Path(reference)
    scoring = _Scoring(
        ref=ref,
        loading=loading,
        reference=reference,
        methods=methods,
        needs=needs,
        pool=pool,
        longest=longest,
        vectors=vectors,
        on=on,
        store=Store(Path(store)),
    )
    step = Step(
        verb="score",
        parameters={
            "scorers": {name: fingerprint(method) for name, method in methods.items()},
            "max_length": longest,
            "vectors": vectors,
        },
        inputs=inputs,
        sources={name: source_of(method) for name, method in methods.items()},
        links=links,
        says=price_of(len(pool), needs - ({"loss_after"} if _kept_losses(reference) else set()), vectors),
        awaits=awaits,
        work=partial(scoring.work, most_refused=most_bad(loaded)),
    )
    return execute(step, output, dry_run=dry_run)


@dataclass(frozen=True, kw_only=True)
class _Scoring:
    """What is to be measured, and the formulas over it; ``needs`` are the columns of these."""

    ref: ModelRef
    loading: Loading
    reference: str | None
    methods: dict[str, Scorer]
    needs: set[str]
    pool: Pool
    longest: int
    vectors: Vectors
    on: str | None
    store: Store

    def work(self, folder: Path, *, most_refused: float) -> Finished:
        """Measure what is missing, and write the table of scores."""
        network = opened(self.ref, on=self.on)
        if network.renderer.uses_default_template:
            say(
                f"{self.ref.name} brings no chat template: the default one is used (### Instruction / ### Response)"
            )
        examples = list(self.pool.iter_examples())
        rendered = render_rows(network.renderer, examples, max_length=self.longest, most_refused=most_refused)
        known = self.pool.examples.select("id", "source")
        frame = pl.concat([known, lengths(rendered).drop("id")], how="horizontal")
        compares = self.reference is not None and "loss_after" in self.needs
        passes = _Passes(network, rendered, frame, self.store, self.longest, ends=compares)
        measured = [*passes.base(self.needs), *passes.alone(self.needs)]
        if self.reference is not None and compares:
            references = reference_models(self.reference, self.loading)
            measured += passes.reference(references, self.loading, needs=self.needs, on=self.on)
        frame = frame.with_columns(measured)
        frame = frame.with_columns(
            pl.Series(name, method(frame), dtype=pl.Float32) for name, method in self.methods.items()
        )
        if self.vectors != "none":
            vectors = passes.vectors(self.vectors, examples)
            write_frame(frame.select("id", vector=vectors), folder / VECTORS)
        # What is known of each token stays in the store; a table of scores has one number in each cell.
        frame = frame.drop("token_losses_before", "token_losses_alone", strict=False)
        write_frame(frame, folder / "scores.parquet")
        facts = self._facts(frame, rendered, dtype=str(network.dtype), compares=compares)
        return Finished(facts=facts, tokens=passes.tokens, pool_tokens=facts["tokens"])

    def _facts(
        self, frame: pl.DataFrame, rendered: Sequence[Rendered], *, dtype: str, compares: bool
    ) -> dict[str, Any]:
        from learnable.models import left_out

        return {
            "examples": frame.height,
            "tokens": int(frame["tokens"].sum()),
            "truncated": int(frame["truncated"].sum()),
            "undefined": frame["undefined"].drop_nulls().len(),
            "model": self.ref.name,
            "dtype": dtype,
            "max_length": self.longest,
            "scorers": list(self.methods),
            "vectors": self.vectors,
            **(_learning_to_stop(frame) if compares else {}),
            **rules_of(self.methods),
            **({"left out": cut} if (cut := left_out(rendered)) else {}),
            **({"chat template": self.ref.chat_template} if self.ref.chat_template else {}),
        }


def _learning_to_stop(frame: pl.DataFrame) -> dict[str, Any]:
    """Return as a fact which share of the fall of the loss is that of the end of turns, and say when it is large."""
    share = end_of_turn_share(frame)
    if share is not None and share > END_OF_TURN_SHARE:
        say(
            f"{share:.0%} of the whole fall of the loss is learning to stop (the token that ends a turn): "
            "text_learnability leaves it out"
        )
    return {"end of turn": "not known" if share is None else round(share, 4)}


def rules_of(methods: dict[str, Scorer]) -> dict[str, Any]:
    """Return what a selection must know of the scorers beyond their numbers."""
    limits = {
        name: limit
        for name, method in methods.items()
        if (limit := getattr(method, "max_score", None)) is not None
    }
    lowest = [name for name, method in methods.items() if not method.higher_is_better]
    return {"lowest first": lowest, "max score": limits}


def vectors_of(folder: Path) -> NDArray[np.float32] | None:
    """Return the vectors that were measured with a table of scores, (n, d) in its order; None if there are none.

    An example without a vector has NaN in it.
    """
    if not (folder / VECTORS).is_file():
        return None
    rows = pl.read_parquet(folder / VECTORS)["vector"].to_list()
    width = max((len(row) for row in rows if row is not None), default=0)
    return np.array([row if row is not None else [np.nan] * width for row in rows], dtype=np.float32)


def _needs(methods: dict[str, Scorer], reference: str | None) -> set[str]:
    wanting = sorted(name for name, method in methods.items() if "loss_after" in method.needs)
    if wanting and reference is None:
        raise UsageError(
            f"{', '.join(wanting)} compares with a reference model, and none is given",
            hint="make one with `learnable train DATA -o reference`, then give --reference reference",
        )
    needs = {column for method in methods.values() for column in method.needs}
    if unknown := sorted(needs - MEASURED):
        raise UsageError(
            f"a scorer needs {', '.join(unknown)}, which is not measured",
            hint=f"measured: {', '.join(sorted(MEASURED))}",
        )
    if "end_nll_after" in needs and _kept_losses(reference):
        raise UsageError(
            "the losses of the last epoch are kept for whole answers, so the end of a turn cannot be left out",
            hint="train the reference without --last-epoch-loss",
        )
    return needs


def _kept_losses(reference: str | None) -> bool:
    """Return whether a reference kept the losses of its last epoch, so that they cost no pass."""
    if reference is None or not (Path(reference) / DONE).is_file():
        return False
    return "loss after" in finished(reference, "train").facts


def price_of(examples: int, needs: set[str], vectors: Vectors) -> list[str]:
    """Return in words which passes a table of scores costs."""
    passes = {
        "base": needs & {"loss_before", "token_losses_before"},
        "answer-alone": needs & {"loss_alone", "token_losses_alone"},
        "reference": needs & {"loss_after"},
        "embedding": vectors == "model",
    }
    price = [f"1 {name} pass over {examples:,} examples" for name, wanted in passes.items() if wanted]
    return price or ["no pass"]


class _Passes:
    """Measures what is missing, and remembers how many tokens that took."""

    def __init__(
        self,
        network: "LanguageModel",
        rendered: Sequence[Rendered],
        frame: pl.DataFrame,
        store: Store,
        max_length: int,
        *,
        ends: bool,
    ) -> None:
        self._network, self._rendered, self._frame = network, rendered, frame
        self._store, self._max_length = store, max_length
        # What a model learns about stopping is known at no cost wherever a pass is made to compare.
        self._end_ids = network.renderer.end_ids if ends else frozenset()
        self.tokens = 0

    def base(self, needs: set[str]) -> list[pl.Series]:
        """Return the columns of the base model that are needed, (n,) each; with ends also how many tokens these are."""
        columns = self._losses(self._rendered, needs, "before", "base loss", alone=False)
        if self._end_ids:
            ends = [int(end_of_turn(example, self._end_ids).sum()) for example in self._rendered]
            columns.append(pl.Series("end_tokens", ends, dtype=pl.Int64))
        return columns

    def alone(self, needs: set[str]) -> list[pl.Series]:
        """Return the columns of the answers without their instructions that are needed, (n,) each."""
        if not needs & {"loss_alone", "token_losses_alone"}:
            return []
        answers = answers_alone(self._rendered, header=self._network.renderer.answer_header)
        return self._losses(answers, needs, "alone", "answer-alone loss", alone=True)

    def vectors(self, kind: Vectors, examples: list[Example]) -> pl.Series:
        """Return a vector for each example, List(Float32) (n,)."""
        if kind == "wordllama":
            from learnable.models import StaticEmbedder

            return pl.Series(StaticEmbedder().embed(examples), dtype=pl.List(pl.Float32))
        measure = self._run(self._network, self._rendered, ["embedding"], "embedding")
        return listed(measure, self._frame, store=self._store)

    def _losses(
        self, rendered: Sequence[Rendered], needs: set[str], name: str, label: str, *, alone: bool
    ) -> list[pl.Series]:
        columns: list[pl.Series] = []
        # A pass that keeps each token's loss has their sum too.
        by_token = f"token_losses_{name}" in needs
        if by_token or f"loss_{name}" in needs:
            kinds = ["token_nll" if by_token else "nll"]
            if f"end_nll_{name}" in needs:
                kinds.append(END_NLL)
            measure = self._run(self._network, rendered, kinds, label, alone=alone)
            columns.append(mean_loss(measure, self._frame, store=self._store).alias(f"loss_{name}"))
            if by_token:
                columns.append(listed(measure, self._frame, store=self._store).alias(f"token_losses_{name}"))
            if self._end_ids and not alone:
                columns.append(end_nll(measure, self._frame, store=self._store).alias(f"end_nll_{name}"))
        return columns

    def reference(
        self, references: "References", loading: Loading, *, needs: set[str], on: str | None
    ) -> list[pl.Series]:
        """Return loss per token and nll of the ends under the reference, (n,) each.

        Each example is measured by the part that did not train on it.
        """
        parts = self._frame.join(references.assignment, on="id", how="left", maintain_order="left")[
            "part"
        ].fill_null(0)
        unknown = [float("nan")] * self._frame.height
        after, ends = (pl.Series(name, unknown, dtype=pl.Float32) for name in ("loss_after", "end_nll_after"))
        if references.last_epoch is not None:
            say("reference loss: as the last epoch of its training met it, no pass")
            return [references.last_epoch_loss(self._frame).alias("loss_after"), ends]
        kinds = ["nll", *([END_NLL] if "end_nll_after" in needs else [])]
        for number, part in enumerate(references.parts):
            members = [position for position, assigned in enumerate(parts) if assigned == number]
            of = f", part {number + 1} of {len(references.parts)}" if len(references.parts) > 1 else ""
            label = f"reference loss{of}"
            rendered = [self._rendered[position] for position in members]
            if part.kind == "adapter":
                with self._network.adapter(Path(part.name)):
                    measure = self._run(self._network, rendered, kinds, label)
            else:
                measure = self._run(self._whole(part.name, loading, on), rendered, kinds, label)
            after[members] = mean_loss(measure, self._frame[members], store=self._store)
            ends[members] = end_nll(measure, self._frame[members], store=self._store)
        return [after, ends]

    def _whole(self, name: str, loading: Loading, on: str | None) -> "LanguageModel":
        whole = opened(ModelRef(name=name, **asdict(replace(loading, revision=None))), on=on)
        if whole.renderer.vocabulary != self._network.renderer.vocabulary:
            raise ModelError(
                f"the reference {name} has another tokenizer than the base model, so their losses cannot be compared",
                hint="give a reference that was fine-tuned from this base model",
            )
        return whole

    def _run(
        self,
        network: "LanguageModel",
        rendered: Sequence[Rendered],
        kinds: Sequence[str],
        label: str,
        *,
        alone: bool = False,
    ) -> Measure:
        """Measure what is missing, the first kind first, and return its measure."""
        first = measure_of(
            network,
            rendering=self._network.renderer.key,
            max_length=self._max_length,
            kind=kinds[0],
            alone=alone,
        )
        for kind in kinds:
            measure = replace(first, kind=kind)
            todo = plan(measure, rendered, store=self._store, batch_tokens=network.batch_tokens)
            if todo.batches or measure == first:  # else the first pass gave what the second would
                say(
                    f"{label}: {todo.examples:,} examples, {todo.tokens:,} tokens to measure; "
                    f"{todo.stored:,} stored already"
                )
            end_ids = () if alone or kind not in SUMS else self._end_ids
            run(todo, network, rendered, store=self._store, label=label, end_ids=end_ids)
            self.tokens += todo.tokens
            if kind == "token_nll":
                keep_sums(measure, rendered, store=self._store, end_ids=() if alone else self._end_ids)
        return first
