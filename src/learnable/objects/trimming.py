"""Which share of a pool a trimmed reference trains on: chosen by losses, and again by a reference on what was chosen."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import polars as pl

from learnable.deferred import training
from learnable.measures import Role, lengths
from learnable.objects.passes import Passes
from learnable.runs.progress import say
from learnable.runs.store import Store
from learnable.scorers import Learnability
from learnable.settings import Reference
from learnable.types import ModelRef, Rendered


def trimmed(
    ref: ModelRef,
    rendered: Sequence[Rendered],
    folder: Path,
    *,
    reference: Reference,
    max_length: int,
    store: Store,
    train: "Callable[[Path, Collection[str]], list[training.Trained]]",
) -> "tuple[set[str], list[training.Trained], int]":
    """Return the ids that a trimmed reference trains on, the trainings that chose them, and the tokens that were measured.

    The first choice is the ``share`` with the lowest base loss. With more rounds a reference trains on what was chosen,
    and the share with the highest learnability under it is chosen next. What has no score is never chosen.

    The examples are ``rendered`` with their questions. ``train`` trains a reference on some ids into a folder: ``round-1``
    and so on, of all rounds but the last.

    Source: ours; the first round is that of iterative trimmed loss minimization (Shen and Sanghavi, 1810.11874), whose
    later rounds take the lowest loss under the last model instead.
    """
    frame, tokens = lengths(rendered), 0

    def loss(after: "training.References | None") -> pl.Series:
        # The passes hold the weights that they loaded: they go before anything is trained.
        nonlocal tokens
        passes = Passes(ref, after, max_length=max_length, store=store)
        name = "loss_before" if after is None else "loss_after"
        role: Role = "base" if after is None else "reference"
        found = passes.columns(role, [name], rendered, frame, ends=passes.renderer.end_ids)[name]
        tokens += passes.tokens
        return found

    trainings: list[training.Trained] = []
    before = loss(None)
    chosen = _best(frame["id"], -before, share=reference.share)
    for number in range(1, reference.rounds):
        place = folder / f"round-{number}"
        trainings += train(place, chosen)
        after = loss(training.read_reference(place))
        scores = Learnability()(pl.DataFrame({"loss_before": before, "loss_after": after}))
        last, chosen = chosen, _best(frame["id"], pl.Series(scores), share=reference.share)
        say(f"round {number + 1} trains on {len(chosen):,} examples, {len(chosen - last):,} of them new")
    return chosen, trainings, tokens


def _best(ids: pl.Series, scores: pl.Series, *, share: float) -> set[str]:
    """Return the ids of this share of n examples with the highest scores; of equal ones the first ids."""
    ranked = pl.DataFrame({"id": ids, "score": scores}).fill_nan(None).drop_nulls()
    ranked = ranked.sort("score", "id", descending=[True, False])
    return set(ranked["id"].head(max(1, round(share * len(ids)))))
