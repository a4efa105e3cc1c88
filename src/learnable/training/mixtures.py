"""Batches drawn from several sources in proportions that are fixed, or that follow the losses while the training runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from learnable.proportions import FLOOR, Proportions, Schedule, steps_of
from learnable.runs.progress import say
from learnable.settings import Tuning
from learnable.training import devices
from learnable.training.power_law import PowerLaw, fit, smoothed
from learnable.types import Rendered

SHARE_RATE, SHARE_POWER = 0.1, 0.5
"""How fast the moving shares follow what is drawn, and to which power they count."""
NEWEST = 0.1
"""Of the proportions: what the losses say now; the rest is what they said on average."""
MANY_EPOCHS = 4
HELDOUT_ROWS, HELDOUT_PART = 32, 10
"""Rows of a source whose loss is followed: at most, and one of so many."""
_FRAME = {"step": pl.Int64, "source": pl.String, "pi": pl.Float64, "h": pl.Float64, "tokens": pl.Int64}
_FRAME |= dict.fromkeys(("L", "heldout", "eps", "beta", "alpha"), pl.Float64)


class ADO:
    """Adaptive data optimization: the proportions of K sources, from how fast the loss of each falls.

    A source gets more where a power law says that its loss will fall faster with the next token, whichever source that
    is of; times the prior, and the root of what it was given lately. What is asked for moves slowly.

    Args:
        prior: Shares at the start, (K,), 1 in all.
        schedule: When it looks.
        heldout: Whether the losses that are fitted are those of held-out rows.

    Source: ADO (arXiv 2410.11820) and its code, where n counts all sources alike. When it looks is ours: a training here
        has hundreds of steps, not 60,000.
    """

    def __init__(self, prior: NDArray[np.float64], *, schedule: Schedule, heldout: bool) -> None:
        self.weights, self.recent = prior.copy(), prior.copy()
        self.laws: list[PowerLaw] | None = None
        self.heldout = heldout
        self._prior, self._schedule = prior, schedule
        self._mean, self._tokens, self._updates = prior.copy(), 0.0, 0
        self._points = list[list[float]]()

    def observe(self, step: int, tokens: NDArray[np.int64], losses: NDArray[np.float64]) -> None:
        """Take note of a step: the tokens of each source, (K,), and its loss in nats per token, (K,)."""
        self._tokens += float(tokens.sum())
        self.recent = (1 - SHARE_RATE) * self.recent + SHARE_RATE * tokens / tokens.sum()
        if not self.heldout and step >= self._schedule.start:
            self.look(losses)
        if self.laws is not None:
            self._move()

    def is_due(self, step: int) -> bool:
        """Return whether the losses of held-out rows are wanted after a step."""
        since = step - self._schedule.start
        return self.heldout and since >= 0 and since % self._schedule.every == 0

    def look(self, losses: NDArray[np.float64]) -> None:
        """Keep a point of each curve, (K,), after the last step that was observed, and fit them where that is due."""
        self._points.append([self._tokens, *losses.tolist()])
        least = self._schedule.points * self._schedule.thin
        since = len(self._points) - least
        if since >= 0 and (self.heldout or since % self._schedule.every == 0):
            self._fit()

    def _fit(self) -> None:
        points = np.array(self._points)
        kept = slice(None, None, -self._schedule.thin)
        tokens = points[kept, 0][::-1]
        curves = (
            points[:, 1:] if self.heldout else np.stack([smoothed(each) for each in points[:, 1:].T], axis=1)
        )
        laws = [fit(tokens, curve[kept][::-1]) for curve in curves.T]
        if all(law is not None for law in laws):
            self.laws = [law for law in laws if law is not None]

    def _move(self) -> None:
        """Set the proportions of the next step."""
        slopes = np.array([law.slope(self._tokens) for law in self.laws or ()])
        wanted = floored(self._prior * self.recent**SHARE_POWER * slopes)
        self.weights = (1 - NEWEST) * self._mean + NEWEST * wanted
        self.weights /= self.weights.sum()
        # After the proportions, not before; at the start the prior weighs as much as the steps before it.
        self._updates += 1
        weight = 1 / (self._schedule.start + self._updates)
        self._mean = (1 - weight) * self._mean + weight * wanted

    def state(self) -> dict[str, Any]:
        """Return all that later proportions depend on."""
        return {
            "weights": self.weights.tolist(),
            "recent": self.recent.tolist(),
            "mean": self._mean.tolist(),
            "laws": None if self.laws is None else [list(law) for law in self.laws],
            "tokens": self._tokens,
            "updates": self._updates,
            "points": torch.tensor(self._points, dtype=torch.float64),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self.weights, self.recent = np.array(state["weights"]), np.array(state["recent"])
        self._mean, self._tokens, self._updates = np.array(state["mean"]), state["tokens"], state["updates"]
        self.laws = None if state["laws"] is None else [PowerLaw(*law) for law in state["laws"]]
        self._points = state["points"].tolist()


def floored(wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return shares, (K,), of which none is under ``FLOOR`` before all are made 1 again."""
    shares = np.maximum(wanted / wanted.sum(), FLOOR)
    floors: NDArray[np.float64] = shares / shares.sum()
    return floors


