"""How fast a loss falls: a power law with a floor, fitted to the losses of one source."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.signal import savgol_filter
from threadpoolctl import threadpool_limits

HUBER = 1e-3
"""Residuals of the logarithm above this count by their size, not its square."""
LEAST_FLOOR, STEEPEST, FLATTEST = 0.02, 0.8, 0.01
LONGEST_WINDOW, DEGREE = 101, 3
REFINED, ITERATIONS = 16, 200
SLOWEST = 0.05
"""The least exponent that a slope is computed with."""
_FLOORS = (0.0, 0.2, 0.4, 0.6, 0.75, 0.85, 0.93, 0.98)
_EXPONENTS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8)
_HEIGHTS = (0.125, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
_SAME = 12
"""Digits of a mean residual that tell two fits apart."""


class PowerLaw(NamedTuple):
    """The loss after n tokens: ``epsilon + beta * n ** -alpha``, in nats per token."""

    epsilon: float
    beta: float
    alpha: float

    def slope(self, n: float) -> float:
        """Return how much the loss falls with the next token."""
        return float(max(self.alpha, SLOWEST) * self.beta * n**-self.alpha / n)


def smoothed(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return losses (T,) without their noise, by cubics in windows of a quarter of them at most (Savitzky-Golay)."""
    window = min(LONGEST_WINDOW, len(losses) // 4)
    window -= window % 2 == 0
    if window <= DEGREE:
        return losses
    found: NDArray[np.float64] = savgol_filter(losses, window, DEGREE)
    return found


def fit(tokens: NDArray[np.float64], losses: NDArray[np.float64]) -> PowerLaw | None:
    """Return the power law nearest to losses; None where a loss is not finite, or not above 0.

    512 starts are looked at, the best 16 are refined, and of equally good ones the flattest is taken.

    Args:
        tokens: That were trained on before each, rising, (T,).
        losses: Smoothed, (T,).

    Source: ADO (arXiv 2410.11820) and its code: the objective, and how many starts. Its bounds are those of losses of a
        pretraining (a floor of 1.65 nats and more); ours are relative to the losses that there are. Tokens are counted
        in those of the first point.
    """
    if not np.isfinite(losses).all() or losses.min() <= 0:
        return None
    log_x, log_y = np.log(tokens / tokens[0]), np.log(losses)
    starts, bounds = _starts(losses)
    with threadpool_limits(1, user_api="blas"):
        values, _ = _objective(starts, log_x, log_y)
        best = np.argsort(values, kind="stable")[:REFINED]
        found = [
            minimize(
                lambda theta: tuple(part[0] for part in _objective(theta[None], log_x, log_y)),
                starts[start],
                jac=True,
                bounds=bounds,
                method="L-BFGS-B",
                options={"maxiter": ITERATIONS, "ftol": 1e-12, "gtol": 1e-8},
            )
            for start in best
        ]
    _, alpha, floor, height = min(
        (round(float(each.fun), _SAME), float(each.x[2]), float(each.x[0]), float(each.x[1]))
        for each in found
    )
    return PowerLaw(
        epsilon=float(np.exp(floor)), beta=float(np.exp(height) * tokens[0] ** alpha), alpha=alpha
    )


def _starts(losses: NDArray[np.float64]) -> tuple[NDArray[np.float64], list[tuple[float, float]]]:
    """Return where to begin, (512, 3), and the bounds: of log epsilon, log beta and alpha."""
    highest, scale = float(losses.min()), float(losses.mean())
    lowest = min(LEAST_FLOOR, highest / 2)
    floors = lowest + np.array(_FLOORS) * (highest - lowest)
    heights = max(float(losses[0]), highest) * (1 + 1e-9) - floors
    grid = [
        (np.log(floor), np.log(height * share), exponent)
        for floor, height in zip(floors, heights, strict=True)
        for share in _HEIGHTS
        for exponent in _EXPONENTS
    ]
    bounds = [
        (np.log(lowest), np.log(highest)),
        (np.log(1e-6 * scale), np.log(1e3 * scale)),
        (FLATTEST, STEEPEST),
    ]
    return np.array(grid), bounds


def _objective(
    theta: NDArray[np.float64], log_x: NDArray[np.float64], log_y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean Huber loss of the logarithms over ``HUBER``, (S,), and its gradient, (S, 3)."""
    floor, height, exponent = (theta[:, place, None] for place in range(3))
    falling = height - exponent * log_x  # (S, T)
    fitted = np.logaddexp(floor, falling)
    residual = fitted - log_y
    size = np.abs(residual)
    value = np.where(size <= HUBER, 0.5 * residual * residual / HUBER, size - 0.5 * HUBER)
    pull, share = np.clip(residual / HUBER, -1.0, 1.0), np.exp(falling - fitted)
    gradient = [(pull * (1 - share)), pull * share, -pull * share * log_x]
    return value.mean(axis=1), np.stack([each.mean(axis=1) for each in gradient], axis=1)
