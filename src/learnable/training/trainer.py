"""TRL's trainer with our batches, pieces and loss, on one device or several."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from trl import SFTTrainer

from learnable.model.network import base_network
from learnable.progress import Bar
from learnable.training import devices
from learnable.training.batches import IGNORED, Batch, Batches, pieces, share
from learnable.training.loss import response_nll

PIECE_TOKENS = {"cpu": 1_024, "cuda": 16_384, "mps": 4_096}
"""Most tokens, padding included, that are forwarded and backwarded at once; memory grows with them."""
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
        given: What TRL's trainer takes.
    """

    loss_is_scaled_for_ga = True

    def __init__(self, *, batches: Batches, losses: NDArray[np.float32] | None, **given: Any) -> None:
        super().__init__(**given)
        self.batches, self.losses = batches, losses
        self.progress: Bar | None = None
        self._network = base_network(self.model)
        fused = (
            self._network.config._attn_implementation == "sdpa"
            and self._network._can_set_attn_implementation()
        )
        self._chooses_attention = fused and self.args.bf16 and self.args.device.type == "cpu"

    def get_train_dataloader(self) -> Batches:
        """Return the batches as they are planned; the trainer's own way knows only batches of one size."""
        return self.batches

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: Any = None) -> torch.Tensor:
        """Take this process's share of a batch, in pieces of bounded size."""
        counted = (inputs["labels"][:, 1:] != IGNORED).sum().to(self.args.device)
        mine = share(inputs, process=self.args.process_index, processes=self.args.world_size)
        parts = list(pieces(mine, most_tokens=PIECE_TOKENS.get(self.args.device.type, PIECE_TOKENS["cpu"])))
        loss = torch.zeros((), device=self.args.device)
        self._met = torch.zeros(len(inputs["length"]), dtype=torch.float32, device=self.args.device)
        for number, part in enumerate(parts, start=1):
            # Gradients are added up between devices once, with the last piece.
            with nullcontext() if number == len(parts) else self.accelerator.no_sync(model):
                loss = loss + super().training_step(model, part, counted)
            self._advance(int(part["length"].sum()))
        self._advance(int(inputs["length"].sum() - mine["length"].sum()))  # of the other processes
        if self.losses is not None:
            met = self.accelerator.reduce(self._met, "sum")
            self.losses[inputs["position"].numpy()] = met.cpu().numpy()
        return loss

    def _advance(self, tokens: int) -> None:
        if self.progress is not None:
            self.progress.advance(tokens)

    def compute_loss(
        self, model: Any, inputs: Batch, *, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of a piece, divided by the response tokens of the whole batch."""
        self._attend(inputs["input_ids"].shape[1])
        options: dict[str, Any] = {}
        if self.aux_loss_enabled:  # experts: how evenly they are used counts too, and padding must not
            seen = torch.arange(inputs["input_ids"].shape[1], device=inputs["length"].device)
            options = {"output_router_logits": True, "attention_mask": seen < inputs["length"][:, None]}
        nll, output = response_nll(
            self.model, inputs["input_ids"], inputs["labels"], forward=model, **options
        )
        self._met.index_add_(0, inputs["row"], nll.detach())
        loss = nll.sum() / num_items_in_batch
        if self.aux_loss_enabled:
            share_of_batch = (inputs["labels"][:, 1:] != IGNORED).sum() / num_items_in_batch
            loss = loss + self.router_aux_loss_coef * output.aux_loss * share_of_batch
        # Several devices take the mean of their gradients, where we want the sum.
        loss = loss * self.args.world_size
        return (loss, output) if return_outputs else loss

    def _attend(self, longest: int) -> None:
        """Choose how attention is computed: on a CPU the fused form is slow on short sequences in bfloat16."""
        wanted = "eager" if longest <= WRITTEN_OUT else "sdpa"
        if self._chooses_attention and self._network.config._attn_implementation != wanted:
            self._network.set_attn_implementation(wanted)

    def _save_rng_state(self, output_dir: str) -> None:
        if devices.is_main():
            super()._save_rng_state(output_dir)
