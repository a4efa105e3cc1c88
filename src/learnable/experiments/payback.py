"""The point where selection pays for itself, or that it does not."""

import math
from collections.abc import Iterable
from itertools import pairwise

from learnable.errors import UsageError


def payback(
    value: float,
    random_curve: Iterable[tuple[float, float]],
    *,
    tokens: float,
    seconds_per_token: float,
    selection_s: float,
    higher_is_better: bool,
) -> str:
    """Say after how many trainings a selection has earned its cost back, or that it does not, and why.

    Between two measured budgets the value of random data is taken to be linear in the logarithm of the tokens, and
    linear from the untuned model to the first budget. Where it reaches the value more than once, the fewest tokens
    count. All of it are means: whether the method differs from random at all is for ``difference`` to say.

    Args:
        value: What the method reaches; NaN where it could not be graded.
        random_curve: Pairs (training tokens, value) of random draws, in any order; the untuned model is at 0
            tokens, the full pool is the last point if it was measured. Pairs with a NaN are left out.
        tokens: Training tokens of the method.
        seconds_per_token: Of training.
        selection_s: Seconds for scoring and for training a reference.
        higher_is_better: False for losses.

    Raises:
        UsageError: If a number is negative, or the curve is empty or has a budget twice.
    """
    if not (tokens >= 0 and seconds_per_token > 0 and selection_s >= 0):
        raise UsageError(
            "tokens and seconds must not be negative, nor seconds per token 0, got "
            f"tokens={tokens}, seconds_per_token={seconds_per_token}, selection_s={selection_s}"
        )
    sign = 1 if higher_is_better else -1
    curve = _curve(random_curve, sign=sign)
    cost = f"the selection cost {_seconds(selection_s)}, as much as training on {selection_s / seconds_per_token:,.0f} tokens"
    if math.isnan(value):
        return f"not known: the value could not be graded; {cost}"
    reached = _reach(curve, sign * value)
    if reached is None:
        return f"random does not reach it with up to {curve[-1][0]:,.0f} tokens, the most measured; {cost}"
    if reached == curve[0][0] > tokens:
        # Somewhere below the first point, which is not the untuned model, random may be as good.
        return f"not known: random reaches it with {reached:,.0f} tokens, the least measured; {cost}"
    if reached == 0:
        return "never: the untuned model is as good"
    if reached <= tokens:
        return f"never: random reaches the same value with {reached:,.0f} tokens, the selection takes {tokens:,.0f}"
    saved_s = (reached - tokens) * seconds_per_token
    trainings = math.ceil(selection_s / saved_s)
    first = "already after the first training" if trainings <= 1 else f"after {trainings:,} trainings"
    return (
        f"{first}: random needs {reached:,.0f} tokens for the same value, the selection {tokens:,.0f}, which saves "
        f"{_seconds(saved_s)} per training; the selection cost {_seconds(selection_s)} once"
    )


def _curve(points: Iterable[tuple[float, float]], *, sign: int) -> list[tuple[float, float]]:
    """Return (tokens, value) by tokens, with values of which more is better."""
    curve = sorted((float(tokens), sign * float(value)) for tokens, value in points if not math.isnan(value))
    budgets = [tokens for tokens, _ in curve]
    if not curve or min(budgets) < 0 or len(set(budgets)) < len(budgets):
        raise UsageError(
            f"random's curve needs graded values at different numbers of tokens, got tokens {budgets}",
            hint="average the seeds of one budget first",
        )
    return curve


def _reach(curve: list[tuple[float, float]], value: float) -> float | None:
    """Return the fewest tokens at which the curve is at least at the value; None if it never is."""
    if curve[0][1] >= value:
        return curve[0][0]
    for (left, below), (right, above) in pairwise(curve):
        if above >= value:
            # The left end is below the value, or an earlier point would have reached it.
            share = (value - below) / (above - below)
            # Written so that both ends come out exact.
            return right * share if left == 0 else right * math.exp((share - 1) * math.log(right / left))
    return None


def _seconds(number: float) -> str:
    return f"{number:,.0f} s" if number >= 10 else f"{number:.2g} s"
