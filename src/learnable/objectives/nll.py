"""Supervised fine-tuning."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class NLL:
    """The mean nll of the response tokens of a batch: every token counts alike, whichever example it is in.

    ``loss = sum of nll / number of response tokens``
    """

    needs: ClassVar[tuple[str, ...]] = ()
    answers: ClassVar[int] = 1
    linear: ClassVar[bool] = True

    def __call__(self, nll: "torch.Tensor", columns: Mapping[str, "torch.Tensor"]) -> "torch.Tensor":
        """Return the loss of a batch in nats per response token."""
        return nll.sum() / columns["response_tokens"].sum()
