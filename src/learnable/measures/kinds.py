"""Measures: what a model pass says of an example, stored once by the example's id. To add one, give it an entry here."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.types import Awaited, Launch, Rendered

Role = Literal["base", "reference", "alone", "null", "target", "similarity", "gradient", "costate", "words"]
"""Which model measures what.

The base model or the reference measures the whole example; the base model measures the answer alone, and so does
``null``, the model fine-tuned on answers alone. ``target`` is the base model fine-tuned on the rows of a target. The others
compare with these rows: ``similarity`` by hidden states, ``gradient`` by gradients at the checkpoints of a warm-up,
``costate`` by a short training run backwards, ``words`` by n-grams and without a model.
"""
AIMED: frozenset[Role] = frozenset({"target", "similarity", "gradient", "costate", "words"})
"""What is measured against a target."""
PASSES: Mapping[Role, str] = {
    "base": "base",
    "alone": "answer-alone",
    "reference": "reference",
    "null": "null-reference",
    "target": "after-target",
    "similarity": "embedding",
    "gradient": "gradient-per-epoch",
    "costate": "costate",
}
"""Names of the passes that roles cost; the others cost none."""
Row = tuple[Any, ...]
"""What is stored of one example under one kind, without its id."""


def as_found(_: Rendered, found: Any, __: Collection[int]) -> Any:
    """Return what the pass found for an example, as it is."""
    return found


@dataclass(frozen=True, kw_only=True)
class MeasureKind:
    """A kind of measure: its pass, what the store keeps of it, and its columns in a table of scores.

    Args:
        name: Part of the measure's identity, and of its folder in the store.
        stored: Columns of the store beside ``id``, with their types.
        launch: Begins a batch, and gives what waits for one value per example; None for what no batch of examples is
            made for, such as answers. Kinds with one launch share its pass.
        value: What is stored of the value that the pass found for an example, given the tokens that end a turn; None
            where nothing is.
        columns: Columns of a table of scores, and what each is measured under.
        column: Makes such a column of what is stored, null where nothing is, one value for each row of a frame with
            ``response_tokens``; the same when not given.
    """

    name: str
    stored: Mapping[str, Any]
    launch: Launch | None = None
    value: Callable[[Rendered, Any, Collection[int]], Any] = as_found
    columns: Mapping[str, Role] = field(default_factory=dict)
    column: Callable[[pl.Series, pl.DataFrame], pl.Series] = lambda stored, _: stored

    @property
    def is_number(self) -> bool:
        """Whether the store keeps one number of an example."""
        return [kind.is_numeric() for kind in self.stored.values()] == [True]

    def frame(self, rows: Sequence[Row]) -> pl.DataFrame:
        """Return rows of an id and what is stored beside it, as the store keeps them."""
        ids, *columns = zip(*rows, strict=True) if rows else [()] * (1 + len(self.stored))
        # Of arrays of one length polars makes its Array type, whatever is asked for: parts of one measure would differ.
        kept = [
            pl.Series(name, values, dtype=kind).cast(kind)
            for (name, kind), values in zip(self.stored.items(), columns, strict=True)
        ]
        return pl.DataFrame([pl.Series("id", ids, dtype=pl.String), *kept])


def token_nll(network: Any, rendered: Sequence[Rendered], layout: Any) -> Awaited:
    """Begin to compute the nll of each response token, float32 (R,) for an example of R response tokens."""
    from learnable.models.losses import batch_token_nll

    return batch_token_nll(network, rendered, layout)


def end_of_turn(example: Rendered, end_ids: Collection[int]) -> NDArray[np.bool_]:
    """Return which of the R response tokens of an example end a turn, bool (R,): the last of an answer, where it is one.

    An answer that was cut off ends with none of ``end_ids``, see ``Renderer.end_ids``.
    """
    counted = np.flatnonzero(example.mask)
    ends: NDArray[np.bool_] = np.append(np.diff(counted) > 1, True)[: len(counted)]
    for place in np.flatnonzero(ends):
        ends[place] = int(example.ids[counted[place]]) in end_ids
    return ends


def _sum(losses: NDArray[np.float32]) -> float:
    """Return a sum as the loss engine adds up."""
    return float(np.cumsum(losses, dtype=np.float64)[-1])


def _end_nll(example: Rendered, losses: NDArray[np.float32], end_ids: Collection[int]) -> float | None:
    return _sum(np.where(end_of_turn(example, end_ids), losses, 0)) if end_ids else None


def _float32(values: pl.Series, _: pl.DataFrame | None = None) -> pl.Series:
    return values.fill_null(float("nan")).cast(pl.Float32)


def embedding(network: Any, rendered: Sequence[Rendered], layout: Any) -> Awaited:
    """Begin to compute the vector of each example, float32 (d,)."""
    from learnable.models.losses import batch_embeddings

    return batch_embeddings(network, rendered, layout)


_KINDS = (
    # Vectors of an example: a mean of the model's last hidden states, and the gradient at a checkpoint, by its cosines with
    # those of each part of a target, or a sketch of it.
    MeasureKind(
        name="embedding",
        stored={"embedding": pl.List(pl.Float32)},
        launch=embedding,
        columns={"similarities": "similarity"},
    ),
    MeasureKind(
        name="gradient_cosines",
        stored={"gradient_cosines": pl.List(pl.Float32)},
        columns={"gradient_cosines": "gradient"},
    ),
    MeasureKind(name="gradient_sketch", stored={"gradient_sketch": pl.List(pl.Float32)}),
    # The nll of the response tokens in nats: of all together, of those that end a turn, and of each.
    MeasureKind(
        name="nll",
        stored={"nll": pl.Float64},
        launch=token_nll,
        value=lambda _, losses, __: _sum(losses),
        columns={
            "loss_before": "base",
            "loss_after": "reference",
            "loss_alone": "alone",
            "loss_null": "null",
            "loss_target": "target",
        },
        column=lambda nll, frame: _float32(nll / frame["response_tokens"]),
    ),
    MeasureKind(
        name="end_nll",
        stored={"end_nll": pl.Float64},
        launch=token_nll,
        value=_end_nll,
        columns={"end_nll_before": "base", "end_nll_after": "reference"},
        column=_float32,
    ),
    MeasureKind(
        name="token_nll",
        stored={"token_nll": pl.List(pl.Float32)},
        launch=token_nll,
        columns={
            "token_losses_before": "base",
            "token_losses_alone": "alone",
            "token_losses_after": "reference",
        },
    ),
    # What belongs to this pool and this target alone.
    MeasureKind(
        name="log_importance", stored={"log_importance": pl.Float64}, columns={"log_importance": "words"}
    ),
    MeasureKind(name="worth", stored={"worth": pl.Float32}, columns={"worth": "costate"}),
    # What models write: greedy completions, verdicts over two of them, draws; and what a server counts in a given text.
    MeasureKind(name="completion", stored={"completion": pl.String}),
    MeasureKind(name="verdict", stored={"value": pl.Float64, "why": pl.String}),
    MeasureKind(name="draw", stored={"text": pl.String, "finished": pl.Boolean}),
    MeasureKind(name="text_tokens", stored={"text_tokens": pl.Int64}),
)
MEASURES: Mapping[str, MeasureKind] = {kind.name: kind for kind in _KINDS}
COUNTS = ("response_tokens", "tokens", "end_tokens")
"""Columns that rendering alone gives."""
_MEASURED = {column: (kind, role) for kind in MEASURES.values() for column, role in kind.columns.items()}
COLUMNS = (*_MEASURED, *COUNTS)
"""What a scorer may need."""
LISTS = tuple(name for name, (kind, _) in _MEASURED.items() if not kind.is_number)
"""Those of one list for each example: they stay in the store, a table of scores has one number in each cell."""


def roles_of(columns: Collection[str]) -> set[Role]:
    """Return what some columns are measured under: each costs a pass."""
    return {_MEASURED[name][1] for name in columns if name in _MEASURED}


def kinds_of(columns: Collection[str], role: Role) -> list[MeasureKind]:
    """Return the kinds of measures that give some columns under a role."""
    found = [_MEASURED[name] for name in _MEASURED if name in columns]
    return [kind for kind, under in found if under == role]


def known_beside(kinds: Collection[MeasureKind], role: Role, *, ends: bool) -> list[MeasureKind]:
    """Return the kinds whose numbers the passes of others give at no cost under a role.

    ``ends`` says whether the tokens that end a turn are told apart, as where models are compared.
    """
    launches = {kind.launch for kind in kinds}
    given = [kind for kind in MEASURES.values() if kind.launch in launches and role in kind.columns.values()]
    new = [kind for kind in given if kind.is_number and kind not in kinds]
    return [kind for kind in new if ends or kind.name != "end_nll"]


def numbers_of(columns: Collection[str]) -> set[str]:
    """Return all columns of numbers that a table of scores has whose scorers need some columns."""
    roles, numbers = roles_of(columns), set(COUNTS)
    for role in roles:
        needed = kinds_of(columns, role)
        kinds = [*needed, *known_beside(needed, role, ends="reference" in roles)]
        numbers |= {column_of(kind, role) for kind in kinds if kind.is_number}
    return numbers if "reference" in roles else numbers - {"end_tokens"}


def column_of(kind: MeasureKind, role: Role) -> str:
    """Return the name of a kind's column under a role."""
    return next(name for name, under in kind.columns.items() if under == role)
