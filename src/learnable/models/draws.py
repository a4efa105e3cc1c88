"""Draws of tokens: one number between 0 and 1 for each new token, from a generator of the row's own.

So what a row draws depends on its own seed and place, not on what else is in the batch.
"""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor

LIKELY = 256
"""How many tokens are looked at for the nucleus at first: nearly always it has fewer."""


class Draws(LogitsProcessor):
    """Turns greedy decoding into sampling: leaves each row one token, drawn from the nucleus of its softmax.

    Args:
        temperature: Logits are divided by it; with 0 nothing is drawn, and no seed is needed.
        top_p: Draw from the likeliest tokens that together have this probability.
        seeds: One per row.
    """

    def __init__(self, temperature: float, top_p: float, seeds: Sequence[int]) -> None:
        self.temperature, self._top_p = temperature, top_p
        # On the CPU, so that a seed means the same on every device.
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.over = False
        """Nothing is drawn any more: some devices run one step more before transformers sees that it should stop."""

    def of(self, rows: Sequence[int]) -> "Draws":
        """Return the draws of some rows, where they are now."""
        some = Draws(self.temperature, self._top_p, ())
        some._generators = [self._generators[row] for row in rows] if self.temperature else []
        return some

    @property
    def states(self) -> list[torch.Tensor]:
        """Where the generator of each row is."""
        return [generator.get_state() for generator in self._generators]

    @states.setter
    def states(self, states: Sequence[torch.Tensor]) -> None:
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(state)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores (B, V) that are 0 for the token drawn in each row, and -inf for the others."""
        if self.over:
            return scores
        probabilities = (scores.float() / self.temperature).softmax(dim=-1)
        tokens, inside = nucleus(probabilities, self._top_p)
        # In the order of the vocabulary, which rounding does not change as it does that of the likeliest.
        tokens, order = tokens.sort(dim=-1)
        mass = inside.gather(-1, order).cumsum(dim=-1)  # (B, count)
        uniform = torch.stack([torch.rand(1, generator=generator) for generator in self._generators])
        # A little less than drawn, so that rounding never leads to the end of the mass, where no token is.
        height = mass[:, -1:] * (uniform * (1 - 2**-23)).to(mass.device)
        drawn = tokens.gather(-1, torch.searchsorted(mass, height, right=True))
        return torch.full_like(scores, float("-inf")).scatter_(-1, drawn, 0.0)


def nucleus(probabilities: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens that may be drawn (B, count), and their probabilities, 0 outside the nucleus.

    The nucleus is the likeliest tokens that together have the probability ``top_p``. To sort the vocabulary would take
    longer than the network; a few hundred tokens nearly always hold it.
    """
    size = probabilities.shape[-1]
    if top_p >= 1:
        return torch.arange(size, device=probabilities.device).expand_as(probabilities), probabilities
    count = LIKELY
    while True:
        likeliest, tokens = probabilities.topk(min(count, size), dim=-1)  # falling
        mass = likeliest.cumsum(dim=-1)
        if count >= size or bool((mass[:, -1] >= top_p).all()):
            return tokens, likeliest.where(mass - likeliest < top_p, 0.0)
        count *= 16