class MixedBatches:
    """Draws examples of K sources so that their tokens have given proportions.

    An example is of a source with a chance of its share over the mean length of its examples. Each source is shuffled, and
    begun anew where it is used up. A step ends where all steps so far have their tokens, ``batch_tokens`` each: trainings
    of other proportions see as many tokens in as many steps, to within an example.

    Args:
        lengths: Tokens of each example, (N,).
        counted: Those that the loss counts, (N,).
        domains: The source of each example, as a position in ``names``, (N,).
        names: Of the sources.
        weights: Share of the tokens of each, (K,).
        steps: Of the training.
        batch_tokens: Of one step.
        seed: Seeds the draws and the order of each source.
        online: Moves the shares.
        heldout: Positions that are not drawn: their loss is what ``online`` follows.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        counted: Sequence[int],
        domains: Sequence[int],
        *,
        names: Sequence[str],
        weights: NDArray[np.float64],
        steps: int,
        batch_tokens: float,
        seed: int,
        online: ADO | None = None,
        heldout: Sequence[int] = (),
    ) -> None:
        self.steps, self.tokens = steps, round(steps * batch_tokens)
        self._lengths, self._counted = np.asarray(lengths), np.asarray(counted, dtype=np.float64)
        self._domains, self._names = np.asarray(domains), list(names)
        self._weights, self._batch_tokens, self._seed = weights, batch_tokens, seed
        self._online, self._heldout = online, list(heldout)
        drawn = np.ones(len(self._lengths), dtype=np.bool_)
        drawn[self._heldout] = False
        self._members = [np.flatnonzero(drawn & (self._domains == k)) for k in range(len(names))]
        self._mean_tokens = np.array([self._lengths[each].mean() for each in self._members])
        self._taken, self._drawn_tokens = np.zeros(len(names), dtype=np.int64), 0
        self._last = np.full(len(names), np.nan)
        self._rows = list[list[list[float]]]()  # of each step, of each source: the columns of the frame
        self._looked = list[list[float]]()  # the step, and the loss of each source
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}

    @property
    def weights(self) -> NDArray[np.float64]:
        """The share of the tokens of the next step that each source has, (K,)."""
        return self._weights if self._online is None else self._online.weights

    def batch(self, step: int) -> list[int]:
        """Return the positions of the examples that a step takes; the same again until the step is observed."""
        rng = np.random.default_rng([self._seed, step])
        chances = np.cumsum(self.weights / self._mean_tokens)
        taken, tokens, found = self._taken.copy(), self._drawn_tokens, list[int]()
        while not found or tokens < (step + 1) * self._batch_tokens:
            domain = int(np.searchsorted(chances, rng.random() * chances[-1], side="right"))
            position = self._place(domain, int(taken[domain]))
            taken[domain] += 1
            tokens += int(self._lengths[position])
            found.append(position)
        return found

    def _place(self, domain: int, number: int) -> int:
        """Return which example a source gives, of all that it has given so far."""
        members = self._members[domain]
        epoch, place = divmod(number, len(members))
        if self._orders.get(domain, (-1,))[0] != epoch:
            rng = np.random.default_rng([self._seed, domain, epoch, 1])
            self._orders[domain] = (epoch, rng.permutation(len(members)))
        return int(members[self._orders[domain][1][place]])

    def observe(self, step: int, examples: Sequence[int], nll: NDArray[np.float32]) -> None:
        """Take note of a step that was done, with the nll of each answer, (n, m)."""
        places, counts = np.asarray(examples), len(self._names)
        domains, shares = self._domains[places], self.weights
        tokens = np.bincount(domains, self._lengths[places], counts).astype(np.int64)
        losses = self._losses(places, nll)
        # A source that is not in the batch has the loss of its last one; at first that of the batch.
        whole = float(np.sum(nll, dtype=np.float64)) / float(self._counted[places].sum())
        last = np.where(np.isfinite(self._last), self._last, whole)
        self._last = np.where(np.isnan(losses), last, losses)
        before, self._taken = self._taken, self._taken + np.bincount(domains, minlength=counts)
        self._drawn_tokens += int(tokens.sum())
        self._warn(step, before)
        laws, recent = [PowerLaw(np.nan, np.nan, np.nan)] * counts, np.full(counts, np.nan)
        if self._online is not None:
            laws = self._online.laws or laws
            recent = self._online.recent
            self._online.observe(step, tokens, self._last)
        columns = zip(shares, recent, tokens, losses, laws, strict=True)
        self._rows.append([[share, h, count, loss, *law] for share, h, count, loss, law in columns])

    def _losses(self, places: NDArray[np.int64], nll: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the loss of each source, in nats per counted token, (K,); NaN where there is none of it."""
        domains, counts = self._domains[places], len(self._names)
        nats = np.bincount(domains, np.sum(nll, axis=1, dtype=np.float64), counts)
        counted = np.bincount(domains, self._counted[places], counts)
        found: NDArray[np.float64] = np.divide(nats, counted, out=np.full(counts, np.nan), where=counted > 0)
        return found

    def _warn(self, step: int, before: NDArray[np.int64]) -> None:
        """Say of a source that it is begun once more than loss curves can stand."""
        for name, members, was, now in zip(self._names, self._members, before, self._taken, strict=True):
            if was <= MANY_EPOCHS * len(members) < now and devices.is_main():
                say(
                    f"warning: step {step + 1} begins {name} ({len(members):,} rows) for the {MANY_EPOCHS + 1}th time: "
                    "what its training loss falls by from here may be memory"
                )

    def probe(self, step: int) -> list[int]:
        """Return the examples whose nll is wanted after a step that was observed."""
        return self._heldout if self._online is not None and self._online.is_due(step) else []

    def probed(self, step: int, nll: NDArray[np.float32]) -> None:
        """Take note of the nll of the examples that ``probe`` wanted, (n, m)."""
        losses = self._losses(np.asarray(self._heldout), nll)
        self._looked.append([float(step), *losses.tolist()])
        if self._online is not None:
            self._online.look(losses)

    def frame(self) -> pl.DataFrame:
        """Return what was drawn: a line for each step and source.

        Returns:
            ``step`` from 0; ``source``; ``pi``, its share of the tokens, and ``h``, the moving share, before the step;
            ``tokens`` that were drawn; ``L``, its loss in the step, in nats per token; ``heldout``, the loss of rows that
            are never drawn, after the step; ``eps``, ``beta`` and ``alpha`` of the law in force, with n in tokens. NaN where
            there is none.
        """
        looked = {int(step): losses for step, *losses in self._looked}
        lines = [
            (step, name, share, h, int(tokens), loss, looked.get(step, {k: np.nan})[k], *law)
            for step, sources in enumerate(self._rows)
            for k, (name, (share, h, tokens, loss, *law)) in enumerate(zip(self._names, sources, strict=True))
        ]
        return pl.DataFrame(lines, schema=_FRAME, orient="row")

    def state(self) -> dict[str, Any]:
        """Return all that later batches depend on, and what is told of the earlier ones."""
        return {
            "taken": self._taken.tolist(),
            "tokens": self._drawn_tokens,
            "last": self._last.tolist(),
            "rows": torch.tensor(self._rows, dtype=torch.float64),
            "looked": torch.tensor(self._looked, dtype=torch.float64),
            "online": None if self._online is None else self._online.state(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self._taken, self._drawn_tokens = np.array(state["taken"]), state["tokens"]
        self._last = np.array(state["last"])
        self._rows, self._looked = state["rows"].tolist(), state["looked"].tolist()
        if self._online is not None:
            self._online.load(state["online"])


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """Makes the batches of a training, as ``fine_tune`` asks for them; ``sources`` go by the id of an example's first answer."""

    proportions: Proportions
    sources: Mapping[str, str]

    def __call__(self, examples: Sequence[tuple[Rendered, ...]], tuning: Tuning) -> MixedBatches:
        """Return batches of as many tokens as ``batch_size`` examples have on average.

        Raises:
            UsageError: If these sources cannot be mixed so, or ADO has too few steps.
        """
        lengths = np.array([sum(len(answer.ids) for answer in example) for example in examples])
        counted = [sum(int(answer.mask[1:].sum()) for answer in example) for example in examples]
        sources = [self.sources[example[0].id] for example in examples]
        names = sorted(set(sources))
        domains = np.array([names.index(name) for name in sources])
        steps = steps_of(tuning, len(examples))
        self.proportions.check(dict(zip(names, np.bincount(domains).tolist(), strict=True)), tuning)
        tokens = np.bincount(domains, lengths).astype(np.int64)
        own = dict(zip(names, tokens.tolist(), strict=True))
        prior = self.proportions.shares(own)
        weights, batch_tokens = np.array(list(prior.values())), tuning.batch_size * float(lengths.mean())
        online, heldout = None, list[int]()
        if self.proportions.online:
            aside = self.proportions.holds_out(own, passes=steps * tuning.batch_size / len(examples))
            heldout = _aside(domains) if aside else []
            online = ADO(weights, schedule=Schedule.of(steps, heldout=aside), heldout=aside)
        return MixedBatches(
            lengths.tolist(),
            counted,
            domains.tolist(),
            names=names,
            weights=weights,
            steps=steps,
            batch_tokens=batch_tokens,
            seed=tuning.seed_of_order,
            online=online,
            heldout=heldout,
        )


def _aside(domains: NDArray[np.int64]) -> list[int]:
    """Return a few examples of each source; the same ones for every seed of a training."""
    rng, found = np.random.default_rng(0), list[int]()
    for domain in range(int(domains.max()) + 1):
        own = np.flatnonzero(domains == domain)
        size = min(HELDOUT_ROWS, max(1, len(own) // HELDOUT_PART))
        found += sorted(rng.choice(own, size, replace=False).tolist())
    return found
