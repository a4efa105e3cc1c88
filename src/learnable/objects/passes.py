"""What models say of examples: columns of a table of scores, and the loss of each token of a few."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from learnable.deferred import models, training
from learnable.errors import ModelError
from learnable.measures import column, kinds_of, lengths, measure_of, take
from learnable.measures.kinds import Role, column_of, known_beside
from learnable.objects.given import opened
from learnable.pages.tokens import TokenView, token_view
from learnable.runs.store import Store
from learnable.types import Example, Measure, ModelRef, Rendered

LABELS: dict[Role, str] = {
    "base": "base loss",
    "alone": "answer-alone loss",
    "reference": "reference loss",
    "null": "answer-alone loss of the null reference",
    "target": "loss after the target",
    "similarity": "embedding",
}


class Passes:
    """Measures what is not stored yet; a model is loaded only where something is missing.

    ``ref`` is the base model, its dtype resolved, and ``whole`` a reference that is not loaded as the base is;
    ``load`` loads a model, into this process when not given. ``tokens`` counts what was measured; ``of`` says of which rows.
    """

    def __init__(
        self,
        ref: ModelRef,
        references: "training.References | None" = None,
        *,
        max_length: int,
        store: Store,
        load: "Callable[[ModelRef], models.LanguageModel] | None" = None,
        whole: ModelRef | None = None,
    ) -> None:
        self.references, self.ref, self._whole = references, ref, whole
        self.max_length, self.store, self._load = max_length, store, load or opened
        self.renderer, self._base_key = models.Renderer.of(ref), models.identify(ref)
        self.tokens, self.of = 0, ""
        self._beside: tuple[ModelRef, models.LanguageModel] | None = None

    def columns(
        self,
        role: Role,
        needs: Collection[str],
        rendered: Sequence[Rendered],
        frame: pl.DataFrame,
        *,
        references: "training.References | None" = None,
        ends: Collection[int] | None = None,
        label: str = "",
    ) -> pl.DataFrame:
        """Return the needed columns of a role, n rows; those of a reference are by the part that did not train on them.

        With ``ends``, the tokens that end a turn, also the numbers that the same passes know at no cost. ``references``
        measure in the roles of null and target.
        """
        label = LABELS[role] + label
        wanted = kinds_of(needs, role)
        also = [] if ends is None else known_beside(wanted, role, ends=bool(ends))

        def measured(
            part: "training.Part | None", rows: Sequence[Rendered], ids: pl.DataFrame, of: str
        ) -> pl.DataFrame:
            key, alone = self.key(part), role in ("alone", "null")
            measures = [self.measure(key, kind.name, alone=alone) for kind in (*wanted, *also)]
            self.tokens += take(
                lambda: self.opened(part),
                measures[: len(wanted)],
                rows,
                store=self.store,
                label=label + of + self.of,
                also=measures[len(wanted) :],
                end_ids=ends or (),
            )
            kinds = zip((*wanted, *also), measures, strict=True)
            return pl.DataFrame(
                {column_of(kind, role): column(one, ids, store=self.store) for kind, one in kinds}
            )

        references = self.references if role == "reference" else references
        if references is None:
            return measured(None, rendered, frame, "")
        found, parts = [], references.members(frame["id"].to_list())
        for number, (part, members) in enumerate(parts, start=1):
            if members:
                of = f", part {number} of {len(parts)}" if len(parts) > 1 else ""
                mine = measured(part, [rendered[position] for position in members], frame[members], of)
                found.append(mine.with_columns(row=pl.Series(members, dtype=pl.Int64)))
        return pl.concat(found).sort("row").drop("row")

    def vectors(self, rendered: Sequence[Rendered], frame: pl.DataFrame) -> pl.Series:
        """Return a vector of the base model for each example, List(Float32) (n,)."""
        return self.columns("similarity", ["similarities"], rendered, frame)["similarities"]

    def views(self, examples: Sequence[Example]) -> list[TokenView]:
        """Return the pieces of n examples with the losses of their tokens."""
        rendered = self.renderer.render(examples, max_length=self.max_length)
        frame, names = lengths(rendered), ["token_losses_before"]
        losses = self.columns("base", names, rendered, frame, label=" by token")
        if self.references is not None:
            names.append("token_losses_after")
            losses = losses.hstack(self.columns("reference", names, rendered, frame, label=" by token"))
        views = []
        for example, each, row in zip(examples, rendered, losses.select(names).iter_rows(), strict=True):
            text = self.renderer.text(example.messages, tools=example.tools)
            encoded = self.renderer.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            offsets = np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
            nats = [np.asarray(values or [], dtype=np.float32) for values in row]
            after = nats[1] if len(nats) > 1 else None
            views.append(token_view(example.id, text, offsets, each.mask, before=nats[0], after=after))
        return views

    def measure(self, key: str, kind: str, **more: Any) -> Measure:
        """Return the identity of a pass of a model of this key, see ``measure_of``."""
        return measure_of(key, rendering=self.renderer.key, max_length=self.max_length, kind=kind, **more)

    def key(self, part: "training.Part | None") -> str:
        """Return the identity of the base model, or of a part of the reference, whose tokens must be the same."""
        if part is None:
            return self._base_key
        if part.kind == "adapter":
            if not models.is_adapter(Path(part.name)):
                raise ModelError(
                    f"there is no LoRA adapter in {part.name}",
                    hint="was it moved or deleted? train the reference again",
                )
            return models.adapter_key(self._base_key, Path(part.name))
        whole = self._ref_of(part)
        models.Renderer.of(whole).check_same_tokens(self.renderer.vocabulary, name=part.name)
        return models.identify(whole)

    def _ref_of(self, part: "training.Part") -> ModelRef:
        return self._whole or replace(self.ref, name=part.name, revision=None)

    @contextmanager
    def opened(self, part: "training.Part | None") -> "Iterator[models.LanguageModel]":
        """Give the base model, or a part of the reference, its weights loaded."""
        if part is None:
            yield self._base
        elif part.kind == "model":
            ref = self._ref_of(part)
            if self._beside is None or self._beside[0] != ref:
                self._beside = None  # two of them may not fit the memory
                self._beside = ref, self._load(ref)
            yield self._beside[1]
        else:
            with self._base.adapter(Path(part.name)):
                yield self._base

    @cached_property
    def _base(self) -> "models.LanguageModel":
        return self._load(self.ref)
