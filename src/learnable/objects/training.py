"""Training a model on a pool: a reference in parts, or a model with new tokens."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from learnable.data import prompt_key
from learnable.objects.given import render_rows
from learnable.runs.identity import fingerprint
from learnable.runs.step import Finished
from learnable.settings import NewTokens, Reference
from learnable.types import ModelRef, Pool

if TYPE_CHECKING:
    from learnable.training import Trained


@dataclass(frozen=True, kw_only=True)
class ReferenceTraining:
    """What is to be trained.

    Args:
        name: What the model is called.
        ref: The model to start from.
        pool: What to train on.
        reference: How.
        longest: Longest example in tokens.
        new: Tokens that the model gets.
        given: The model that stands for it where the user has one: where it is, what it is, and its identity.
        processes: As for ``fine_tune``.
    """

    name: str
    ref: ModelRef
    pool: Pool
    reference: Reference
    longest: int
    new: NewTokens | None = None
    given: tuple[str, Literal["adapter", "model"], str] | None = None
    processes: int = 1

    @property
    def parameters(self) -> dict[str, Any]:
        """What the result depends on, beside its inputs."""
        parameters: dict[str, Any] = {}
        if self.reference.model is None:
            parameters = asdict(self.reference) | {"max_length": self.longest}
            if not self.reference.last_epoch_loss:
                del parameters["last_epoch_loss"]  # it came later; references without it are what they were
            if self.reference.folds:
                parameters["folds by"] = "prompt"  # a reference whose folds went by id is another one
        if self.new is not None:
            parameters["tokens"] = fingerprint(self.new)
        return parameters

    @property
    def words(self) -> str:
        """What it will do."""
        if self.reference.model is not None:
            return "no pass: the reference is given"
        passes = self.reference.passes
        return f"{passes:g} training pass{'' if passes == 1 else 'es'} over {len(self.pool):,} examples"

    @property
    def facts(self) -> dict[str, Any]:
        """Figures to show."""
        reference = self.reference
        facts: dict[str, Any] = {"base": self.name, "folds": reference.folds}
        if reference.model is not None:
            facts |= {"kind": "given", "model": reference.model}
        else:
            facts |= {"kind": "trained", "method": reference.method, "epochs": reference.epochs}
            facts |= {"fraction": reference.fraction, "learning rate": reference.peak_learning_rate}
        if reference.model is None and reference.last_epoch_loss:
            facts["loss after"] = "as the last epoch met it" + (
                "; of one epoch, what is met first is met before anything is learned"
                if reference.epochs < 2
                else ""
            )
        if self.new is not None:
            facts["tokens"] = str(self.new)
        return facts

    def work(self, folder: Path, *, most_refused: float) -> Finished:
        """Train into a folder."""
        from learnable.training import given_reference

        trainings: list[Trained] = []
        if self.given is not None:
            given_reference(self.given[0], self.given[1], folder)
        elif self.new is not None:
            trainings = self._with_tokens(self.new, folder, most_refused)
        else:
            trainings = self._reference(folder, most_refused)
        return Finished(
            facts=self.facts,
            tokens=sum(each.tokens for each in trainings if each.ran),
            passes=self.reference.passes,
            at_least_s=sum(each.seconds for each in trainings),
        )

    def _reference(self, folder: Path, most_refused: float) -> "list[Trained]":
        from learnable.models import Renderer
        from learnable.training import train_reference

        examples = list(self.pool.iter_examples())
        renderer = Renderer.of(self.ref)
        return train_reference(
            self.ref,
            render_rows(renderer, examples, max_length=self.longest, most_refused=most_refused),
            self.pool.examples["source"].to_list(),
            folder,
            prompts=[prompt_key(example, draw=self.reference.seed) for example in examples],
            reference=self.reference,
            processes=self.processes,
        )

    def _with_tokens(self, new: NewTokens, folder: Path, most_refused: float) -> "list[Trained]":
        """Write the whole trained model; return its training."""
        from learnable.models import Renderer, token_ids, with_tokens
        from learnable.training import fine_tune, given_reference, save_whole

        trainings = []
        # A configuration is what a whole model gets last: a run that was killed after it has only to clear up.
        if not (folder / "config.json").is_file():
            base = with_tokens(self.ref, new, folder / "base")
            examples = list(self.pool.iter_examples())
            renderer = Renderer.of(base)
            trained = fine_tune(
                base,
                render_rows(renderer, examples, max_length=self.longest, most_refused=most_refused),
                folder / "adapter",
                tuning=self.reference,
                label="training",
                token_ids=token_ids(base, new),
                processes=self.processes,
            )
            trainings.append(trained)
            save_whole(base, folder / "adapter", folder)
        given_reference(".", "model", folder)
        for leftover in (folder / "base", folder / "adapter", *folder.glob("merged*")):
            shutil.rmtree(leftover, ignore_errors=True)  # all of it is in the whole model
        return trainings
