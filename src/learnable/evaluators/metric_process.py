"""A metric that is a model, in a process of its own: ``python metric_process.py METRIC WEIGHTS``.

It is run by the Python (3.9 or later) of an environment that has the metric's package, and need not have this one.
It says first whether the package is there; then, for each line of its input, a JSON list of translations, it answers
with a line of their scores. The weights are loaded once, with the first of them.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

BATCH = 16

Translations = list[dict[str, str]]
Scorer = Callable[[Translations], Any]


def comet(package: Any, weights: str) -> Scorer:
    """Return what scores translations: ``source``, ``answer``, ``reference``."""
    model = package.load_from_checkpoint(weights)
    gpus = int(importlib.import_module("torch").cuda.is_available())

    def score(given: Translations) -> Any:
        rows = [{"src": one["source"], "mt": one["answer"], "ref": one["reference"]} for one in given]
        return model.predict(rows, batch_size=BATCH, gpus=gpus, progress_bar=False).scores

    return score


def bleurt(package: Any, weights: str) -> Scorer:
    """Return what scores translations: ``answer``, ``reference``."""
    scorer = package.BleurtScorer(weights)

    def score(given: Translations) -> Any:
        answers, references = ([one[key] for one in given] for key in ("answer", "reference"))
        return scorer.score(references=references, candidates=answers, batch_size=BATCH)

    return score


METRICS: dict[str, tuple[str, Callable[[Any, str], Scorer]]] = {
    "comet": ("comet", comet),
    "bleurt": ("bleurt.score", bleurt),
}


def main(metric: str, weights: str) -> None:
    """Answer until the input ends."""
    # Libraries print to standard output, where only answers may go.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    logging.disable(logging.INFO)
    # TensorFlow takes all memory of a GPU otherwise, and the evaluated model is there too.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

    def answer(**told: Any) -> None:
        answers.write(json.dumps(told) + "\n")
        answers.flush()

    name, load = METRICS[metric]
    try:
        package = importlib.import_module(name)
    except Exception as error:  # one that is there and too old raises anything
        answer(missing=f"{type(error).__name__}: {error}")
        return
    answer(missing=None)
    score: Scorer | None = None
    for line in sys.stdin:
        try:
            score = score or load(package, weights)
            answer(scores=[float(value) for value in score(json.loads(line))])
        except Exception as error:  # outside code
            answer(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    # Modules beside this one have names of packages.
    sys.path = [place for place in sys.path if Path(place) != Path(__file__).parent]
    main(*sys.argv[1:])
