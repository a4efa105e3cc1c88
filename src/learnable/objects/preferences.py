"""Preference pairs as a training takes them: rendered, with the nll of their answers under the model that it starts from."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import polars as pl

from learnable.data import prompt_key
from learnable.data.pairs import answers_of
from learnable.deferred import models
from learnable.errors import DataError, UsageError
from learnable.experiments.preferences import RenderedPair
from learnable.measures import known, measure_of, take
from learnable.objectives import LEAST_NATS, PREFERENCES, DavIR, Objective
from learnable.objects.given import opened, render_rows
from learnable.runs.progress import say
from learnable.runs.store import Store
from learnable.settings import Tuning
from learnable.spec import build
from learnable.types import ModelRef, Pair

RATES = {"lora": 5e-5, "full": 5e-7}
"""Learning rates of preference trainings where none is given, by method."""
FAR_FROM_AUTO = 4.0
"""Times the beta that goes with the nll, or that part of it, from which a beta is said to be far off."""


def rendered_pairs(
    renderer: "models.Renderer", pairs: Sequence[Pair], *, max_length: int, most_refused: float
) -> tuple[list[RenderedPair], dict[str, str]]:
    """Return pairs as the model sees them, and why others are none there, by id.

    An answer that is cut off, has no token or reads like the other one cannot be compared with it.

    Raises:
        DataError: If there is no pair left.
    """
    answers = [answer for pair in pairs for answer in answers_of(pair)]
    rendered = render_rows(renderer, answers, max_length=max_length, most_refused=most_refused)
    kept, dropped = list[RenderedPair](), dict[str, str]()
    for pair, chosen, rejected in zip(pairs, rendered[::2], rendered[1::2], strict=True):
        each = RenderedPair(
            id=pair.id,
            prompt=prompt_key(pair, draw="prompt"),
            source=pair.source,
            chosen=chosen,
            rejected=rejected,
        )
        if reason := _why_not(each, max_length):
            dropped[pair.id] = reason
        else:
            kept.append(each)
    if not kept:
        raise DataError(
            f"none of {len(pairs):,} pairs can be compared: {next(iter(dropped.values()), 'there are none')}",
            hint="raise --max-length, or look at them with `learnable show`",
        )
    if dropped:
        reasons = pl.Series(list(dropped.values())).value_counts(sort=True)
        told = ", ".join(f"{number:,} {reason}" for reason, number in reasons.iter_rows())
        say(f"{len(dropped):,} of {len(pairs):,} pairs are left out: {told}")
    return kept, dropped


def _why_not(pair: RenderedPair, max_length: int) -> str | None:
    if refused := next((each.refused for each in pair.answers if each.refused), None):
        return f"refused by the chat template: {refused}"
    if any(each.truncated for each in pair.answers):
        return f"with an answer beyond {max_length:,} tokens"
    if not pair.is_whole:
        return "with an answer without a token"
    if np.array_equal(pair.chosen.ids, pair.rejected.ids):
        return "with two answers that the chat template makes one"
    return None


def reference_nll(
    ref: ModelRef,
    pairs: Sequence[RenderedPair],
    *,
    max_length: int,
    store: Store,
    load: "Callable[[ModelRef], models.LanguageModel]" = opened,
) -> tuple[pl.DataFrame, int]:
    """Return ``id`` and ``reference_nll`` (nats) of each answer, and how many tokens were computed for it in this run."""
    measure = measure_of(models.identify(ref), rendering=models.Renderer.of(ref).key, max_length=max_length)
    answers = {answer.id: answer for pair in pairs for answer in pair.answers}
    how: dict[str, Any] = {"store": store, "label": "nll of the reference"}
    tokens = take(lambda: nullcontext(load(ref)), [measure], list(answers.values()), **how)
    return known(measure, list(answers), store=store).select("id", reference_nll="nll"), tokens


def check_loss(written: str) -> Objective:
    """Return a loss of pairs as it is written, before any nll is known.

    Raises:
        UsageError: If there is none of this name, or it is not one of pairs.
    """
    loss = build("loss", written, PREFERENCES)
    if loss.answers != 2:
        raise UsageError(f"{written} is no loss of pairs: it takes {loss.answers} answers of an example")
    return loss


def loss_of(written: str, reference: pl.DataFrame) -> tuple[Objective, list[str]]:
    """Return a loss of pairs, its beta by the ``reference_nll`` where none is written, and what is to be said of it."""
    loss, nll = check_loss(written), reference["reference_nll"].to_numpy()
    if not isinstance(loss, DavIR):
        return loss, []
    auto, notes = loss.scaled_to(nll), list[str]()
    if "@" not in written:
        loss = auto
        say(
            f"{written}: beta {auto.beta:.4g}, 0.1 times the median of the reference nll, {np.median(nll):,.1f} nats"
        )
    elif not 1 / FAR_FROM_AUTO < loss.beta / auto.beta < FAR_FROM_AUTO:
        notes.append(
            f"{written}: a beta of {auto.beta:.4g} would give the typical answer the gradient that DPO has at 0.1. "
            f"This one is {loss.beta / auto.beta:.2g} times it: it trains {'next to nothing' if loss.beta < auto.beta else 'hard'}."
        )
    if few := int((nll < LEAST_NATS).sum()):
        notes.append(
            f"{written}: {few:,} of {len(nll):,} answers have a reference nll below {LEAST_NATS:g} nat, and count as if it were that."
        )
    return loss, notes


Settings = TypeVar("Settings", bound=Tuning)


def with_rate(tuning: Settings) -> Settings:
    """Return settings of a training on pairs, with the learning rate of preferences where none is given."""
    return tuning if tuning.learning_rate is not None else replace(tuning, learning_rate=RATES[tuning.method])
