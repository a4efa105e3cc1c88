"""The loss of each token of a few examples, before and after: what `show` and `report` look at."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from learnable.errors import ModelError
from learnable.measures import column, lengths, measure_of, take
from learnable.pages.tokens import TokenView, token_view
from learnable.runs.store import Store
from learnable.types import Example, ModelRef, Rendered

if TYPE_CHECKING:
    from learnable.models import LanguageModel
    from learnable.training import Part, References


def opened(ref: ModelRef) -> "LanguageModel":
    """Return a model, its weights loaded here."""
    from learnable.models import LanguageModel

    return LanguageModel(ref)


class TokenLosses:
    """Measures single tokens; a model is loaded only for what the store does not hold.

    Args:
        ref: The base model.
        references: The models after; None leaves the loss after out.
        max_length: Longest example in tokens.
        store: Where measurements are kept.
        base: The base model, where it is loaded already.

    Attributes:
        renderer: Of the base model.
        tokens: How many were measured, not counting what the store held.
    """

    def __init__(
        self,
        ref: ModelRef,
        references: "References | None",
        *,
        max_length: int,
        store: Store,
        base: "LanguageModel | None" = None,
    ) -> None:
        from learnable.models import Renderer
        from learnable.models.dtype import resolved
        from learnable.models.source import identify

        ref = resolved(ref)
        self._ref, self._references = ref, references
        self._max_length, self._store, self._given = max_length, store, base
        self.renderer, self._base_key = Renderer.of(ref), identify(ref)
        self.tokens = 0

    def views(self, examples: Sequence[Example]) -> list[TokenView]:
        """Return the pieces of n examples with their losses.

        Raises:
            ModelError: If a model cannot be loaded, does not fit the base, or its template refuses an example.
            StoreError: If measurements cannot be read.
        """
        rendered = self.renderer.render(examples, max_length=self._max_length)
        before = self._measured(None, rendered, "base loss by token")
        after = self._after(rendered)
        views = []
        for example, each in zip(examples, rendered, strict=True):
            text = self.renderer.text(example.messages, tools=example.tools)
            encoded = self.renderer.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            views.append(
                token_view(
                    example.id,
                    text,
                    np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2),
                    each.mask,
                    before=before[each.id],
                    after=after[each.id] if after else None,
                )
            )
        return views

    def _after(self, rendered: Sequence[Rendered]) -> dict[str, NDArray[np.float32]]:
        """Return the losses under the reference; each example by the part that did not train on it."""
        if self._references is None:
            return {}
        found: dict[str, NDArray[np.float32]] = {}
        for part, members in self._references.members([each.id for each in rendered]):
            if members:
                mine = [rendered[position] for position in members]
                found |= self._measured(part, mine, "reference loss by token")
        return found

    def _measured(
        self, part: "Part | None", rendered: Sequence[Rendered], label: str
    ) -> dict[str, NDArray[np.float32]]:
        """Return the loss of each scored token under the base model, or a part of the reference, by id."""
        measure = measure_of(
            self._key(part), rendering=self.renderer.key, max_length=self._max_length, kind="token_nll"
        )
        self.tokens += take(lambda: self._loaded(part), [measure], rendered, store=self._store, label=label)
        losses = column(measure, lengths(rendered), store=self._store).to_list()
        return {
            example.id: np.asarray(values or [], dtype=np.float32)
            for example, values in zip(rendered, losses, strict=True)
        }

    def _key(self, part: "Part | None") -> str:
        from learnable.models import Renderer
        from learnable.models.source import adapter_key, identify, is_adapter

        if part is None:
            return self._base_key
        if part.kind == "adapter":
            if not is_adapter(Path(part.name)):
                raise ModelError(
                    f"there is no LoRA adapter in {part.name}",
                    hint="was it moved or deleted? train the reference again",
                )
            return adapter_key(self._base_key, Path(part.name))
        whole = self._whole(part)
        Renderer.of(whole).check_same_tokens(self.renderer.vocabulary, name=part.name)
        return identify(whole)

    def _whole(self, part: "Part") -> ModelRef:
        return replace(self._ref, name=part.name, revision=None)

    @contextmanager
    def _loaded(self, part: "Part | None") -> "Iterator[LanguageModel]":
        if part is not None and part.kind == "model":
            yield opened(self._whole(part))
        elif part is not None:
            with self._base.adapter(Path(part.name)):
                yield self._base
        else:
            yield self._base

    @cached_property
    def _base(self) -> "LanguageModel":
        return self._given or opened(self._ref)
