"""How many rows a training takes at once on a common graphics card: an estimate from the sizes of a model."""

from dataclasses import dataclass

CARD_GIB, USED = 24.0, 0.9
"""Memory of a card such as an RTX 4090, an A10 or an L4, and the share of it that a training is let have."""
GIB = 1 << 30
OVERHEAD_GIB = 1.5
"""What CUDA, its kernels and fragments take."""
LOGIT_BYTES = 12
"""Of a logit: in bfloat16 and float32, and the gradient of either."""
WEIGHT_BYTES, FOUR_BIT_BYTES, ADAPTER_BYTES = 2.0, 0.55, 16.0
"""Of a parameter: in bfloat16; in 4 bits with its scales; of an adapter in float32 with its gradient and Adam's moments."""
LAYER_STATES, LAYER_SIDES = 26, 20
"""Of one layer in widths of the model: states that are computed again for a gradient; inputs and outputs of its matrices."""


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """Numbers of a causal language model: its ``parameters``, ``layers``, the ``width`` of a state, and its ``vocabulary``."""

    parameters: int
    layers: int
    width: int
    vocabulary: int


@dataclass(frozen=True, kw_only=True)
class CardFit:
    """How a training of LoRA adapters takes the rows of one optimizer step.

    Args:
        rows: Of a micro-batch.
        accumulation: Micro-batches of a step.
        four_bit: Whether the weights have to be kept in 4 bits.
        gib: Estimated memory; None where the size of the model is not known.
    """

    rows: int
    accumulation: int
    four_bit: bool = False
    gib: float | None = None

    def __str__(self) -> str:
        batches = f"micro-batches of {self.rows} rows, {self.accumulation} to a step"
        if self.gib is None:
            return f"{batches}: how large the model is is not known here"
        weights = ", weights in 4 bits" if self.four_bit else ""
        fits = "fits" if self.gib <= CARD_GIB * USED else "is more than fits"
        return f"{batches}{weights}: an estimated {self.gib:.1f} GiB, which {fits} a card of {CARD_GIB:.0f}"


def card_fit(
    size: ModelSize | None, *, max_length: int, batch_size: int, rank: int, texts_per_row: int = 1
) -> CardFit:
    """Return the largest micro-batch, a power of two, that is estimated to fit; with 4-bit weights where none does else.

    Gradient checkpointing is taken for granted, and bfloat16. A row counts with ``max_length`` tokens, a pair with two
    texts of that length. Where the ``size`` is not known, or nothing fits, micro-batches have one row.

    Source: a sum of ours of weights, adapters, kept and computed states, and logits; not held against a card.
    """
    smallest = CardFit(rows=1, accumulation=batch_size)
    if size is None:
        return smallest
    embeddings = 2 * size.vocabulary * size.width
    adapters = ADAPTER_BYTES * size.layers * rank * LAYER_SIDES * size.width
    weights = {
        False: WEIGHT_BYTES * size.parameters,
        True: FOUR_BIT_BYTES * size.parameters + WEIGHT_BYTES * embeddings,
    }
    per_token = WEIGHT_BYTES * size.width * (size.layers + LAYER_STATES) + LOGIT_BYTES * size.vocabulary

    def needed(rows: int, *, four_bit: bool) -> float:
        tokens = rows * texts_per_row * max_length
        return OVERHEAD_GIB + (weights[four_bit] + adapters + tokens * per_token) / GIB

    sizes = [rows for rows in (1 << power for power in reversed(range(16))) if batch_size % rows == 0]
    for four_bit in (False, True):
        for rows in sizes:
            if (gib := needed(rows, four_bit=four_bit)) <= CARD_GIB * USED:
                return CardFit(rows=rows, accumulation=batch_size // rows, four_bit=four_bit, gib=gib)
    return CardFit(rows=1, accumulation=batch_size, four_bit=True, gib=needed(1, four_bit=True))
