"""The arithmetic of federated fine-tuning: who has which rows, which weights move, what a server makes of updates.

Arrays in, arrays out; no training and no network. Letters: C clients, r the rank, k classes.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np
from numpy.typing import NDArray

from learnable.errors import UsageError, did_you_mean
from learnable.packages import needed
from learnable.spec import settings_in

Floats = NDArray[np.float32]
Places = NDArray[np.int64]
Arrays = Mapping[str, Floats]
"""What travels, by name: float32 each."""

Residual = Literal["keep", "drop"]
Aggregate = Literal["factors", "freeze_A", "product"]
Mask = Literal["random", "rows"]
CENTRAL, LORA, SLORA, SPARSE, FULL = "central", "lora", "slora", "sparse", "full"
ARMS = (LORA, SLORA, SPARSE, FULL)
"""What can be trained federated; ``central``, one training on all rows, stands beside."""

SCALE = 2.0
"""alpha / r of every LoRA adapter here: alpha is twice the rank."""
REDRAWS = 20_000
_SETTINGS = {"residual": get_args(Residual), "aggregate": get_args(Aggregate), "mask": get_args(Mask)}
_TAKES = {LORA: ("aggregate",), SLORA: tuple(_SETTINGS), SPARSE: ("mask",), FULL: ()}
_BITS = 11  # of 64 that a float64 in [0, 1) has no place for


@dataclass(frozen=True, kw_only=True)
class FederatedArm:
    """One way to train in a federation.

    Args:
        name: ``lora`` (FedAvg of adapters), ``slora`` (sparse rounds, then LoRA from their decomposition), ``sparse``
            (all rounds sparse), or ``full`` (all weights of the linear layers).
        residual: What the decomposition leaves over goes into the frozen weights of stage 2 (``keep``), or is
            lost (``drop``, the paper).
        aggregate: The server averages A and B (``factors``, the paper), B alone with a common A (``freeze_A``), or the
            products B A, which it decomposes again (``product``).
        mask: Weights that move in sparse rounds: drawn one by one (``random``, the paper), or whole ``rows``.
        label: As written.
    """

    name: str
    residual: Residual = "keep"
    aggregate: Aggregate = "factors"
    mask: Mask = "random"
    label: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str, *, usual: "FederatedArm") -> Self:
        """Read ``slora`` or ``slora@residual=drop``; what is not written is as in ``usual``.

        Raises:
            UsageError: If there is no such arm, or a setting has no effect on it.
        """
        name, at, written = text.partition("@")
        if name == CENTRAL:
            raise UsageError("central is always trained, beside the arms", hint="leave it out of --arms")
        if name not in ARMS:
            raise UsageError(f"no arm called {text!r}", hint=did_you_mean(name, ARMS))
        takes = {key: values for key, values in _SETTINGS.items() if key in _TAKES[name]}
        found = settings_in(written) if at else {}
        if found is None or any(value not in takes.get(key, ()) for key, value in found.items()):
            known = "; ".join(f"{key} is {', '.join(values)}" for key, values in takes.items())
            raise UsageError(f"cannot read the arm {text!r}", hint=known or f"{name} has no settings")
        own: dict[str, Any] = {key: found.get(key, getattr(usual, key)) for key in takes}
        return cls(name=name, label=text, **own)


def dirichlet_split(
    labels: Sequence[str], *, clients: int, alpha: float, seed: int, min_rows: int = 1
) -> list[Places]:
    """Give each row to one of C clients, the classes in shares that differ more the smaller ``alpha`` is.

    For each class, shares over clients are drawn from Dir(alpha), and its shuffled rows are cut by them; all is drawn
    again while a client has fewer than ``min_rows``.

    Args:
        labels: The class of each row, (n,).
        clients: C, at least 2.
        alpha: Above 0; the larger, the more alike the clients.
        seed: Of the draws.
        min_rows: Fewest rows of a client.

    Returns:
        Positions of the rows of each client, int64, ascending.

    Raises:
        UsageError: If the rows do not suffice, alpha is not above 0, or there is one class only.

    Source: Hsu, Qi and Brown (1909.06335) draw shares of classes for each client; cutting each class by shares over
        clients is the form of Yurochkin et al. (1905.12022), without their limit at an even part of all rows.
    """
    check_split(len(labels), clients=clients, alpha=alpha, min_rows=min_rows)
    classes, members = np.unique(np.asarray(labels), return_inverse=True)
    if len(classes) < 2:
        raise UsageError(
            f"all {len(labels):,} rows have one label, {classes[0]!r}: there is nothing to divide unevenly",
            hint="name another column with --by, or --by cluster",
        )
    rng = np.random.default_rng([seed, clients])
    for _ in range(REDRAWS):
        owner = np.empty(len(labels), dtype=np.int64)
        for number in range(len(classes)):
            rows = rng.permutation(np.flatnonzero(members == number))
            borders = np.cumsum(rng.dirichlet(np.full(clients, alpha)))[:-1]
            for client, part in enumerate(np.split(rows, np.round(borders * len(rows)).astype(np.int64))):
                owner[part] = client
        if np.bincount(owner, minlength=clients).min() >= min_rows:
            return [np.flatnonzero(owner == client) for client in range(clients)]
    raise UsageError(
        f"{REDRAWS:,} draws with alpha {alpha:g} left a client of {clients} with fewer than {min_rows} rows",
        hint="raise --alpha, or lower --clients or --min-rows",
    )


def check_split(rows: int, *, clients: int, alpha: float, min_rows: int) -> None:
    """Refuse what cannot be divided so, see ``dirichlet_split``."""
    if clients < 2 or min_rows < 1:
        raise UsageError(f"a federation has 2 clients or more with a row each, got {clients} and {min_rows}")
    if not alpha > 0:
        raise UsageError(f"alpha must be above 0, got {alpha}", hint="0.1 is uneven, 10 nearly even")
    if rows < clients * min_rows:
        raise UsageError(
            f"{rows:,} rows are too few for {clients} clients with {min_rows} each",
            hint="give more rows, or lower --clients or --min-rows",
        )


def label_distance(labels: Sequence[str], split: Sequence[Places]) -> NDArray[np.float64]:
    """Return how far the labels of each client are from those of all rows: total variation, from 0 to 1, (C,)."""
    _, members = np.unique(np.asarray(labels), return_inverse=True)
    shares = [np.bincount(members[own], minlength=members.max() + 1) / max(len(own), 1) for own in split]
    pool = np.bincount(members) / len(members)
    found: NDArray[np.float64] = 0.5 * np.abs(np.array(shares) - pool).sum(axis=1)
    return found


def drawn_bits(seed: int, name: str, count: int) -> NDArray[np.uint64]:
    """Return 64 random bits, count times, the same on every machine: Philox under a key made of seed and name."""
    key = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=16).digest()
    bits = np.random.Philox(key=int.from_bytes(key, "little")).random_raw(count)
    return np.asarray(bits, dtype=np.uint64)


def masked(
    shape: tuple[int, int], *, density: float, seed: int, name: str, mask: Mask = "random"
) -> Places | None:
    """Return which scalars of a weight move, places in the flattened weight, int64, ascending; None for all.

    Every client draws the same from the common seed, so that places are never sent.

    Args:
        shape: Of the weight, (d_out, d_in).
        density: Share of its scalars, or of its rows, in (0, 1].
        seed: Common to all clients.
        name: Of the weight.
        mask: See ``FederatedArm``.

    Raises:
        UsageError: If the density is no share, or leaves no scalar of the weight.
    """
    if not 0 < density <= 1:
        raise UsageError(f"density is a share above 0 and at most 1, got {density}", hint="0.01 is 1%")
    if density == 1:
        return None
    rows, columns = shape
    size = rows * columns if mask == "random" else rows
    if density * size < 1:
        what = "weights" if mask == "random" else "rows"
        raise UsageError(
            f"density {density:g} leaves less than one of the {size:,} {what} of {name}",
            hint=f"take at least {1 / size:.2g}",
        )
    moved = round(density * size)
    drawn = np.sort(np.argpartition(drawn_bits(seed, name, size), moved - 1)[:moved]).astype(np.int64)
    return drawn if mask == "random" else (drawn[:, None] * columns + np.arange(columns)).reshape(-1)


def equal_density(shapes: Sequence[tuple[int, int]], *, rank: int, aggregate: Aggregate = "factors") -> float:
    """Return at which density sparse rounds send as many scalars as LoRA of a rank: r sum(d_out + d_in) / sum(d_out d_in)."""
    sent = sum(rank * (rows + (0 if aggregate == "freeze_A" else columns)) for rows, columns in shapes)
    return min(1.0, sent / sum(rows * columns for rows, columns in shapes))


def begun_factor(shape: tuple[int, int], *, rank: int, seed: int, name: str) -> Floats:
    """Return A as a fresh adapter has it, uniform in +-1/sqrt(d_in), float32 (r, d_in); the same for all clients.

    Source: PEFT begins A so (Kaiming, a = sqrt 5) and B with 0; only the random numbers are others.
    """
    unit = (drawn_bits(seed, name, rank * shape[1]) >> np.uint64(_BITS)) * 2.0**-53
    values = (2 * unit - 1) / np.sqrt(shape[1])
    return np.asarray(values.reshape(rank, shape[1]), dtype=np.float32)


class Factors(NamedTuple):
    """A change of rank r: ``A`` float32 (r, d_in), ``B`` float32 (d_out, r), and the share of its energy they keep."""

    A: Floats
    B: Floats
    energy: float

    @property
    def change(self) -> Floats:
        """The change itself, s B A, float32 (d_out, d_in)."""
        return SCALE * (self.B @ self.A)


def decompose(change: Floats, *, rank: int, scale: float = SCALE) -> Factors:
    """Return the best change of rank r: B = U_r S_r / s, A = V_r^T.

    The sign is fixed by the largest entry of each column of U, so that it is the same on every machine. The energy kept
    is sum(S_r^2) / sum(S^2); NaN of a change that is 0.

    Args:
        change: float32 (d_out, d_in).
        rank: r, at most the smaller side.
        scale: s, the factor of an adapter.

    Source: SLoRA (2308.06522), stage 2; how it splits S between the factors is unknown, and S goes into B as in a
        public baseline of FlexLoRA.
    """
    return _truncated(*np.linalg.svd(change.astype(np.float64), full_matrices=False), rank=rank, scale=scale)


def averaged_product(
    clients: Sequence[tuple[Floats, Floats]], weights: Sequence[float], *, rank: int, scale: float = SCALE
) -> Factors:
    """Return the mean of the products B A of clients, weighted, as factors of rank r again.

    Exact where the mean has rank r. No dense product is made: the factors of all are stacked, and what is decomposed
    has C r rows and columns.

    Args:
        clients: A (r, d_in) and B (d_out, r) of each.
        weights: Of each, above 0.
        rank: r.
        scale: As of ``decompose``; the mean product is multiplied by it there.

    Source: FlexLoRA (2402.11505).
    """
    total = sum(weights)
    tall = np.hstack(
        [
            scale * weight / total * B.astype(np.float64)
            for (_, B), weight in zip(clients, weights, strict=True)
        ]
    )
    wide = np.vstack([A.astype(np.float64) for A, _ in clients])
    left, inner = np.linalg.qr(tall)
    right, outer = np.linalg.qr(wide.T)
    U, S, V = np.linalg.svd(inner @ outer.T, full_matrices=False)
    return _truncated(left @ U, S, V @ right.T, rank=rank, scale=scale)


def _truncated(
    U: NDArray[np.float64], S: NDArray[np.float64], V: NDArray[np.float64], *, rank: int, scale: float
) -> Factors:
    largest = U[np.abs(U).argmax(axis=0), np.arange(U.shape[1])]
    signs = np.where(largest < 0, -1.0, 1.0)
    B, A = (U * signs * S / scale)[:, :rank], (V * signs[:, None])[:rank]
    whole = float((S**2).sum())
    energy = float((S[:rank] ** 2).sum()) / whole if whole > 0 else float("nan")
    return Factors(A.astype(np.float32), B.astype(np.float32), energy)


StageKind = Literal["sparse", "full", "lora"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a server asks of a client in a round, counted from 1 over all stages.

    ``arrays`` are the values to begin with. ``start``, with the first task of stage 2 that a client sees, is where
    stage 1 ended.
    """

    stage: StageKind
    round: int
    arrays: Arrays
    start: Arrays | None = None


