"""Arms of a comparison: which examples each method gives to each training, and how long each trains."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from learnable.experiments.methods import Method
from learnable.runs.identity import fingerprint
from learnable.settings import Tuning


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One training: a method's choice at a budget, with a seed.

    Args:
        method: Label of the method.
        budget_tokens: What was asked for; None for the full pool and the untuned model.
        seed: Seeds the choice, if it draws, and the training.
        ids: The examples, in the order picked; none for the untuned model.
        tokens: Their prompt and response tokens.
        response_tokens: Their response tokens, which the loss counts.
        steps: Optimizer steps per epoch; None: as many as the batch size makes.
    """

    method: str
    budget_tokens: int | None
    seed: int
    ids: tuple[str, ...]
    tokens: int
    response_tokens: int
    steps: int | None

    def name(self, *, base: str, rendering: str, max_length: int, tuning: Tuning) -> str:
        """Return the name of its folder: a fingerprint of all that its model depends on, in any order of the ids."""
        return fingerprint([base, rendering, max_length, tuning, sorted(self.ids)])[:16]


def arms_of(
    methods: Sequence[Method],
    select: Callable[[Method, int, int], list[str]],
    lengths: pl.DataFrame,
    *,
    budgets: Sequence[int],
    seeds: int,
    batch_size: int,
) -> list[Arm]:
    """Return all trainings of a comparison; those of the first seed come first.

    At one budget all trainings take the same number of steps: as many as the budget has batches of the pool's mean
    length, but never more than the smallest selection has examples. The full pool trains in ordinary batches, the
    untuned model not at all.

    Args:
        methods: What is compared.
        select: Gives the ids for a method, a budget in tokens and a seed.
        lengths: ``id``, ``tokens`` and ``response_tokens`` of the pool.
        budgets: In tokens.
        seeds: How many trainings of each.
        batch_size: Examples of the pool's mean length per step.
    """
    counts = {
        name: (tokens, response)
        for name, tokens, response in lengths.select("id", "tokens", "response_tokens").iter_rows()
    }
    mean = sum(tokens for tokens, _ in counts.values()) / max(len(counts), 1)
    chosen: dict[tuple[str, int, int], list[str]] = {}
    for method in methods:
        for budget in budgets if method.kind not in ("full", "untuned") else [0]:
            for seed in range(seeds):
                again = chosen.get((method.label, budget, 0)) if not method.draws else None
                chosen[method.label, budget, seed] = again or select(method, budget, seed)
    arms = []
    for (label, budget, seed), ids in chosen.items():
        fewest = min((len(other) for (_, at, _), other in chosen.items() if at == budget), default=0)
        steps = max(1, min(round(budget / (batch_size * mean)), fewest)) if budget else None
        if not ids and seed:
            continue  # the untuned model has no seeds
        tokens, response = (sum(counts[name][part] for name in ids) for part in (0, 1))
        arms.append(
            Arm(
                method=label,
                budget_tokens=budget or None,
                seed=seed,
                ids=tuple(ids),
                tokens=tokens,
                response_tokens=response,
                steps=steps,
            )
        )
    return sorted(arms, key=lambda arm: arm.seed)
