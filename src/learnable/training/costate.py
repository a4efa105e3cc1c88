"""How much each row would help a target if a training saw more of it: the costate of a short training run backwards.

The optimal weights of rows minimize the sum of the target's loss over a training. By Pontryagin's principle a row is worth
``s = rate * sum over t of <costate at t + 1, gradient of the row's loss at t>``, where the costate begins with the target's
gradient at the end and is carried back through the steps of the training.

No gradient of a row is taken: products with the costate are differences of two losses, at points a little before and
behind along it. So are the products of the training's curvature with the costate, from two gradients.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from learnable.errors import TrainError
from learnable.models.network import without_dropout
from learnable.runs.files import replacing
from learnable.runs.progress import bar, say
from learnable.training.batches import batch_of
from learnable.training.memory import free_bytes
from learnable.training.passes import TrainingPasses
from learnable.types import Rendered

AGREES = 0.1
"""Relative error of differences of losses, against gradients, from which on they are refused."""
CHECKED = 8
"""Rows whose differences are held against gradients."""
STEPS = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)
"""Lengths of a difference that are tried, as shares of the parameters' norm."""


class Losses(Protocol):
    """The losses of n rows at a point of parameters, float32 (P,)."""

    def __len__(self) -> int:
        """Return n."""

    def losses(self, at: torch.Tensor, rows: Sequence[int] | None = None) -> NDArray[np.float64]:
        """Return the mean loss per token of some rows, or of all, in nats, (n,)."""

    def gradient(self, at: torch.Tensor, rows: Sequence[int] | None = None) -> torch.Tensor:
        """Return the gradient of the mean of these losses, (P,)."""


@dataclass(frozen=True, kw_only=True)
class Worth:
    """What rows are worth to a target.

    ``scores`` float64 (n,), higher helps more; ``halves`` (2, n) are those of every other visit. ``target_before`` and
    ``target_after`` are the target's loss at either end of the training in nats per token; ``lengths`` the norms of the
    costate, the last step first, as far back as the pool was visited.
    """

    scores: NDArray[np.float64]
    halves: NDArray[np.float64]
    target_before: float
    target_after: float
    lengths: list[float] = field(default_factory=list)


def worth_of_rows(
    start: torch.Tensor,
    *,
    batches: Sequence[Sequence[int]],
    rate: float,
    training: Losses,
    target: Losses,
    pool: Losses,
    visit: int = 1,
    curvature: bool = True,
    state: Path | None = None,
) -> Worth:
    """Train by plain gradient descent, and carry the target's gradient back through the steps.

    Args:
        start: Parameters at the beginning, (P,).
        batches: Positions in ``training`` of the rows of each of T steps.
        rate: Learning rate.
        training: What the steps see.
        target: What is to become likely.
        pool: The n rows to value.
        visit: Every so many steps the pool is valued, the last one among them; 1 is every step.
        curvature: Whether steps bend the costate; without, it is a sum of the target's gradients.
        state: File that keeps how far the way back is after each visit; an earlier run's is gone on with.

    Raises:
        TrainError: If the memory is short, the target's loss did not fall, the costate is not finite, or no difference of
            losses agrees with gradients.

    Source: PDS (2410.07064), one outer step from equal weights, as its code does it. What differs: products by central
        differences instead of forward-mode derivatives; its code visits every tenth step.
    """
    count, every = len(batches), max(1, math.isqrt(len(batches)))
    _check_memory(start, count, every)
    points, back = {0: start}, _read(state, start.device)
    with bar("costate", 2 * count, unit="steps") as progress:
        for point, number in _forward(start, batches, training, rate=rate, first=0):
            if (number + 1) % every == 0 or number + 1 == count:
                points[number + 1] = point.clone()
            progress.advance(1)
        end = points[count]
        ends = [float(target.losses(point).mean()) for point in (start, end)]
        _check_fall(*ends, rate=rate)
        back = back or Backward.of(target.gradient(end), end, pool, count)
        progress.advance(count - back.number)
        last = (count - 1) % visit  # no earlier step is visited, so the costate there is not needed
        between = dict[int, torch.Tensor]()
        for number in range(back.number - 1, last - 1, -1):
            if number not in between:
                between = _segment(points, number, batches, training, rate=rate)
            here, costate = between.pop(number), back.costate
            if visited := (count - 1 - number) % visit == 0:
                half = (count - 1 - number) // visit % 2
                back.scores[half] += rate * _along(pool.losses, here, costate, back.step)
            back.costate = costate + target.gradient(here)
            if curvature:
                bend = partial(training.gradient, rows=batches[number])
                back.costate -= rate * _along(bend, here, costate, back.step)
            back.lengths.append(_norm(back.costate, number))
            back.number = number
            if visited and state is not None:
                back.write(state)
            progress.advance(1)
        progress.advance(last)
    return back.worth(*ends)


