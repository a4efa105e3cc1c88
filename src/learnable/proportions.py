"""In what proportions a training draws its tokens from the sources of its rows: fixed, or found while it runs (ADO)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import PurePath
from typing import Literal, Self, get_args

import polars as pl

from learnable.errors import UsageError, did_you_mean
from learnable.settings import Tuning
from learnable.types import Rendered

Prior = Literal["natural", "uniform"]
Curve = Literal["auto", "training", "heldout"]
NAMES = ("ado", *get_args(Prior))
_SETTINGS = {"prior": get_args(Prior), "curve": get_args(Curve)}
FLOOR = 0.01
"""The least share of a source that ADO asks for, before it is smoothed."""
FEWEST_POINTS = {"training": 20, "heldout": 6}
"""Of a curve that is fitted. A loss of held-out rows is that of the same rows each time, and so needs fewer."""
MOST_REPEATS = 2.0
"""Of a source, above which its training loss is not followed: what it falls by is partly memory."""
OFF_BY = 0.005
"""How far shares may be from 1 in all: they were rounded."""
_HINT = "write ado, natural, uniform, or the share of each source: a=0.7,b=0.3"


@dataclass(frozen=True, kw_only=True)
class Proportions:
    """What share of the tokens each source has.

    Args:
        prior: ``natural`` (the tokens that each source has), ``uniform`` (of all sources alike), or a share for each.
        online: ADO: the shares follow, from there, how fast the loss of each source falls.
        curve: The losses that ADO follows: those that the training meets, or of rows that are held out of it for that;
            ``auto`` takes held-out rows where a source would be repeated more than twice.
    """

    prior: Prior | tuple[tuple[str, float], ...] = "natural"
    online: bool = False
    curve: Curve = "auto"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``ado``, ``natural``, ``uniform``, ``a=0.7,b=30%``, or ``ado@prior=uniform,curve=heldout``.

        Behind ``ado@`` shares may stand too: of the sources, to begin with.

        Raises:
            UsageError: If it is none of these, or the shares are not above 0, or not 1 in all.
        """
        name, at, settings = text.partition("@")
        if name in NAMES and not at:
            return cls(online=True) if name == "ado" else cls(prior=name)  # type: ignore[arg-type]
        if name != "ado" and "=" not in text:
            raise UsageError(f"no mixture called {text!r}", hint=f"{did_you_mean(name, NAMES)}; or {_HINT}")
        if name != "ado":
            return cls(prior=_shares(text, text.split(",")))
        found, shares = cls(online=True), list[str]()
        for setting in settings.split(","):
            key, _, value = setting.partition("=")
            if value in _SETTINGS.get(key, ()):
                found = replace(found, **{key: value})  # type: ignore[arg-type]
            elif key in _SETTINGS or not value:
                raise UsageError(
                    f"cannot read {setting!r} of the mixture {text!r}",
                    hint="prior is natural or uniform, curve is auto, training or heldout",
                )
            else:
                shares.append(setting)
        return replace(found, prior=_shares(text, shares)) if shares else found

    def __str__(self) -> str:
        settings = [] if self.curve == "auto" else [f"curve={self.curve}"]
        if isinstance(self.prior, str):
            settings += [f"prior={self.prior}"] * (self.online and self.prior != "natural")
            name = "ado" if self.online else self.prior
            return f"{name}@{','.join(settings)}" if settings else name
        settings += [f"{source}={share:g}" for source, share in self.prior]
        return "ado@" * self.online + ",".join(settings)

    def shares(self, tokens: Mapping[str, int]) -> dict[str, float]:
        """Return the share of each source that has tokens, at the start; in their order, 1 in all.

        Raises:
            UsageError: If there is one source only, or the shares are of other sources.
        """
        if len(tokens) < 2:
            raise UsageError(
                f"there is nothing to mix: all rows are of {next(iter(tokens), 'no source')}",
                hint="give a file for each source, or name the column that tells them with --source-column",
            )
        if self.online and len(tokens) * FLOOR >= 1:
            raise UsageError(
                f"{len(tokens)} sources cannot each have {FLOOR:.0%} of the tokens, which is the least of ADO",
                hint="put small sources together",
            )
        if self.prior == "uniform":
            return dict.fromkeys(tokens, 1 / len(tokens))
        if isinstance(self.prior, str):
            return {name: own / sum(tokens.values()) for name, own in tokens.items()}
        given = {_named(name, tokens): share for name, share in self.prior}
        if missing := [name for name in tokens if name not in given]:
            raise UsageError(
                f"the mixture {self} says nothing of {', '.join(missing)}",
                hint="every source needs a share; leave files out that are not to be trained on",
            )
        total = sum(given.values())
        return {name: given[name] / total for name in tokens}

    def check(self, rows: Mapping[str, int], tuning: Tuning) -> None:
        """Say what cannot be mixed so in a training, from the numbers of rows.

        Raises:
            UsageError: As ``shares``; or if ADO has too few steps, or a source too few rows, to see a loss fall.
        """
        self.shares(rows)
        if not self.online:
            return
        if small := [f"{name} ({count})" for name, count in rows.items() if count < tuning.batch_size]:
            raise UsageError(
                f"ADO cannot follow the loss of sources with fewer rows than a batch, {tuning.batch_size}: {', '.join(small)}",
                hint="lower --batch-size, put small sources together, or take a fixed mixture",
            )
        steps = steps_of(tuning, sum(rows.values()))
        Schedule.of(
            steps, heldout=self.holds_out(rows, passes=steps * tuning.batch_size / sum(rows.values()))
        )

    def holds_out(self, tokens: Mapping[str, int], *, passes: float) -> bool:
        """Return whether ADO follows held-out rows, in a training of as many tokens as so many passes over all have."""
        if self.curve != "auto":
            return self.curve == "heldout"
        total = sum(tokens.values())
        seen = {name: passes * share * total / tokens[name] for name, share in self.shares(tokens).items()}
        return max(seen.values()) > MOST_REPEATS


