"""A CountSketch of gradients: short vectors whose products are those of the long ones, but for noise."""

import hashlib
from functools import cache

import numpy as np
import torch

SKETCH_VERSION = 1
"""Of the hash: sketches of another one are not comparable."""


class CountSketch:
    """Adds up coordinates with random signs in random buckets: ``found`` float32 (n, d).

    Products of two sketches have the products of the vectors for their mean, and the variance of a random projection:
    ``(|x|^2 |y|^2 + <x, y>^2 - 2 sum x_i^2 y_i^2) / d``. Sign and bucket of a coordinate depend on its parameter's
    name, its place there and the seed, on every machine alike.

    Args:
        dimensions: d.
        seed: Of the map.

    Source: Charikar, Chen and Farach-Colton (2002). LESS (2402.04333) projects with a dense matrix of random signs: d
        additions for each coordinate, where this is one.
    """

    def __init__(self, *, dimensions: int, seed: int) -> None:
        self._dimensions, self._seed = dimensions, seed
        self.found = torch.zeros(0)

    def add(self, name: str, gradients: torch.Tensor) -> None:
        """Take the gradients of one parameter, float32 (n, P)."""
        if not len(self.found):
            self.found = gradients.new_zeros(len(gradients), self._dimensions)
        buckets, signs = _places(name, gradients.shape[1], self._dimensions, self._seed, gradients.device)
        self.found.scatter_add_(1, buckets.expand(len(gradients), -1), gradients * signs)


@cache
def _places(
    name: str, size: int, dimensions: int, seed: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the bucket, int64 (P,), and the sign, float32 (P,), of each coordinate of a parameter."""
    digest = hashlib.blake2b(f"{SKETCH_VERSION} {seed} {name}".encode(), digest_size=16).digest()
    # Philox hashes a counter under a key; its raw numbers are the same in every version of numpy.
    drawn = np.random.Philox(key=np.frombuffer(digest, dtype="<u8")).random_raw(size)
    buckets = ((drawn >> np.uint64(1)) % np.uint64(dimensions)).astype(np.int64)
    signs = ((drawn & np.uint64(1)) * 2).astype(np.float32) - 1
    return torch.from_numpy(buckets).to(device), torch.from_numpy(signs).to(device)
