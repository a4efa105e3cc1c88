"""The loop of every training: a sampler says which examples a step takes, an objective what is lowered.

It stands on accelerate alone, which wraps the network for several devices and mixes dtypes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from numpy.typing import NDArray
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.tensor import DTensor

from learnable.objectives import NLL, EndingObjective, Objective
from learnable.settings import Tuning
from learnable.training.batches import Member, batch_of, share
from learnable.training.passes import TrainingPasses
from learnable.training.samplers import AdaptiveSampler, ProbingSampler, Sampler
from learnable.types import Rendered

LONGEST_GRADIENT = 1.0
"""The L2 norm to which a longer gradient is cut."""

_STATE = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True, strict=False)


class Loop:
    """Moves the trainable parameters of a network, one step at a time.

    It ends with ``steps``, or before where the objective says so (``ended``).

    Every process sees the whole batch and takes a share of its rows. The gradient of the objective is a weight for each
    row's nll; what is backwarded is the weighted sum of nll, piece by piece.

    Args:
        network: With its adapters; it is put in training mode.
        rows: The answers to train on: all m of the first example, then those of the next.
        sampler: Which examples a step takes.
        tuning: How.
        mixed: Whether to compute in bfloat16, whatever the dtype of the weights.
        objective: What is lowered.
        columns: What the objective reads, by name, (N x m,) each.
        token_rate: How many times the learning rate the rows of new tokens learn at.
        packs: Whether rows that are computed at once are one sequence; they are padded otherwise.
        keep_losses: Whether to keep the nll of each row as it was last met.
        advance: Told how many tokens were just done; fewer than 0 when some are done again.
    """

    def __init__(
        self,
        network: Any,
        rows: Sequence[Rendered],
        *,
        sampler: Sampler,
        tuning: Tuning,
        mixed: bool,
        objective: Objective = NLL(),
        columns: Mapping[str, NDArray[Any]] = MappingProxyType({}),
        token_rate: float = 1.0,
        packs: bool = False,
        keep_losses: bool = False,
        advance: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.network = network.train()
        self.done, self.tokens, self.loss = 0, 0, torch.zeros((), device=network.device)
        self.losses = np.full(len(rows), np.nan, dtype=np.float32) if keep_losses else None
        self._rows, self._sampler, self._objective = rows, sampler, objective
        self._adaptive = sampler if isinstance(sampler, AdaptiveSampler) else None
        self._probing = sampler if isinstance(sampler, ProbingSampler) else None
        self._ending = objective if isinstance(objective, EndingObjective) else None
        self.steps, self.ended = sampler.steps, False
        counted = np.array([int(row.mask[1:].sum()) for row in rows])
        self._columns = {
            name: torch.from_numpy(values).reshape(-1, objective.answers)
            for name, values in {**columns, "response_tokens": counted}.items()
        }
        self._tuning, self._advance = tuning, advance
        longest = max(len(row.ids) for row in rows)
        self._passes = TrainingPasses(network, longest=longest, packs=packs, mixed=mixed)
        # One process trains several models, not all in one dtype: accelerate keeps the first one's otherwise.
        AcceleratorState._reset_state(reset_partial_state=True)
        self._accelerator = Accelerator(
            mixed_precision="bf16" if mixed else "no",
            cpu=network.device.type == "cpu",
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=False)],
        )
        self._rates, groups = _groups(network, token_rate)
        optimizer = torch.optim.AdamW(
            groups,
            lr=tuning.peak_learning_rate,
            weight_decay=0.0,
            fused=True if network.device.type == "cuda" else None,
        )
        self._model, self._optimizer = self._accelerator.prepare(network, optimizer)

    def step(self) -> None:
        """Train on the next batch."""
        answers = self._objective.answers
        examples = list(self._sampler.batch(self.done))
        batch = self._batch(examples)
        columns = {name: values[examples].to(self.loss.device) for name, values in self._columns.items()}
        met = self._gradients(batch, columns)
        self._accelerator.clip_grad_norm_(self._model.parameters(), LONGEST_GRADIENT)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self.learning_rate(self.done)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.done += 1
        self.tokens += sum(len(member.example.ids) for member in batch)
        if self.losses is not None or self._adaptive is not None or self._ending is not None:
            reduced = self._accelerator.reduce(met, "sum")
            if self._ending is not None:
                self.ended = self._ending.ends(reduced.reshape(-1, answers), columns)
            nll = reduced.cpu().numpy()
            if self.losses is not None:
                self.losses[[member.position for member in batch]] = nll
            if self._adaptive is not None:
                self._adaptive.observe(self.done - 1, examples, nll.reshape(-1, answers))
        if self._probing is not None and (wanted := self._probing.probe(self.done - 1)):
            asked = self._batch(wanted)
            nll = self._nll(self._passes.pieces(self._share(asked)), len(asked)).cpu().numpy()
            self._probing.probed(self.done - 1, nll.reshape(-1, answers))

    def _batch(self, examples: Sequence[int]) -> list[Member]:
        """Return the answers of examples as one batch."""
        answers = self._objective.answers
        positions = [example * answers + answer for example in examples for answer in range(answers)]
        return batch_of([(position, self._rows[position]) for position in positions])

    def _share(self, batch: list[Member]) -> list[Member]:
        """Return our part of a batch."""
        processes = self._accelerator.num_processes
        return share(batch, process=self._accelerator.process_index, processes=processes)

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, which counts from 0."""
        return self._tuning.peak_learning_rate * _height(step, self._tuning, self.steps)

    def gathered(self) -> dict[str, Any] | None:
        """Return, to the main process, what was trained where each holds a part (FSDP); else None; called in all."""
        if not any(isinstance(parameter, DTensor) for parameter in self.network.parameters()):
            return None
        found: dict[str, Any] = get_model_state_dict(self._model, options=_STATE)
        return found

    def state(self) -> dict[str, Any]:
        """Return all that ``load`` needs to go on to the same bits; called in all processes."""
        model, optimizer = get_state_dict(self._model, self._optimizer.optimizer, options=_STATE)
        return {
            "model": model,
            "optimizer": optimizer,
            "random": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
            "done": self.done,
            "tokens": self.tokens,
            "sampler": None if self._adaptive is None else self._adaptive.state(),
            "losses": None if self.losses is None else torch.from_numpy(self.losses),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken, with any number of processes."""
        set_state_dict(
            self._model,
            self._optimizer.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=_STATE,
        )
        torch.set_rng_state(state["random"][0])
        if len(state["random"]) - 1 == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["random"][1:])
        self.done, self.tokens = state["done"], state["tokens"]
        if self.losses is not None:
            self.losses[:] = state["losses"].numpy()
        if self._adaptive is not None:
            self._adaptive.load(state["sampler"])

    def _gradients(self, batch: list[Member], columns: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Add up the gradients of a batch, in smaller pieces where the memory ends; return the nll of our rows, (n,)."""
        mine, told = self._share(batch), list[int]()
        while True:
            try:
                met = self._pieces(mine, batch, columns, told)
                break
            except torch.cuda.OutOfMemoryError:
                # Several processes wait for each other, so that none can begin again by itself.
                if self._accelerator.num_processes > 1 or not self._passes.shrink(
                    longest=len(mine[0].example.ids)
                ):
                    raise
            self._optimizer.zero_grad()
            self._advance(-sum(told))
            told.clear()
            torch.cuda.empty_cache()
        self._advance(sum(len(member.example.ids) for member in batch) - sum(told))
        return met

    def _pieces(
        self, mine: list[Member], batch: list[Member], columns: Mapping[str, torch.Tensor], told: list[int]
    ) -> torch.Tensor:
        """Add up the gradients of our rows, and append how many tokens were told of each piece."""
        parts, processes = self._passes.pieces(mine), self._accelerator.num_processes
        count, counted = len(batch), _counted(batch)
        met = torch.zeros(count, dtype=torch.float32, device=self.loss.device)
        weights = None
        if self._objective.linear:
            weights = self._weights(met, columns)
        elif len(parts) > 1 or processes > 1:
            weights = self._weights(self._nll(parts, count), columns)
        for number, part in enumerate(parts, start=1):
            # Gradients are added up between devices once, with the last piece.
            alone = nullcontext() if number == len(parts) else self._accelerator.no_sync(self._model)
            with alone, self._passes.over(part, self._model, count=count) as (nll, uneven):
                met += nll.detach()
                if weights is None:
                    weights = self._weights(met, columns)
                loss = (weights * nll).sum() + uneven * (_counted(part) / counted)
                self.loss += loss.detach()
                # Several devices take the mean of their gradients, where we want the sum.
                self._accelerator.backward(loss * processes)
            told.append(sum(len(member.example.ids) for member in part))
            self._advance(told[-1])
        return met

    def _nll(self, parts: list[list[Member]], count: int) -> torch.Tensor:
        """Return the nll of all rows of a batch, of all processes, without gradients."""
        found = torch.zeros(count, dtype=torch.float32, device=self.loss.device)
        with torch.no_grad():
            for part in parts:
                with self._passes.over(part, self._model, count=count) as (nll, _):
                    found += nll
        reduced: torch.Tensor = self._accelerator.reduce(found, "sum")
        return reduced

    def _weights(self, nll: torch.Tensor, columns: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the gradient of the loss of a batch by the nll of each row, (n x m,)."""
        leaf = nll.detach().reshape(-1, self._objective.answers).requires_grad_()
        return torch.autograd.grad(self._objective(leaf, columns), leaf)[0].flatten()


def _counted(members: Sequence[Member]) -> int:
    """Return how many tokens the loss counts; the first of a row never does."""
    return sum(int(member.example.mask[1:].sum()) for member in members)


def _height(step: int, tuning: Tuning, steps: int) -> float:
    """Return the learning rate as a share of its highest: it rises from 0 in a line, then stays or falls by half a cosine.

    Rising takes its share of the steps, rounded up, but never all of them, as the first has the rate 0.
    """
    rising = min(math.ceil(tuning.warmup * steps), steps - 1)
    if step < rising:
        return step / rising
    if tuning.schedule == "constant":
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * ((step - rising) / (steps - rising))))


def _groups(network: Any, token_rate: float) -> tuple[list[float], list[dict[str, Any]]]:
    """Return the trainable parameters in groups, and how many times the learning rate each group learns at."""
    trained = [(name, each) for name, each in network.named_parameters() if each.requires_grad]
    if token_rate == 1:
        return [1.0], [{"params": [each for _, each in trained]}]
    parts: tuple[list[Any], list[Any]] = ([], [])
    for name, each in trained:
        parts["trainable_tokens" in name].append(each)
    return [1.0, token_rate], [{"params": part} for part in parts]