def steps_of(tuning: Tuning, rows: int) -> int:
    """Return how many steps a training on a mixture of so many rows takes, each of ``batch_size`` rows on average."""
    return ceil(tuning.epochs * (tuning.steps or ceil(rows / tuning.batch_size)))


def tokens_by_source(rendered: Sequence[Rendered], sources: Sequence[str]) -> dict[str, int]:
    """Return the tokens of each source, in the order of their names, from rows and the source of each."""
    found = dict.fromkeys(sorted(set(sources)), 0)
    for row, source in zip(rendered, sources, strict=True):
        found[source] += len(row.ids)
    return found


def shares_drawn(mixture: pl.DataFrame, tokens: Mapping[str, int]) -> pl.DataFrame:
    """Return what a training drew of each source, in their order.

    Args:
        mixture: What it wrote as ``mixture.parquet``, see ``training.mixtures.MixedBatches.frame``.
        tokens: That each source has.

    Returns:
        ``source``; ``share`` of all tokens that were drawn; ``mean``, ``first`` and ``last``, the proportions of all steps,
        of the first and of the last; ``times`` that its tokens were seen.
    """
    drawn = mixture.group_by("source").agg(
        pl.col("tokens").sum(),
        mean=pl.col("pi").mean(),
        first=pl.col("pi").sort_by("step").first(),
        last=pl.col("pi").sort_by("step").last(),
    )
    own = pl.DataFrame({"source": list(tokens), "own": list(tokens.values())})
    share, times = pl.col("tokens") / pl.col("tokens").sum(), pl.col("tokens") / pl.col("own")
    return own.join(drawn, on="source", maintain_order="left").select(
        "source", share=share, mean="mean", first="first", last="last", times=times
    )


def _named(name: str, sources: Mapping[str, int]) -> str:
    """Return the source of a name, which may be that of its file without the ending."""
    if name in sources:
        return name
    alike = [source for source in sources if PurePath(source).stem == name]
    if len(alike) != 1:
        raise UsageError(f"there is no source called {name!r}", hint=did_you_mean(name, sources))
    return alike[0]


def _shares(text: str, written: list[str]) -> tuple[tuple[str, float], ...]:
    """Read ``a=0.7`` and ``b=30%``; the shares are 1 in all."""
    found = dict[str, float]()
    for pair in written:
        name, _, value = pair.strip().rpartition("=")
        percent = value.endswith("%")
        try:
            share = float(value.removesuffix("%")) / (100 if percent else 1)
        except ValueError as error:
            raise UsageError(f"cannot read {pair!r} of the mixture {text!r}", hint=_HINT) from error
        if not name or name in found:
            raise UsageError(f"cannot read {pair!r} of the mixture {text!r}", hint=_HINT)
        if not 0 < share <= 1:
            raise UsageError(f"a share is above 0 and at most 1, got {pair!r}", hint=_HINT)
        found[name] = share
    if abs(sum(found.values()) - 1) > OFF_BY:
        raise UsageError(f"the shares of {text!r} are {sum(found.values()):g} in all, not 1", hint=_HINT)
    return tuple(found.items())


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When ADO looks, in steps.

    Args:
        start: Steps that no fit looks at: the learning rate rises, and losses fall as fast as it lets them.
        every: Between two fits, and between two looks at held-out rows.
        thin: Of the smoothed losses, every so many is fitted.
        points: Fewest of a fit.
        first: Steps that are done when the first fit is made.
    """

    start: int
    every: int
    thin: int
    points: int
    first: int

    @classmethod
    def of(cls, steps: int, *, heldout: bool) -> Self:
        """Return the schedule of a training.

        Raises:
            UsageError: If it ends before the first fit.
        """
        found = cls._of(steps, heldout=heldout)
        if found.first < steps:
            return found
        least = next(more for more in range(steps, 10_000) if cls._of(more, heldout=heldout).first < more)
        raise UsageError(
            f"ADO cannot fit a curve to {steps:,} steps: the first fit is made after {found.first:,}",
            hint=f"give at least --steps {least}, or "
            + ("follow the training's own losses: ado@curve=training" if heldout else "take a fixed mixture"),
        )

    @classmethod
    def _of(cls, steps: int, *, heldout: bool) -> Self:
        start, every = max(steps // 20, 40), max(steps // 20, 20)
        points = FEWEST_POINTS["heldout" if heldout else "training"]
        thin = 1 if heldout else max(1, steps // 600)
        first = start + (1 + (points - 1) * every if heldout else points * thin)
        return cls(start=start, every=every, thin=thin, points=points, first=first)
