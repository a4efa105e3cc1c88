"""Scores of rows: the passes that the formulas need, and the formulas."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import polars as pl

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
from learnable.runs.progress import say
from learnable.runs.store import Store
from learnable.scorers import END_OF_TURN_SHARE, end_of_turn_share
from learnable.types import Example, Measure, Pool, Rendered, Scorer

if TYPE_CHECKING:
    from learnable.models import LanguageModel
    from learnable.training import References

Vectors = Literal["none", "model", "wordllama"]
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


class ScoredFrame(NamedTuple):
    """What scoring gives.

    ``frame`` has ``id``, ``source``, ``tokens``, what was measured and a column for each scorer, n rows; ``vectors`` is
    List(Float32) (n,), None where none were asked for; ``facts`` are figures to show; ``tokens`` went through a model.
    """

    frame: pl.DataFrame
    vectors: pl.Series | None
    facts: dict[str, Any]
    tokens: int


def score_rows(
    network: "LanguageModel",
    pool: Pool,
    rendered: Sequence[Rendered],
    methods: Mapping[str, Scorer],
    *,
    references: "References | None",
    whole: Callable[[str], "LanguageModel"],
    store: Store,
    max_length: int,
    vectors: Vectors = "none",
) -> ScoredFrame:
    """Measure what scorers need and is not stored yet, and score every example.

    Args:
        network: The base model.
        pool: n examples.
        rendered: The same, as the model sees them.
        methods: Scorers by name.
        references: What the base is compared with, where a scorer compares.
        whole: Opens a reference that is a whole model.
        store: Where measurements are kept.
        max_length: Longest example in tokens.
        vectors: Vectors of the examples that are wanted too.
    """
    from learnable.models import left_out

    if network.renderer.uses_default_template:
        say(
            f"{network.ref.name} brings no chat template: the default one is used (### Instruction / ### Response)"
        )
    needs = {column for method in methods.values() for column in method.needs}
    frame = pl.concat([pool.examples.select("id", "source"), lengths(rendered).drop("id")], how="horizontal")
    compared = references if "loss_after" in needs else None
    passes = Passes(network, rendered, frame, store, max_length, ends=compared is not None)
    measured = [*passes.base(needs), *passes.alone(needs)]
    if compared is not None:
        measured += passes.reference(compared, whole, needs=needs)
    frame = frame.with_columns(measured)
    frame = frame.with_columns(
        pl.Series(name, method(frame), dtype=pl.Float32) for name, method in methods.items()
    )
    found = None if vectors == "none" else passes.vectors(vectors, list(pool.iter_examples()))
    # What is known of each token stays in the store; a table of scores has one number in each cell.
    frame = frame.drop("token_losses_before", "token_losses_alone", strict=False)
    facts = {
        "examples": frame.height,
        "tokens": int(frame["tokens"].sum()),
        "truncated": int(frame["truncated"].sum()),
        "undefined": frame["undefined"].drop_nulls().len(),
        "model": network.ref.name,
        "dtype": str(network.dtype),
        "max_length": max_length,
        "scorers": list(methods),
        "vectors": vectors,
        **(_learning_to_stop(frame) if compared is not None else {}),
        **rules_of(methods),
        **({"left out": cut} if (cut := left_out(rendered)) else {}),
        **({"chat template": network.ref.chat_template} if network.ref.chat_template else {}),
    }
    return ScoredFrame(frame, found, facts, passes.tokens)


def needs_of(methods: Mapping[str, Scorer], *, has_reference: bool, keeps_losses: bool) -> set[str]:
    """Return the columns that scorers need.

    Args:
        methods: Scorers by name.
        has_reference: Whether there is one to compare with.
        keeps_losses: Whether the reference kept the losses of its last epoch.

    Raises:
        UsageError: If a column is not measured, or not without a reference, or not with this one.
    """
    wanting = sorted(name for name, method in methods.items() if "loss_after" in method.needs)
    if wanting and not has_reference:
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
    if "end_nll_after" in needs and keeps_losses:
        raise UsageError(
            "the losses of the last epoch are kept for whole answers, so the end of a turn cannot be left out",
            hint="train the reference without --last-epoch-loss",
        )
    return needs


def _learning_to_stop(frame: pl.DataFrame) -> dict[str, Any]:
    """Return as a fact which share of the fall of the loss is that of the end of turns, and say when it is large."""
    share = end_of_turn_share(frame)
    if share is not None and share > END_OF_TURN_SHARE:
        say(
            f"{share:.0%} of the whole fall of the loss is learning to stop (the token that ends a turn): "
            "text_learnability leaves it out"
        )
    return {"end of turn": "not known" if share is None else round(share, 4)}


def rules_of(methods: Mapping[str, Scorer]) -> dict[str, Any]:
    """Return what a selection must know of the scorers beyond their numbers."""
    limits = {
        name: limit
        for name, method in methods.items()
        if (limit := getattr(method, "max_score", None)) is not None
    }
    lowest = [name for name, method in methods.items() if not method.higher_is_better]
    return {"lowest first": lowest, "max score": limits}


class Passes:
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
        self, references: "References", whole: Callable[[str], "LanguageModel"], *, needs: set[str]
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
                measure = self._run(self._same_tokens(whole(part.name)), rendered, kinds, label)
            after[members] = mean_loss(measure, self._frame[members], store=self._store)
            ends[members] = end_nll(measure, self._frame[members], store=self._store)
        return [after, ends]

    def _same_tokens(self, whole: "LanguageModel") -> "LanguageModel":
        if whole.renderer.vocabulary != self._network.renderer.vocabulary:
            raise ModelError(
                f"the reference {whole.ref.name} has another tokenizer than the base model, so their losses cannot be "
                "compared",
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
