"""The loss of each example before and after a training of one's own, as a callback of transformers' Trainer."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from transformers import TrainerCallback

from learnable.errors import TrainError, UsageError
from learnable.runs.files import write_frame

IGNORED = -100
"""Label of a token whose loss does not count."""

COUNTS = {"tokens": pl.Int64, "response_tokens": pl.Int64}


class RecordLosses(TrainerCallback):
    """Writes the loss of each training example before the first step and after the last: two passes without gradient.

    The table has ``id``, ``tokens``, ``response_tokens``, ``loss_before`` and ``loss_after`` (nats per token that has a
    label; NaN where none has), one line for each row of the training dataset in its order, as
    ``learnable select losses.parquet --before loss_before --after loss_after`` takes it. A training that goes on from
    a checkpoint keeps the losses that were written before its first step.

    Args:
        path: Where the table goes, a ``.parquet`` file.
        ids: Ids of the rows of the training dataset; their numbers when not given.
        batch_size: Rows of a forward pass; the trainer's ``per_device_eval_batch_size`` when not given.

    Raises:
        UsageError: If the path is none of a ``.parquet`` file, or ids are given twice.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, ids: Sequence[str] | None = None, batch_size: int | None = None
    ) -> None:
        self._path, self._batch_size = Path(path), batch_size
        if self._path.suffix != ".parquet":
            raise UsageError(f"losses are written as .parquet, got {path}", hint="write losses.parquet")
        self._ids = None if ids is None else [str(each) for each in ids]
        if self._ids is not None and len(set(self._ids)) < len(self._ids):
            raise UsageError("an id is given twice", hint="give each row an id of its own, or leave ids out")

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Measure what the model knows before it is trained; refuse to go on from a checkpoint without that."""
        if state.global_step and not self._path.is_file():
            raise TrainError(
                f"the training goes on from step {state.global_step:,}, and {self._path} with the losses before "
                "its first step is not there",
                hint="train from the beginning, or put the file back",
            )
        if not state.global_step:
            self._write(state, self._measured(args, given).rename({"loss": "loss_before"}))

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Measure what the model knows now; refuse rows that are not those that were measured before."""
        before, after = pl.read_parquet(self._path), self._measured(args, given)
        same = ["id", *COUNTS]
        if not before.select(same).equals(after.select(same)):
            raise TrainError(
                f"{self._path} holds losses of other rows than those that were trained on",
                hint="give each training a path of its own",
            )
        self._write(state, before.with_columns(after["loss"].alias("loss_after")))

    def _write(self, state: Any, table: pl.DataFrame) -> None:
        if state.is_world_process_zero:
            write_frame(table, self._path)

    def _measured(self, args: Any, given: Mapping[str, Any]) -> pl.DataFrame:
        """Return ``id``, the counts and ``loss`` of each row of the training dataset."""
        loader, network = given["train_dataloader"], given["model"]
        dataset = loader.dataset
        if not hasattr(dataset, "__len__"):
            raise UsageError(
                "the training dataset has no length, so its rows cannot be measured twice",
                hint="give the trainer a dataset that is not streamed",
            )
        count = len(dataset)
        ids = self._ids or [f"{number:012d}" for number in range(count)]
        if len(ids) != count:
            raise UsageError(f"there are {len(ids):,} ids for {count:,} rows", hint="give an id for each row")
        size = self._batch_size or args.per_device_eval_batch_size
        was_training, losses = network.training, list[tuple[int, int, float]]()
        network.eval()
        try:
            for start in range(0, count, size):
                # Not by a DataLoader: it would draw from the random numbers that order the training.
                rows = [dataset[number] for number in range(start, min(start + size, count))]
                losses += _losses(network, loader.collate_fn(rows), len(rows))
        finally:
            network.train(was_training)
        table = pl.DataFrame(losses, schema=COUNTS | {"loss": pl.Float32}, orient="row")
        return pl.DataFrame({"id": ids}).hstack(table)


@torch.no_grad()
def _losses(network: Any, batch: Mapping[str, Any], rows: int) -> list[tuple[int, int, float]]:
    """Return of each row of a batch its tokens, those that have a label, and the mean loss of these in nats."""
    labels = batch.get("labels")
    if labels is None or len(labels) != rows:
        said = "no labels" if labels is None else f"{len(labels)} rows of labels"
        raise UsageError(
            f"{rows} rows of the training dataset became a batch with {said}",
            hint="the collator must give labels, a row for each row: train without packing and without padding_free",
        )
    moved = {name: each.to(network.device) if torch.is_tensor(each) else each for name, each in batch.items()}
    targets = moved.pop("labels")[:, 1:]
    logits = network(**moved, use_cache=False).logits[:, :-1].float()
    counted = targets != IGNORED
    nll = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), targets.masked_fill(~counted, 0), reduction="none"
    )
    responses = counted.sum(dim=1)
    losses = (nll * counted).sum(dim=1, dtype=torch.float64) / responses  # of none, NaN
    whole = torch.full_like(responses, labels.shape[1])
    tokens = moved["attention_mask"].sum(dim=1) if "attention_mask" in moved else whole
    return list(zip(tokens.tolist(), responses.tolist(), losses.tolist(), strict=True))
