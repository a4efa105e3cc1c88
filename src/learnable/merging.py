"""What becomes of a scalar that several trainings left at several values: arrays in, one array out.

A merger is called with the values of k models, float32 (k, ...), and the ``base`` that they began from, float32 (...).
``moved`` says where a model's value, once written, is another than the base's. Its draws come from ``rng``.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import yaml
from numpy.typing import NDArray

from learnable.errors import UsageError, did_you_mean
from learnable.packages import needed
from learnable.spec import build, settings_in

Floats = NDArray[np.float32]
_SUM_TOLERANCE = 1e-6


class Merger(Protocol):
    """Makes one value of k; hyperparameters are its fields.

    ``by_scalar`` is True where each scalar is merged by itself, so that a tensor may be taken in pieces.
    """

    by_scalar: ClassVar[bool]

    @property
    def seed(self) -> int:
        """Of the draws."""

    def check(self, models: int) -> None:
        """Raise a ``UsageError`` if it cannot merge so many."""

    def __call__(
        self, values: Floats, *, base: Floats, moved: NDArray[np.bool_], rng: np.random.Generator
    ) -> Floats:
        """Return the merged values, float32 (...)."""


@dataclass(frozen=True, kw_only=True)
class _ByScalar:
    """A merger of each scalar by itself, with a weight ``p`` for each model."""

    p: tuple[float, ...] = ()
    by_scalar: ClassVar[bool] = True

    def check(self, models: int) -> None:
        """Refuse weights that are none of so many models."""
        probabilities(self.p, models)


@dataclass(frozen=True, kw_only=True)
class SelectMerger(_ByScalar):
    """Each parameter is that of one model, drawn at random.

    Args:
        p: Probability of each model; all alike when not given.
        resample: Where the model that was drawn has the base's value, draw again among those that have another one.
        seed: Of the draws.

    Source: parameter-selection merging with resampling (2410.03743). What differs: redrawing ends at the first value
        that is not the base's, which is one draw among these; the paper does not say how often it redraws.
    """

    resample: bool = True
    seed: int = 0

    def __call__(
        self, values: Floats, *, base: Floats, moved: NDArray[np.bool_], rng: np.random.Generator
    ) -> Floats:
        """Return the values that were drawn."""
        weights = probabilities(self.p, len(values))
        choices = drawn(weights, base.shape, rng)
        if self.resample:
            choices = redrawn(choices, moved, weights, rng)
        found: Floats = np.take_along_axis(values, choices[None], axis=0)[0]
        return found


@dataclass(frozen=True, kw_only=True)
class AverageMerger(_ByScalar):
    """Each parameter is the mean over the models.

    Args:
        p: Weight of each model; all alike when not given.

    Source: model soups (2203.05482).
    """

    seed: ClassVar[int] = 0

    def __call__(
        self, values: Floats, *, base: Floats, moved: NDArray[np.bool_], rng: np.random.Generator
    ) -> Floats:
        """Return the weighted mean."""
        return np.asarray(_mean(values, probabilities(self.p, len(values))), dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class NoiseMerger(_ByScalar):
    """The mean with noise of the spread that selection has: what is left of selection without choosing.

    Each parameter is its weighted mean plus or minus its weighted standard deviation over the models, the sign drawn at
    random. Mean and variance are those of selection; of two models with equal weights, selection is this.

    Args:
        p: Weight of each model; all alike when not given.
        seed: Of the signs.

    Source: ours, as the control of selection (2410.03743).
    """

    seed: int = 0

    def __call__(
        self, values: Floats, *, base: Floats, moved: NDArray[np.bool_], rng: np.random.Generator
    ) -> Floats:
        """Return the mean, and the spread added or taken away."""
        weights = probabilities(self.p, len(values))
        mean = _mean(values, weights)
        spread = np.sqrt(_mean((values - mean) ** 2, weights))
        signs = 1 - 2 * rng.integers(2, size=base.shape, dtype=np.int8)
        return np.asarray(mean + signs * spread, dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class KitMerger:
    """A method of mergekit, tensor by tensor.

    Args:
        method: Its name there.
        p: Weight of each model; all alike when not given.
        settings: Its other parameters, in the order of their names.
        seed: Of what it draws.
    """

    method: str
    p: tuple[float, ...] = ()
    settings: tuple[tuple[str, float | bool], ...] = ()
    seed: int = 0
    by_scalar: ClassVar[bool] = False

    def check(self, models: int) -> None:
        """Refuse weights, numbers of models and parameters that the method does not take, or that it is not there.

        Raises:
            UsageError: If so.
        """
        probabilities(self.p, models)
        spec = self._method().spec
        known = {each.name for each in spec.parameters} - {"weight"}
        for name, value in self.settings:
            if name not in known:
                raise UsageError(f"{self.method} has no setting {name!r}", hint=did_you_mean(name, known))
            if name == "density" and not 0 < value <= 1:
                raise UsageError(f"density must be above 0 and at most 1, got {value:g}")
        try:
            spec.contract.validate_ids([*self._base, *range(models)], "base" if self._base else None)
        except ValueError as error:
            raise UsageError(f"{self.method} cannot merge {models} models: {error}") from error

    def __call__(
        self, values: Floats, *, base: Floats, moved: NDArray[np.bool_], rng: np.random.Generator
    ) -> Floats:
        """Return the merged tensor."""
        import torch

        method, models = self._method(), range(len(values))
        parameters: dict[str, Any] = dict(self.settings)
        if any(each.name == "weight" for each in method.spec.parameters):
            weights = probabilities(self.p, len(values)).tolist()
            parameters["weight"] = dict(zip(models, weights, strict=True))
        given = [*[base] * len(self._base), *values]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(1 << 63)))
            merged = self._kit().merge_tensors(
                [torch.from_numpy(each) for each in given],
                method,
                parameters=parameters,
                ids=[*self._base, *models],
                base_index=0 if self._base else None,
            )
        found: Floats = merged.float().numpy()
        return found

    @property
    def _base(self) -> list[str]:
        """The name of the base, where the method takes it."""
        return ["base"] * (self._method().spec.contract.base.value in ("required", "optional"))

    def _kit(self) -> Any:
        for module in ("mergekit", "mergekit.merge_methods"):
            found = needed(module, by=f"merging by {self.method}", extra="merging")
        return found

    def _method(self) -> Any:
        return self._kit().get(self.method)


MERGERS: Mapping[str, Callable[..., Merger]] = {
    "select": SelectMerger,
    "average": AverageMerger,
    "noise": NoiseMerger,
}
KIT: Mapping[str, str] = {
    "ties": "trims small changes, elects a sign, averages what agrees (2306.01708)",
    "dare_ties": "drops changes at random and rescales the rest, then as ties (2311.03099)",
    "dare_linear": "drops changes at random, rescales the rest and averages (2311.03099)",
    "della": "drops small changes more often than large ones, then as ties (2406.11617)",
    "della_linear": "drops small changes more often than large ones and averages (2406.11617)",
    "breadcrumbs": "leaves out the smallest and the largest changes and averages (2312.06795)",
    "breadcrumbs_ties": "leaves out the smallest and the largest changes, then as ties (2312.06795)",
    "task_arithmetic": "adds up weighted changes (2212.04089)",
    "model_stock": "goes from the base towards the mean as far as the models agree (2403.19522)",
    "sce": "weighs models by the size of their changes (2408.07990)",
    "karcher": "the mean on a sphere",
}
"""What mergekit does, by its names there."""


def parse_merger(written: str) -> Merger:
    """Return the merger that ``NAME@key=value,key=value`` stands for: ours, mergekit's, or ``module:attribute``.

    Raises:
        UsageError: If there is none, or it does not take a setting.
    """
    name, _, settings = written.partition("@")
    if name not in KIT:
        if name not in MERGERS and ":" not in name:
            raise UsageError(f"no way to merge called {name!r}", hint=did_you_mean(name, [*MERGERS, *KIT]))
        return build("merger", written, MERGERS)
    pairs = settings_in(settings) if settings else {}
    if pairs is None:
        raise UsageError(f"cannot read {written!r}", hint="write NAME@key=value,key=value")
    values = {key: yaml.safe_load(value) for key, value in pairs.items() if key != "p"}
    if wrong := [key for key, value in values.items() if not isinstance(value, int | float)]:
        raise UsageError(
            f"{name} does not take {wrong[0]}={pairs[wrong[0]]}", hint="give a number, yes or no"
        )
    seed = values.pop("seed", 0)
    try:
        p = tuple(float(part) for part in pairs.get("p", "").split(",") if part)
    except ValueError as error:
        raise UsageError(f"{name} does not take p={pairs['p']}", hint="write p=0.5,0.5") from error
    return KitMerger(method=name, p=p, settings=tuple(sorted(values.items())), seed=int(seed))


def stream(seed: int, tensor: str) -> np.random.Generator:
    """Return the draws for a tensor: the same for a seed and a name, on every machine and in any order of tensors."""
    digest = hashlib.blake2b(f"{seed} {tensor}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def probabilities(p: Sequence[float], models: int) -> NDArray[np.float64]:
    """Return the probability of each of k models, (k,): as given, or all alike.

    Raises:
        UsageError: If there are fewer than two models, or the numbers are no probabilities of so many.
    """
    if models < 2:
        raise UsageError(f"a merge takes at least 2 models, got {models}")
    if not p:
        return np.full(models, 1 / models)
    if len(p) != models:
        raise UsageError(f"p has {len(p)} probabilities for {models} models")
    if min(p) < 0 or abs(sum(p) - 1) > _SUM_TOLERANCE:
        raise UsageError(
            f"probabilities are at least 0 and sum to 1, got {', '.join(f'{each:g}' for each in p)}, which sum to {sum(p):g}"
        )
    return np.asarray(p, dtype=np.float64)


def drawn(
    weights: NDArray[np.float64], shape: tuple[int, ...], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return a position from 0 to k - 1 for each scalar, drawn by ``weights`` (k,)."""
    number = rng.random(shape, dtype=np.float32)
    choices = np.zeros(shape, dtype=np.uint8)
    for edge in np.cumsum(weights)[:-1]:
        choices += number >= edge
    return choices


def redrawn(
    choices: NDArray[np.uint8],
    moved: NDArray[np.bool_],
    weights: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Return choices (...), those of a value that did not move drawn again among those that did, where there are any.

    Drawing again and again without those that were tried comes to the same: the first that moved is each with the share
    of its weight.
    """
    chosen = np.take_along_axis(moved, choices[None], axis=0)[0]
    possible = moved & (weights > 0).reshape(-1, *[1] * choices.ndim)
    again = ~chosen & possible.any(axis=0)
    edges = np.cumsum(possible[:, again] * weights[:, None], axis=0)  # (k, m)
    number = rng.random(edges.shape[1]) * edges[-1]
    found = choices.copy()
    found[again] = (number >= edges).sum(axis=0)
    return found


def _mean(values: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weighted mean over the first axis, in float64: of equal values, that value."""
    found: NDArray[np.float64] = np.einsum("k,k...->...", weights, values, dtype=np.float64)
    return found
