"""Held-out demonstrations beside what each model answers itself: which it prefers, and how far it went from the start."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl

from learnable.commands.network import Network
from learnable.commands.own_answers import CUT_OFF, EQUAL, own_answers
from learnable.deferred import models
from learnable.diversifiers.drawing import Drawing
from learnable.evaluators.kinds import GRADES
from learnable.experiments import Measured
from learnable.experiments.run import Place
from learnable.measures import end_of_turn, nll_of
from learnable.runs.identity import fingerprint
from learnable.runs.progress import say
from learnable.runs.store import Store
from learnable.settings import Sampling
from learnable.types import Example, Rendered

PREFERRED = Measured(label="demonstration preferred", unit="share preferred", higher_is_better=True)
FAR_NATS = 1.0
"""KL from the start, in nats per token, above which a model hardly is what its stages began with."""
_TEXTS = dict.fromkeys(("id", "source", "own_id", "text", "why"), pl.String)
_NATS = dict.fromkeys(("nll", "own_nll"), pl.Float64)
OWN = _TEXTS | {"own_tokens": pl.Int64} | _NATS
"""Columns of what a model answers to demonstrations: ``why`` where the two are no pair, and no number then."""


@dataclass(frozen=True, kw_only=True)
class Preferred:
    """Asks models for answers of their own to held-out demonstrations, with one seed for all.

    At temperature 1 how much likelier these are than under the start estimates KL. ``seen`` are demonstrations and answers
    as the models saw them, by id.
    """

    network: Network
    heldout: Sequence[Example]
    sampling: Sampling
    store: Path
    seen: dict[str, Rendered] = field(default_factory=dict)

    def look(self, model: "models.LanguageModel", _: pl.DataFrame) -> pl.DataFrame:
        """Return what a model answers, and how likely it finds its answers and the demonstrations; columns as ``OWN``."""
        draw = Drawing(generator=model, sampling=self.sampling, store=Store(self.store))
        owns = own_answers(draw, self.heldout, seed=0, when="held out", label="own answers, held out")
        pairs = [own for own in owns if own.refused in ("", EQUAL, CUT_OFF)]
        both = [example for own in pairs for example in (own.demonstration, own.example)]
        rendered = model.renderer.render(both, max_length=self.network.longest, skip_refused=True)
        for place, own in enumerate(pairs):
            if own.refused == CUT_OFF:
                rendered[2 * place + 1] = _without_end(rendered[2 * place + 1], model.renderer.end_ids)
        answered = {own.demonstration.id: seen for own, seen in zip(pairs, rendered[1::2], strict=True)}
        self.seen.update({each.id: each for each in rendered})
        nll = self._nll(model, rendered, "held out")[0]
        lines = list[tuple[str | float | None, ...]]()
        for own in owns:
            row, seen = own.demonstration, answered.get(own.demonstration.id)
            why = "" if own.refused == EQUAL else own.refused
            text = own.answer.text if own.answer else ""
            if seen is None or not {row.id, seen.id} <= nll.keys():
                why = why or "the chat template refuses it, or it is too long"
                lines.append((row.id, row.source, None, text, why, None, None, None))
                continue
            numbers = (int(seen.mask.sum()), nll[row.id], nll[seen.id])
            lines.append((row.id, row.source, seen.id, text, why, *numbers))
        return pl.DataFrame(lines, schema=OWN, orient="row")

    def since(
        self, own: pl.DataFrame, starts: Mapping[int, Place], *, beta: float
    ) -> tuple[pl.DataFrame, int]:
        """Return what was looked at with what each answer gained since the start of its seed, and the tokens computed.

        ``h`` is beta times what the demonstration gained above the own answer, null where that was cut off; ``gained`` is
        what the own answer did, in nats. Both are 0 for the start itself.
        """
        found, tokens = list[pl.DataFrame](), 0
        for seed, (ref, adapter) in starts.items():
            mine = own.filter(seed=seed)
            ids = sorted({*mine.drop_nulls("own_id")["id"], *mine["own_id"].drop_nulls()})
            model = self.network.open(ref)
            with model.adapter(adapter):
                nll, computed = self._nll(model, [self.seen[each] for each in ids], f"start, seed {seed}")
            tokens += computed
            found.append(
                mine.with_columns(start_nll=looked_up("id", nll), start_own_nll=looked_up("own_id", nll))
            )
        gained = pl.col("start_own_nll") - pl.col("own_nll")
        h = pl.when(pl.col("why") == "").then(beta * (pl.col("start_nll") - pl.col("nll") - gained))
        return pl.concat(found).with_columns(gained=gained, h=h), tokens

    def _nll(
        self, model: "models.LanguageModel", rendered: Sequence[Rendered], label: str
    ) -> tuple[dict[str, float], int]:
        longest, store = self.network.longest, Store(self.store)
        nll, tokens = nll_of(model, rendered, max_length=longest, store=store, label=label, counts=False)
        return dict(nll.iter_rows()), tokens


def looked_up(column: str, known: Mapping[str, float]) -> pl.Expr:
    """Return what is known by the ids in a column; null of others."""
    return pl.col(column).replace_strict(known, default=None, return_dtype=pl.Float64)


def _without_end(seen: Rendered, end_ids: Collection[int]) -> Rendered:
    """Return an answer without the token that ends it, which the model did not write."""
    counted, mask = np.flatnonzero(seen.mask), seen.mask.copy()
    mask[counted[end_of_turn(seen, end_ids)]] = False
    return replace(seen, id=fingerprint([seen.id, "without end"]), mask=mask)


def preferences(own: pl.DataFrame) -> pl.DataFrame:
    """Return, as results of an evaluation, whether each demonstration gained more than the model's own answer.

    A tie counts half: the start, from which gains are counted, has nothing else.
    """
    value = pl.when(pl.col("h").is_null()).then(float("nan")).otherwise((pl.col("h").sign() + 1) / 2)
    graded = own.with_columns(
        value=value.cast(GRADES["value"]), answer=pl.col("text"), evaluation=pl.lit(PREFERRED.label)
    )
    return graded.select("arm", "budget_tokens", "seed", "evaluation", *GRADES)


def distances(own: pl.DataFrame) -> pl.DataFrame:
    """Return how far each arm is from the start, ``kl_nats`` per token of its own answers, an estimate; and their counts.

    Of answers that were cut off the tokens there are count, not that they end.
    """
    return own.group_by("arm", "seed", maintain_order=True).agg(
        kl_nats=pl.col("gained").sum() / pl.col("own_tokens").sum(),
        h=pl.col("h").mean(),
        answers=pl.col("gained").count(),
        cut_off=(pl.col("why") == CUT_OFF).sum(),
    )


def far(distance: pl.DataFrame) -> list[str]:
    """Say which models went far from the start."""
    found = [
        f"{row['arm']}, seed {row['seed']}: its own answers are {row['kl_nats']:.2f} nats per token likelier than under the "
        f"start, above {FAR_NATS:g}: it answers what the start would not. Lower the learning rate, or raise --beta."
        for row in distance.iter_rows(named=True)
        if row["kl_nats"] is not None and row["kl_nats"] > FAR_NATS
    ]
    for each in found:
        say(f"warning: {each}")
    return found
