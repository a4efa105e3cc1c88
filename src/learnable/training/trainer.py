"""TRL's trainer with our batches, pieces and loss, on one device or several."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from trl import SFTTrainer

from learnable.models.attention import attending
from learnable.models.lengths import LengthSwitches
from learnable.models.network import base_network
from learnable.models.packing import Layout, padded
from learnable.runs.progress import ProgressBar
from learnable.training import devices
from learnable.training.batches import Batch, Batches, Member, inputs_of, pieces, response_tokens, share
from learnable.training.loss import response_nll
from learnable.training.memory import PieceSize, again_on_memory_error
from learnable.types import Rendered

WRITTEN_OUT = 256
"""Longest sequence whose attention a CPU computes faster as products of matrices in bfloat16 than fused."""


class ResponseTrainer(SFTTrainer):  # type: ignore[misc]
    """Takes each batch in pieces, shared among the processes; its loss is over the response tokens of the whole batch.

    Every process sees the whole batch, so that the share of each, and the number of tokens that all losses are divided
    by, need no word between them.

    Args:
        batches: What to train on.
        losses: Where to keep the loss of each example as it was last met, float32 (n,); it is filled from the start
            of the training on, and differs from one epoch to the next.
        layout_of: How the rows of a piece lie: ``packed`` or ``padded``.
        given: What TRL's trainer takes.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *,
        batches: Batches,
        losses: NDArray[np.float32] | None,
        layout_of: Callable[[Sequence[Rendered]], Layout],
        **given: Any,
    ) -> None:
        super().__init__(**given)
        self.batches, self.losses = batches, losses
        self.progress: ProgressBar | None = None
        self.size = PieceSize.of(self.model, longest=batches.longest)
        self._layout_of, self._padding = layout_of, layout_of is padded
        self._network = base_network(self.model)
        self._switches = LengthSwitches.of(self._network)
        self._set_again()
        fused = (
            self._network.config._attn_implementation == "sdpa"
            and self._network._can_set_attn_implementation()
        )
        self._chooses_attention = fused and self.args.bf16 and self.args.device.type == "cpu"

    def get_train_dataloader(self) -> Batches:
        """Return the batches as they are planned; the trainer's own way knows only batches of one size."""
        return self.batches

    def floating_point_ops(self, inputs: Any) -> int:
        """Return nothing: what a step costs is not asked for, and cannot be read off a batch."""
        return 0

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: Any = None) -> torch.Tensor:
        """Take this process's share of a batch, in pieces of bounded size; smaller ones where the memory ends."""
        members = inputs["members"]
        mine = share(members, process=self.args.process_index, processes=self.args.world_size)
        advanced = [0]

        def shrink() -> bool:
            # Several processes wait for each other, so that none can begin again by itself.
            if self.args.world_size > 1 or not self.size.shrink(longest=len(mine[0].example.ids)):
                return False
            model.zero_grad()
            self._advance(-advanced[0])
            advanced[0] = 0
            self._set_again()
            return True

        def step() -> torch.Tensor:
            return self._step(model, mine, members, advanced)

        loss: torch.Tensor = again_on_memory_error(step, shrink=shrink)
        others = sum(len(member.example.ids) for member in members) - advanced[0]
        self._advance(others)
        if self.losses is not None:
            met = self.accelerator.reduce(self._met, "sum")
            self.losses[[member.position for member in members]] = met.cpu().numpy()
        return loss

    def _step(
        self, model: Any, mine: Sequence[Member], members: Sequence[Member], advanced: list[int]
    ) -> torch.Tensor:
        counted = response_tokens(members)
        parts = list(
            pieces(mine, most_tokens=self.size.tokens, padding=self._padding, switches=self._switches)
        )
        loss = torch.zeros((), device=self.args.device)
        self._met = torch.zeros(len(members), dtype=torch.float32, device=self.args.device)
        for number, part in enumerate(parts, start=1):
            layout = self._layout_of([member.example for member in part])
            # Gradients are added up between devices once, with the last piece.
            alone = nullcontext() if number == len(parts) else self.accelerator.no_sync(model)
            # States that are computed again for the gradients need the layout too.
            with alone, attending(self._network, layout):
                loss = loss + super().training_step(model, inputs_of(part, layout), counted)
            tokens = sum(len(member.example.ids) for member in part)
            advanced[0] += tokens
            self._advance(tokens)
        return loss

    def _set_again(self) -> None:
        if self.size.again and not self._network.is_activation_checkpointing:
            self._network.activation_checkpointing_enable({"use_reentrant": False})
            self._network.enable_input_require_grads()

    def _advance(self, tokens: int) -> None:
        if self.progress is not None:
            self.progress.advance(tokens)

    def compute_loss(
        self, model: Any, inputs: Any, *, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of a piece, divided by the response tokens of the whole batch."""
        layout: Layout = inputs["layout"]
        self._attend(layout)
        options: dict[str, Any] = {}
        if self.aux_loss_enabled:  # experts: how evenly they are used counts too, and padding must not
            options = {"output_router_logits": True, "attention_mask": _real(layout, inputs["input_ids"])}
        count = len(self._met)
        nll, output = response_nll(self.model, inputs, count=count, forward=model, **options)
        self._met += nll.detach()
        loss = nll.sum() / num_items_in_batch
        # Some models take the option and give no such loss.
        if self.aux_loss_enabled and getattr(output, "aux_loss", None) is not None:
            share_of_batch = len(inputs["targets"]) / num_items_in_batch
            loss = loss + self.router_aux_loss_coef * output.aux_loss * share_of_batch
        # Several devices take the mean of their gradients, where we want the sum.
        loss = loss * self.args.world_size
        return (loss, output) if return_outputs else loss

    def _attend(self, layout: Layout) -> None:
        """Choose how attention is computed: on a CPU the fused form is slow on short sequences in bfloat16."""
        if not self._chooses_attention or layout.segments is not None:
            return
        wanted = "eager" if layout.ids.shape[1] <= WRITTEN_OUT else "sdpa"
        if self._network.config._attn_implementation != wanted:
            self._network.set_attn_implementation(wanted)

    def _save_rng_state(self, output_dir: str) -> None:
        if devices.is_main():
            super()._save_rng_state(output_dir)


def _real(layout: Layout, ids: torch.Tensor) -> torch.Tensor | None:
    """Return which tokens are no padding, bool (B, T); None where there is none."""
    if layout.segments is not None:
        return None
    lengths = torch.tensor([len(places) for places in layout.places], device=ids.device)
    return torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
