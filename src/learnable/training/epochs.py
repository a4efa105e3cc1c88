"""The epochs of a warm-up: adapters as each epoch left them, with Adam's moments by the names of parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file

from learnable.errors import TrainError
from learnable.models.weights import quiet
from learnable.runs.files import replacing, write_json
from learnable.runs.identity import file_digest
from learnable.runs.records import read_json
from learnable.training.gradients import Consumer

MOMENTS, EPOCH = "moments.safetensors", "epoch.json"
BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Of Adam, as trainings here and LESS's use it."""

Adam = Literal["code", "exact"]


@dataclass(frozen=True, kw_only=True)
class KeptEpoch:
    """A model as an epoch of a warm-up left it: the folder of its adapter and Adam's moments, after ``step`` steps.

    ``learning_rate`` is the mean over the steps of this epoch.
    """

    folder: Path
    step: int
    learning_rate: float

    @property
    def moments_digest(self) -> str:
        """Hash of the moments."""
        return file_digest(self.folder / MOMENTS)


def keep_epoch(
    network: Any,
    state: Mapping[str, Any],
    gathered: Mapping[str, torch.Tensor] | None,
    folder: Path,
    *,
    learning_rates: Sequence[float],
) -> None:
    """Write what the end of an epoch is remembered by: the adapter in PEFT's format, the moments, and ``epoch.json``.

    ``state`` and ``gathered`` are as ``Loop`` gives them, ``learning_rates`` those of the steps of this epoch.
    """
    moments: dict[str, torch.Tensor] = {}
    for name, values in state["optimizer"]["state"].items():
        saved = name.replace(".default.", ".")
        moments |= {f"first/{saved}": values["exp_avg"], f"second/{saved}": values["exp_avg_sq"]}
    with replacing(folder) as aside:
        with quiet():
            network.save_pretrained(aside, state_dict=gathered)
        save_file({name: value.float().contiguous() for name, value in moments.items()}, aside / MOMENTS)
        mean = sum(learning_rates) / len(learning_rates)
        write_json(aside / EPOCH, {"step": state["done"], "learning_rate": mean})


def kept_epochs(folder: Path) -> list[KeptEpoch]:
    """Return the epochs that a training kept in the folder of its adapter, in their order.

    Raises:
        TrainError: If it kept none, or the moments of one are not there.
    """
    found = list[KeptEpoch]()
    while (inside := folder / f"epoch-{len(found) + 1}").is_dir():
        if not (inside / MOMENTS).is_file():
            raise TrainError(f"{inside} has no moments of Adam: {MOMENTS} is not there", hint=_TRAIN)
        found.append(KeptEpoch(folder=inside, **read_json(inside / EPOCH)))
    if not found:
        raise TrainError(f"{folder} keeps no epochs", hint=_TRAIN)
    return found


_TRAIN = (
    "train it with --keep-epochs: learnable train POOL --fraction 0.05 --epochs 4 --keep-epochs -o warmup"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """Adam's first and second moments by name of the parameter, float32 (P,), after ``step`` steps."""

    first: Mapping[str, torch.Tensor]
    second: Mapping[str, torch.Tensor]
    step: int
    _copies: dict[torch.device, "Moments"] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, epoch: KeptEpoch) -> "Moments":
        """Read those of an epoch."""
        found = load_file(epoch.folder / MOMENTS)
        first, second = (
            {
                name.removeprefix(order): value.flatten()
                for name, value in found.items()
                if name.startswith(order)
            }
            for order in ("first/", "second/")
        )
        return cls(first=first, second=second, step=epoch.step)

    def on(self, device: torch.device) -> "Moments":
        """Return them on a device, copied there once."""
        if device not in self._copies:
            first, second = (
                {name: value.to(device) for name, value in part.items()} for part in (self.first, self.second)
            )
            self._copies[device] = Moments(first=first, second=second, step=self.step)
        return self._copies[device]

    @cached_property
    def faded(self) -> dict[str, torch.Tensor]:
        """What the second moments leave after one more step, with epsilon."""
        return {name: value * BETAS[1] + EPSILON for name, value in self.second.items()}

    @property
    def small_share(self) -> float:
        """Share of coordinates whose second moment is below epsilon: under the root, epsilon outweighs them."""
        small = sum(int((value < EPSILON).sum()) for value in self.second.values())
        return small / max(sum(value.numel() for value in self.second.values()), 1)


class AdamAdjusted:
    """Gives consumers what Adam would make of each gradient: with it, a step's direction for this example alone.

    ``code``: ``m' / sqrt(v' + eps)``, as LESS computes it. ``exact``: ``m^ / (sqrt(v^) + eps)`` with moments corrected
    for their beginning, as Adam does. Both from ``m' = b1 m + (1 - b1) g`` and ``v' = b2 v + (1 - b2) g^2``.

    Args:
        moments: Of the checkpoint that gradients are taken at, on their device.
        adam: Which.
        consumers: Get the adjusted gradients.

    Source: LESS (2402.04333), section 2; its code (princeton-nlp/LESS 8abf962) has epsilon inside the root and no
        correction, the paper both as in Adam.
    """

    def __init__(self, moments: Moments, adam: Adam, consumers: Sequence[Consumer]) -> None:
        self._moments, self._adam, self._consumers = moments, adam, consumers

    def add(self, name: str, gradients: torch.Tensor) -> None:
        """Take the gradients of one parameter, float32 (n, P)."""
        (one, two), moments = BETAS, self._moments
        if name not in moments.first:
            raise TrainError(
                f"Adam's moments lack {name}",
                hint="is the warm-up of this model, with its adapters as they are?",
            )
        adjusted = torch.lerp(moments.first[name], gradients, 1 - one)
        if self._adam == "code":
            roots = torch.addcmul(moments.faded[name], gradients, gradients, value=1 - two).rsqrt_()
            adjusted.mul_(roots)
        else:
            taken = moments.step + 1
            second = torch.addcmul(two * moments.second[name], gradients, gradients, value=1 - two)
            roots = second.div_(1 - two**taken).sqrt_().add_(EPSILON)
            adjusted.div_(1 - one**taken).div_(roots)
        for consumer in self._consumers:
            consumer.add(name, adjusted)