@dataclass(frozen=True, kw_only=True)
class Update:
    """What a client sends: values by name, of how many rows, and what their training was. No row leaves it, and no text.

    ``loss`` is the mean over its steps, in nats per token, as the training met its rows.
    """

    arrays: Arrays
    rows: int
    tokens: int = 0
    steps: int = 0
    loss: float = float("nan")


def check_update(update: Update, like: Arrays) -> str | None:
    """Return why an update cannot be averaged: other names or shapes, no rows, or a value that is not finite."""
    if update.rows < 1:
        return f"it counts {update.rows} rows"
    if {name: each.shape for name, each in update.arrays.items()} != {
        name: each.shape for name, each in like.items()
    }:
        return "its values have other names or shapes than were sent"
    if broken := next((name for name, each in update.arrays.items() if not np.isfinite(each).all()), None):
        return f"{broken} has values that are not finite"
    return None


@dataclass(kw_only=True)
class Mean:
    """The mean of updates, weighted by rows, as they come in: sum n_c v_c / sum n_c, in float64.

    With ``product`` the values are factors ``<layer>.A`` and ``<layer>.B``, of which the products are averaged; all are
    kept until the end then.
    """

    product: bool = False
    rows: int = 0
    _sums: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    _kept: list[Update] = field(default_factory=list)

    def add(self, update: Update) -> None:
        """Take one in."""
        self.rows += update.rows
        if self.product:
            self._kept.append(update)
            return
        for name, values in update.arrays.items():
            weighted = update.rows * values.astype(np.float64)
            self._sums[name] = self._sums[name] + weighted if name in self._sums else weighted

    def result(self) -> dict[str, Floats]:
        """Return the mean, float32 by name."""
        if not self.product:
            return {name: (total / self.rows).astype(np.float32) for name, total in self._sums.items()}
        weights, found = [each.rows for each in self._kept], dict[str, Floats]()
        for name in [each[: -len(".A")] for each in self._kept[0].arrays if each.endswith(".A")]:
            pairs = [(each.arrays[f"{name}.A"], each.arrays[f"{name}.B"]) for each in self._kept]
            factors = averaged_product(pairs, weights, rank=len(pairs[0][0]))
            found |= {f"{name}.A": factors.A, f"{name}.B": factors.B}
        return found


def digest(values: Arrays | None) -> str:
    """Return a hash of the bits of values; empty of none."""
    if values is None:
        return ""
    found = hashlib.blake2b(digest_size=16)
    for name, array in values.items():
        found.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def check_flower(*, by: str) -> None:
    """Import Flower with its telemetry off; where it is not installed, say what needs it and how to install it.

    Raises:
        UsageError: With the command that installs it.
    """
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # read when it is imported
    needed("flwr", by=by, extra="federated")
