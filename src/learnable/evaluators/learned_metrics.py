"""Metrics of translation that are models themselves, COMET and BLEURT: weights that the user has, in their own process."""

import atexit
import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from learnable.errors import ModelError, UsageError
from learnable.evaluators import metric_process
from learnable.runs.progress import say

Translated = Mapping[str, str]
"""``source``: a text; ``answer``: its translation by a model; ``reference``: that of the reference."""


class Learned(NamedTuple):
    """What the weights of a metric are, how to tell them, and how to install its package."""

    weights: str
    has: Callable[[Path], bool]
    install: str


LEARNED: Mapping[str, Learned] = {
    "comet": Learned(
        weights="the file checkpoints/model.ckpt of a COMET model, beside whose folder hparams.yaml stands",
        has=lambda path: path.is_file() and (path.parents[1] / "hparams.yaml").is_file(),
        install="unbabel-comet takes a transformers below 5, learnable one above: install it into an environment of "
        "its own and name that one's Python: python=PATH",
    ),
    "bleurt": Learned(
        weights="the folder of a BLEURT checkpoint, with bleurt_config.json",
        has=lambda path: (path / "bleurt_config.json").is_file(),
        install="install bleurt from its repository, google-research/bleurt, here or into an environment of its own, "
        "and name that one's Python: python=PATH",
    ),
}


def learned_metric(metric: str, weights: str, python: str | None) -> "MetricProcess":
    """Return the process of a metric, started; the weights are loaded when they are needed.

    Raises:
        UsageError: If the weights, the Python or the package are not there.
    """
    # Not resolved: in the cache of the hub the file is a link to elsewhere, and what stands beside it counts.
    path = Path(weights).absolute()
    if not LEARNED[metric].has(path):
        raise UsageError(f"no weights of {metric} at {weights}", hint=f"it takes {LEARNED[metric].weights}")
    return _started(metric, path, python or sys.executable)


class MetricProcess:
    """A metric in a process of its own."""

    def __init__(self, metric: str, weights: Path, python: str) -> None:
        self._metric, self._weights = metric, weights
        try:
            self._child = subprocess.Popen(
                [python, metric_process.__file__, metric, str(weights)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="utf-8",
            )
        except OSError as error:
            raise UsageError(f"cannot run the Python {python}: {error}", hint="check python=PATH") from error
        atexit.register(self.close)
        if missing := self._answer()["missing"]:
            self.close()
            raise UsageError(
                f"{metric} needs its package in {python}: {missing}", hint=LEARNED[metric].install
            )

    def scores(self, translations: Sequence[Translated]) -> list[float]:
        """Return the score of each translation, in the metric's own scale; ``ModelError`` if it fails."""
        if len(translations) > 1:
            say(f"{self._metric}: grading {len(translations):,} translations")
        assert self._child.stdin is not None
        with contextlib.suppress(OSError):  # it has ended, which the missing answer tells
            self._child.stdin.write(json.dumps(translations) + "\n")
            self._child.stdin.flush()
        answer = self._answer()
        if "error" in answer:
            raise ModelError(
                f"{self._metric} cannot grade with {self._weights}: {answer['error']}",
                hint=LEARNED[self._metric].install,
            )
        scores: list[float] = answer["scores"]
        return scores

    def close(self) -> None:
        """End the process."""
        atexit.unregister(self.close)
        self._child.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise ModelError(
                f"the process of {self._metric} ended with exit code {self._child.wait()}",
                hint="what it wrote stands above; there may be too little memory for its weights",
            )
        told: dict[str, Any] = json.loads(line)
        return told


_started = cache(MetricProcess)
"""There is one process of a metric as long as this one runs."""
