"""What a loaded model says, for tests: texts alone, and vectors of examples."""

import numpy as np

from learnable.models.losses import batch_embeddings
from learnable.settings import Sampling


def texts_of(model, conversations, *, seeds=(), **settings):
    """Return the next answer to each conversation; greedy unless a temperature is among the settings of ``Sampling``."""
    sampling = Sampling(**{"temperature": 0.0, "top_p": 1.0, **settings})
    texts = [""] * len(conversations)
    for positions, answers in model.answers(conversations, sampling=sampling, seeds=seeds):
        for position, answer in zip(positions, answers, strict=True):
            texts[position] = answer.text
    return texts


def vectors_of(model, rendered):
    """Return one vector for each example, (n, d)."""
    return np.stack(list(model.begin(batch_embeddings, rendered)()))
