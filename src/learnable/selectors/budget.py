"""Fills a budget: shares for groups, and token budgets that are never exceeded."""

from collections.abc import Callable

import numpy as np

from learnable.selectors.vectors import Flags, Floats, Rows
from learnable.types import Budget

PASS_OVER = 20
"""Picks in a row that may be too long for what is left of a token budget before the selection ends.

Without an end, the last few tokens would be filled with any short row, however low its score.
"""

FILLED = 0.95
"""Share of a token budget that is enough for a method whose picks depend on how many are asked for."""

Picked = tuple[Rows, Floats]
Ask = Callable[[Rows, int], Picked]
"""From rows and how many to the rows picked, in their order, and their gains."""


def count_asked(budget: Budget, n: int) -> int:
    """Return how many tokens or examples a budget means for a pool of n examples."""
    if budget.fraction is not None:
        # 29% of a hundred million is 28999999.999999996 in floating point.
        return max(1, int(n * budget.fraction * (1 + 1e-12)))
    return budget.tokens or budget.examples or 0


def fill(
    ask: Ask,
    groups: list[Rows],
    *,
    tokens: Rows | None,
    total: int,
    equal: bool,
    rng: np.random.Generator,
    pinned: Flags,
    by_count: bool = False,
) -> Picked:
    """Return the rows picked from each group for its share of the budget, and their gains, best first.

    Args:
        ask: The method.
        groups: The rows of each group, in ascending order; several are ranked together by gain.
        tokens: Length of every row of the pool for a budget in tokens; None for one in examples.
        total: The budget.
        equal: Equal shares; else by the size of the groups.
        rng: What ``ask`` draws from.
        pinned: Rows that are chosen already, (n,): they are not picked, and count against the share of their group.
        by_count: Whether the first picks of the method depend on how many are asked for.
    """
    spent = _sizes([members[pinned[members]] for members in groups], tokens)
    left = _shares_left(_sizes(groups, tokens), spent, total, equal=equal)
    open_to_all = [members[~pinned[members]] for members in groups]
    asked = [(members, share) for members, share in zip(open_to_all, left, strict=True) if len(members)]
    if not asked:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
    if tokens is None:
        picked = [ask(members, share) for members, share in asked]
    else:
        picked = [_fit(ask, members, share, tokens, rng, by_count=by_count) for members, share in asked]
        if len(asked) > 1:
            # Each group leaves a few tokens that its next example does not fit; together they fit some more.
            free = np.zeros(len(tokens), dtype=np.bool_)
            free[np.concatenate([members for members, _ in asked])] = True
            free[np.concatenate([index for index, _ in picked])] = False
            unspent = sum(share for _, share in asked) - sum(int(tokens[index].sum()) for index, _ in picked)
            picked.append(_fit(ask, np.flatnonzero(free), unspent, tokens, rng, by_count=by_count))
    index, gain = (np.concatenate(part) for part in zip(*picked, strict=True))
    order = np.lexsort((index, -gain)) if len(asked) > 1 else np.arange(len(index))
    return index[order], gain[order]


def _sizes(groups: list[Rows], tokens: Rows | None) -> Rows:
    sizes = [len(members) if tokens is None else tokens[members].sum() for members in groups]
    return np.array(sizes, dtype=np.int64)


def _shares_left(sizes: Rows, spent: Rows, total: int, *, equal: bool) -> list[int]:
    """Return what is left of each share; a group that has spent more gets nothing, and the others less for it."""
    left = np.zeros(len(sizes), dtype=np.int64)
    within = np.ones(len(sizes), dtype=np.bool_)
    while within.any():
        rest = _shares(sizes[within], total - int(spent[~within].sum()), equal=equal) - spent[within]
        if (rest >= 0).all():
            left[within] = rest
            break
        within[np.flatnonzero(within)[rest < 0]] = False
    return [int(share) for share in left]


def _shares(sizes: Rows, total: int, *, equal: bool) -> Rows:
    """Return each group's part of the budget, in the unit of the sizes; the parts add up."""
    total = min(total, int(sizes.sum()))
    wanted = np.minimum(sizes, _water_level(sizes, total)) if equal else sizes * (total / max(sizes.sum(), 1))
    shares: Rows = np.floor(wanted + 1e-9).astype(np.int64)
    # Largest remainder: what rounding down left over goes, one by one, to those who lost most by it.
    shares[np.argsort(-(wanted - shares), kind="stable")[: total - int(shares.sum())]] += 1
    return shares


def _water_level(sizes: Rows, total: int) -> float:
    """Return the level at which ``sum(min(sizes, level))`` is ``total``."""
    ordered = np.sort(sizes)
    # Of what is left when the smaller ones have all of theirs; the first that reaches it, and all after it, get as much.
    levels = (total - (np.cumsum(ordered) - ordered)) / np.arange(len(ordered), 0, -1)
    return float(levels[np.argmax(ordered >= levels)])


def _fit(
    ask: Ask, members: Rows, share: int, tokens: Rows, rng: np.random.Generator, *, by_count: bool
) -> Picked:
    """Pick rows that fit into a share of tokens.

    Any number may be passed over, so that no count is enough for certain. It asks for a few, and for twice as many
    while the walk does not end: the first picks of a method do not depend on how many are asked for. Where they do
    (``by_count``), it asks for as many as fit by their mean length, and for some more while they do not fill the share.
    """
    if not len(members):
        return members, np.empty(0, dtype=np.float32)
    lengths, undrawn = tokens[members], rng.bit_generator.state
    if by_count:
        k, enough = max(1, round(share / max(float(lengths.mean()), 1.0))), FILLED * share
    else:
        k, enough = int(np.searchsorted(np.cumsum(np.sort(lengths)), share, side="right")) + PASS_OVER, np.inf
    while True:
        rng.bit_generator.state = undrawn
        index, gain = ask(members, min(k, len(members)))
        fits, ended = _walk(tokens[index], share, shortest=int(lengths.min()))
        if ended or tokens[index[fits]].sum() >= enough or k >= len(members):
            return index[fits], gain[fits]
        k += max(1, k // 8) if by_count else k


def _walk(lengths: Rows, left: int, *, shortest: int) -> tuple[Rows, bool]:
    """Return which of the picks fit, in turn, and whether more picks could change nothing."""
    spent = np.cumsum(lengths)
    first = int(np.searchsorted(spent, left, side="right"))  # the first that does not fit
    left -= int(spent[first - 1]) if first else 0
    more, passed_over = [], 0
    for position in range(first, len(lengths)):
        if lengths[position] <= left:
            more.append(position)
            left -= int(lengths[position])
            passed_over = 0
        elif (passed_over := passed_over + 1) >= PASS_OVER:
            break
    fits = np.concatenate([np.arange(first), np.array(more, dtype=np.int64)])
    return fits, passed_over >= PASS_OVER or left < shortest