def _check_memory(start: torch.Tensor, count: int, every: int) -> None:
    """Refuse what does not fit: points that are kept, those of a segment, and what one step takes."""
    needed, free = start.nbytes * (count // every + every + 6), free_bytes(start.device)
    if needed > free:
        raise TrainError(
            f"{count} steps of {start.numel():,} parameters take {needed / 1e9:.3g} GB of memory, and "
            f"{free / 1e9:.3g} GB are free",
            hint="give --aim.space lora, fewer --aim.steps, or a smaller model",
        )


@dataclass(kw_only=True)
class Backward:
    """How far the way back is: before which step, the costate there, what was found, and the length of a difference."""

    number: int
    costate: torch.Tensor
    scores: NDArray[np.float64]
    lengths: list[float]
    step: float

    @classmethod
    def of(cls, costate: torch.Tensor, end: torch.Tensor, pool: Losses, count: int) -> "Backward":
        """Return its beginning, at the ``end`` of a training of so many steps."""
        return cls(
            number=count,
            costate=costate,
            scores=np.zeros((2, len(pool))),
            lengths=[_norm(costate, count)],
            step=_agreeing_step(pool, end, costate),
        )

    def worth(self, target_before: float, target_after: float) -> Worth:
        """Return what was found, with the target's loss at either end of the training."""
        return Worth(
            scores=self.scores.sum(axis=0),
            halves=self.scores,
            target_before=target_before,
            target_after=target_after,
            lengths=self.lengths,
        )

    def write(self, state: Path) -> None:
        """Keep it in a file, see ``_read``."""
        with replacing(state) as part:
            torch.save(vars(self) | {"scores": torch.from_numpy(self.scores)}, part)


def _read(state: Path | None, device: torch.device) -> Backward | None:
    if state is None or not state.is_file():
        return None
    known = torch.load(state, weights_only=True, map_location=device)
    return Backward(**known | {"scores": known["scores"].cpu().numpy()})


def _forward(
    point: torch.Tensor, batches: Sequence[Sequence[int]], training: Losses, *, rate: float, first: int
) -> Iterator[tuple[torch.Tensor, int]]:
    """Yield the parameters after each step, and the number of the step."""
    for number, rows in enumerate(batches, start=first):
        point = point - rate * training.gradient(point, rows)
        yield point, number


def _segment(
    kept: dict[int, torch.Tensor],
    last: int,
    batches: Sequence[Sequence[int]],
    training: Losses,
    *,
    rate: float,
) -> dict[int, torch.Tensor]:
    """Return the parameters before the steps from the last kept one up to ``last``, trained again to the same bits."""
    first = max(number for number in kept if number <= last)
    points = {first: kept[first]}
    for point, number in _forward(kept[first], batches[first:last], training, rate=rate, first=first):
        points[number + 1] = point
    return points


def _agreeing_step(pool: Losses, at: torch.Tensor, costate: torch.Tensor) -> float:
    """Return the length of a difference at which products agree best with gradients, on a few rows."""
    rows = list(range(min(CHECKED, len(pool))))
    exact = np.array([float(pool.gradient(at, [row]) @ costate) for row in rows])
    size, losses = max(float(np.linalg.norm(exact)), 1e-30), partial(pool.losses, rows=rows)
    errors = {step: float(np.linalg.norm(_along(losses, at, costate, step) - exact)) / size for step in STEPS}
    best = min(errors, key=lambda step: errors[step])
    say(
        f"differences of losses are within {errors[best]:.2%} of gradients, on {len(rows)} rows, at a step of {best:g}"
    )
    if not errors[best] <= AGREES:
        raise TrainError(
            f"differences of losses are off by {errors[best]:.0%} from gradients, whatever their length",
            hint="measure in float32: rounding hides what a small step changes",
        )
    return best


def _along(of: Callable[[torch.Tensor], Any], at: torch.Tensor, costate: torch.Tensor, step: float) -> Any:
    """Return what a little way along the costate changes, over that way and times the costate's length."""
    length = float(costate.double().norm())
    reach = step * max(float(at.double().norm()), 1.0)
    shift = costate * (reach / max(length, 1e-30))
    return (of(at + shift) - of(at - shift)) * (length / (2 * reach))


def _norm(costate: torch.Tensor, number: int) -> float:
    length = float(costate.double().norm())
    if not math.isfinite(length):
        raise TrainError(
            f"the costate is not finite before step {number + 1}",
            hint="lower the rate: it grows where rate times curvature is above 2",
        )
    return length


def _check_fall(before: float, after: float, *, rate: float) -> None:
    say(f"loss of the target: {before:.3f} before the training, {after:.3f} after it")
    if not after < before:
        raise TrainError(
            f"the target's loss did not fall in the training: {before:.4f} before, {after:.4f} after, rate {rate:g}",
            hint=f"try a rate of {rate / 3:.2g} where it rose, of {rate * 3:.2g} where it did not move",
        )


class NetworkLosses:
    """The losses of rows under a network whose trainable parameters are moved.

    Args:
        network: In float32; those of its parameters that take gradients are the point, each once.
        rows: n rows, each with a response token that something stands before.

    Attributes:
        tokens: Passed through the network so far; a gradient counts as three passes.
    """

    def __init__(self, network: Any, rows: Sequence[Rendered]) -> None:
        self._network, self._rows, self.tokens = network, rows, 0
        self._parameters = [each for each in network.parameters() if each.requires_grad]
        self._counted = np.array([int(row.mask[1:].sum()) for row in rows])
        longest = max(len(row.ids) for row in rows)
        self._passes = TrainingPasses(network, longest=longest, packs=False, mixed=False)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def point(self) -> torch.Tensor:
        """Where the parameters are, float32 (P,)."""
        return torch.cat([each.detach().float().flatten() for each in self._parameters]).clone()

    def losses(self, at: torch.Tensor, rows: Sequence[int] | None = None) -> NDArray[np.float64]:
        """Return the mean loss per token of some rows, or of all, in nats, (n,)."""
        asked = range(len(self._rows)) if rows is None else rows
        found = np.zeros(len(asked))
        with self._at(at), torch.no_grad():
            for part, nll in self._over(asked):
                places = [member.row for member in part]
                found[places] = nll.double().cpu().numpy()[places]
        return np.asarray(found / self._counted[list(asked)])

    def gradient(self, at: torch.Tensor, rows: Sequence[int] | None = None) -> torch.Tensor:
        """Return the gradient of the mean of these losses, (P,)."""
        asked = range(len(self._rows)) if rows is None else rows
        counted = torch.from_numpy(self._counted[list(asked)]).to(at.device)
        self._network.zero_grad()
        with self._at(at):
            for _, nll in self._over(asked):
                (nll / counted).sum().div(len(asked)).backward()  # type: ignore[no-untyped-call]
        # What no row of these passes through, such as an expert, has no gradient.
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in self._parameters]
        found = torch.cat([each.float().flatten() for each in gradients])
        self._network.zero_grad()
        return found

    def _over(self, asked: Sequence[int]) -> Iterator[tuple[list[Any], torch.Tensor]]:
        members = batch_of([(position, self._rows[position]) for position in asked])
        members.sort(key=lambda member: -len(member.example.ids))
        self.tokens += (3 if torch.is_grad_enabled() else 1) * sum(len(each.example.ids) for each in members)
        for part in self._passes.pieces(members):
            with self._passes.over(part, self._network, count=len(asked)) as (nll, _):
                yield part, nll

    @contextmanager
    def _at(self, point: torch.Tensor) -> Iterator[None]:
        """Move the parameters within a block."""
        before, place = [each.detach().clone() for each in self._parameters], 0
        with torch.no_grad():
            for each in self._parameters:
                each.copy_(point[place : place + each.numel()].view_as(each))
                place += each.numel()
        try:
            with without_dropout(self._network):
                yield
        finally:
            with torch.no_grad():
                for each, was in zip(self._parameters, before, strict=True):
                    each.copy_(was)
