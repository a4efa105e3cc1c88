"""What ``compare`` and ``teach`` share: one model, arms that begin from it, and what is said of how they were trained."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from learnable.commands.network import Network
from learnable.evaluators import Evaluation
from learnable.experiments import Arm, SelectionCost, run_arms
from learnable.experiments.run import ArmRun, Look
from learnable.runs.files import replacing
from learnable.runs.identity import fingerprint
from learnable.settings import Tuning


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Where and how arms are trained and asked: the options that both commands have, which explain them."""

    network: Network
    tuning: Tuning
    seeds: int
    confidence: float
    store: Path

    @property
    def parameters(self) -> dict[str, Any]:
        """What the result depends on."""
        return {
            "tuning": fingerprint(self.tuning),
            "seeds": self.seeds,
            "max_length": self.network.longest,
            "confidence": self.confidence,
        }

    def run(
        self,
        arms: Sequence[Arm],
        evaluations: Sequence[Evaluation],
        *,
        baseline: str,
        costs: Mapping[str, SelectionCost] | None = None,
        looks: Mapping[str, Look] | None = None,
    ) -> tuple[ArmRun, dict[str, Any]]:
        """Return arms, trained and graded (see ``run_arms``), and the facts of it that both commands tell."""
        ran = run_arms(
            arms,
            evaluations,
            max_length=self.network.longest,
            store=self.store,
            open_model=self.network.open,
            baseline=baseline,
            confidence=self.confidence,
            costs=costs,
            looks=looks,
        )
        facts = {
            "model": self.network.ref.name,
            "evaluations": [each.label for each in evaluations],
            "seeds": self.seeds,
            "confidence": self.confidence,
            "tuning": asdict(self.tuning) | {"learning_rate": self.tuning.peak_learning_rate},
        }
        return ran, facts


def keep_model(arm: Arm, trained: Path, folder: Path) -> None:
    """Write the model of an arm whole, loadable by plain transformers."""
    from learnable.training import save_whole

    if arm.tuning.method == "lora":
        save_whole(arm.base, trained, folder)
        return
    with replacing(folder) as part:
        shutil.copytree(trained, part, ignore=shutil.ignore_patterns("training.json"))
