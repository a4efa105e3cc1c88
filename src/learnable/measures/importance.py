"""How much likelier the words of an example are in a target than in the pool."""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import xxhash
from numpy.typing import NDArray

BUCKETS = 10_000
SHARE = 0.5
"""Of the target's own frequencies in those that stand for it; the rest are the pool's, so that no n-gram is impossible."""
_WORD = re.compile(r"\w+|[^\w\s]")


def log_importance(texts: Sequence[str], target: Iterable[str]) -> NDArray[np.float64]:
    """Return the mean log-ratio of each text's n-grams, target over pool, in nats, (n,); NaN for a text without words.

    Args:
        texts: n texts, the pool.
        target: Texts of the target.

    Source: DSIR (2302.03169): unigrams and bigrams hashed into 10,000 buckets, a bag of n-grams for each side. What
    differs: the mean over a text's n-grams where DSIR adds them up, as its texts are of one length; and the target's
    frequencies are mixed with the pool's, as a target here is a few rows.
    """
    grams = [_grams(text) for text in texts]
    pool = _frequencies(grams, smoothing=1.0)
    aimed = SHARE * _frequencies(map(_grams, target), smoothing=0.0) + (1 - SHARE) * pool
    ratio = np.log(aimed) - np.log(pool)
    return np.array([ratio[own].mean() if len(own) else np.nan for own in grams])


def _grams(text: str) -> NDArray[np.int64]:
    """Return the buckets of a text's words and pairs of words."""
    words = _WORD.findall(text.lower())
    pairs = [f"{one} {other}" for one, other in pairwise(words)]
    return np.array(
        [xxhash.xxh3_64_intdigest(gram.encode()) % BUCKETS for gram in (*words, *pairs)], dtype=np.int64
    )


def _frequencies(grams: Iterable[NDArray[np.int64]], *, smoothing: float) -> NDArray[np.float64]:
    counts = np.full(BUCKETS, smoothing)
    for own in grams:
        counts += np.bincount(own, minlength=BUCKETS)
    return np.asarray(counts / max(counts.sum(), 1.0))
