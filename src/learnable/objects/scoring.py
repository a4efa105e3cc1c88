"""Scores of rows: the passes that the formulas need, and the formulas."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.errors import UsageError
from learnable.measures import (
    COLUMNS,
    LISTS,
    Role,
    answers_alone,
    column,
    column_of,
    end_of_turn,
    kinds_of,
    known_beside,
    lengths,
    measure_of,
    roles_of,
    take,
)
from learnable.runs.progress import say
from learnable.runs.store import Store
from learnable.scorers import END_OF_TURN_SHARE, end_of_turn_share
from learnable.types import Example, Measure, Pool, Rendered, Scorer

if TYPE_CHECKING:
    from learnable.models import LanguageModel
    from learnable.training import References

Vectors = Literal["none", "model", "wordllama"]
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
    compared = references if "reference" in roles_of(needs) else None
    passes = Passes(network, rendered, frame, store, max_length, needs, ends=compared is not None)
    frame = frame.with_columns(*passes.base(), *passes.alone())
    if compared is not None:
        frame = frame.with_columns(passes.reference(compared, whole))
    frame = frame.with_columns(
        pl.Series(name, method(frame), dtype=pl.Float32) for name, method in methods.items()
    )
    found = None if vectors == "none" else passes.vectors(vectors, list(pool.iter_examples()))
    # What is known of each token stays in the store; a table of scores has one number in each cell.
    frame = frame.drop(LISTS, strict=False)
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


def as_array(vectors: pl.Series) -> NDArray[np.float32]:
    """Return vectors as one array, (n, d); an example without a vector has NaN in it."""
    rows = vectors.to_list()
    width = max((len(row) for row in rows if row is not None), default=0)
    return np.array([row if row is not None else [np.nan] * width for row in rows], dtype=np.float32)


def needs_of(methods: Mapping[str, Scorer], *, has_reference: bool, keeps_losses: bool) -> set[str]:
    """Return the columns that scorers need.

    Args:
        methods: Scorers by name.
        has_reference: Whether there is one to compare with.
        keeps_losses: Whether the reference kept the losses of its last epoch.

    Raises:
        UsageError: If a column is not measured, or not without a reference, or not with this one.
    """
    wanting = sorted(name for name, method in methods.items() if "reference" in roles_of(method.needs))
    if wanting and not has_reference:
        raise UsageError(
            f"{', '.join(wanting)} compares with a reference model, and none is given",
            hint="make one with `learnable train DATA -o reference`, then give --reference reference",
        )
    needs = {column for method in methods.values() for column in method.needs}
    if unknown := sorted(needs - set(COLUMNS)):
        raise UsageError(
            f"a scorer needs {', '.join(unknown)}, which is not measured",
            hint=f"measured: {', '.join(sorted(COLUMNS))}",
        )
    if keeps_losses and {kind.name for kind in kinds_of(needs, "reference")} - {"nll"}:
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
    """Measures what is missing of the columns that are needed, and remembers how many tokens that took."""

    def __init__(
        self,
        network: "LanguageModel",
        rendered: Sequence[Rendered],
        frame: pl.DataFrame,
        store: Store,
        max_length: int,
        needs: Collection[str],
        *,
        ends: bool,
    ) -> None:
        self._network, self._rendered, self._frame = network, rendered, frame
        self._store, self._max_length, self._needs = store, max_length, needs
        # What a model learns about stopping is known at no cost wherever a pass is made to compare.
        self._end_ids = network.renderer.end_ids if ends else frozenset()
        self.tokens = 0

    def base(self) -> list[pl.Series]:
        """Return the columns of the base model, (n,) each; with ends also how many tokens these are."""
        columns = self._columns("base", self._network, self._rendered, self._frame, "base loss")
        if self._end_ids:
            ends = [int(end_of_turn(example, self._end_ids).sum()) for example in self._rendered]
            columns.append(pl.Series("end_tokens", ends, dtype=pl.Int64))
        return columns

    def alone(self) -> list[pl.Series]:
        """Return the columns of the answers without their instructions, (n,) each."""
        if "alone" not in roles_of(self._needs):
            return []
        answers = answers_alone(self._rendered, header=self._network.renderer.answer_header)
        return self._columns("alone", self._network, answers, self._frame, "answer-alone loss")

    def reference(self, references: "References", whole: Callable[[str], "LanguageModel"]) -> pl.DataFrame:
        """Return the columns of the reference, n rows; each example is measured by the part that did not train on it."""
        if references.last_epoch is not None:
            say("reference loss: as the last epoch of its training met it, no pass")
            loss = references.last_epoch_loss(self._frame).alias("loss_after")
            return pl.DataFrame(loss).with_columns(end_nll_after=pl.lit(float("nan"), dtype=pl.Float32))
        measured = []
        for number, (part, members) in enumerate(references.members(self._frame["id"].to_list())):
            of = f", part {number + 1} of {len(references.parts)}" if len(references.parts) > 1 else ""
            given = (
                [self._rendered[position] for position in members],
                self._frame[members],
                f"reference loss{of}",
            )
            if part.kind == "adapter":
                with self._network.adapter(Path(part.name)):
                    columns = self._columns("reference", self._network, *given)
            else:
                network = whole(part.name)
                network.renderer.check_same_tokens(self._network.renderer.vocabulary, name=part.name)
                columns = self._columns("reference", network, *given)
            measured.append(pl.DataFrame([pl.Series("row", members, dtype=pl.Int64), *columns]))
        return pl.concat(measured).sort("row").drop("row")

    def vectors(self, kind: Vectors, examples: list[Example]) -> pl.Series:
        """Return a vector for each example, List(Float32) (n,)."""
        if kind == "wordllama":
            from learnable.models import StaticEmbedder

            return pl.Series(StaticEmbedder().embed(examples), dtype=pl.List(pl.Float32))
        embedding = self._measure(self._network, "embedding")
        self.tokens += take(
            lambda: nullcontext(self._network),
            [embedding],
            self._rendered,
            store=self._store,
            label="embedding",
        )
        return column(embedding, self._frame, store=self._store)

    def _columns(
        self,
        role: Role,
        network: "LanguageModel",
        rendered: Sequence[Rendered],
        frame: pl.DataFrame,
        label: str,
    ) -> list[pl.Series]:
        """Return the needed columns of a role, and the numbers that the same passes give, (n,) each."""
        wanted = kinds_of(self._needs, role)
        also = known_beside(wanted, role, ends=bool(self._end_ids))
        measures = {
            kind.name: self._measure(network, kind.name, alone=role == "alone") for kind in (*wanted, *also)
        }
        first, others = ([measures[kind.name] for kind in kinds] for kinds in (wanted, also))
        self.tokens += take(
            lambda: nullcontext(network),
            first,
            rendered,
            store=self._store,
            label=label,
            also=others,
            end_ids=self._end_ids,
        )
        return [
            column(measures[kind.name], frame, store=self._store).alias(column_of(kind, role))
            for kind in (*wanted, *also)
        ]

    def _measure(self, network: "LanguageModel", kind: str, *, alone: bool = False) -> Measure:
        rendering = self._network.renderer.key
        return measure_of(
            network.key, rendering=rendering, max_length=self._max_length, kind=kind, alone=alone
        )
