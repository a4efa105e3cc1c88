"""``learnable train``: a model in, a fine-tuned one out."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from learnable import data as rows
from learnable.commands.inputs import (
    given_part,
    length_limit,
    look_up,
    most_bad,
    pinned,
    pool_of,
    render_rows,
    to_fetch,
)
from learnable.commands.options import Flat, Output, Several
from learnable.errors import UsageError
from learnable.experiments import Init
from learnable.runs.identity import fingerprint
from learnable.runs.records import Outcome
from learnable.runs.step import Finished, Step, run
from learnable.settings import Loading, NewToken, NewTokens, Reading, Reference
from learnable.types import ModelRef, Pool

if TYPE_CHECKING:
    from learnable.training import Trained


def train(
    data: list[str],
    *,
    model: str = "starter",
    reference: Annotated[Reference, Flat] = Reference(),
    loading: Annotated[Loading, Flat] = Loading(),
    reading: Annotated[Reading, Flat] = Reading(),
    tokens: Annotated[list[str] | None, Several] = None,
    init: Init = "description",
    max_length: int | None = None,
    processes: int = 1,
    dry_run: bool = False,
    output: Output = "reference",
) -> Outcome:
    """Fine-tune a model on a pool: a reference, in-sample or cross-fitted in folds, or a model with new tokens.

    With `--tokens` the folder itself holds the whole trained model, which plain transformers loads.

    Args:
        data: Files, or a folder that `learnable load` wrote.
        model: Folder, hub id, GGUF file, or `starter`.
        reference: How to fine-tune.
        loading: How to load the model.
        reading: How to read rows.
        tokens: New tokens, each `"<sep>=what it means"`. Only their rows of the embedding are trained, beside LoRA.
        init: How the row of a new token begins: random, mean (of all rows), or description (mean of its meaning's).
        max_length: Longest example in tokens; 2,048 or the model's own limit when not given.
        processes: Train as so many processes that share each batch, on a GPU each or on some cores each. The result
            is the same up to rounding. Started by `torchrun`, its processes train together instead.
        dry_run: Say what would run, and run nothing.
        output: Folder to write.
    """
    _join_launcher()
    ref = ModelRef(name=model, **asdict(loading))
    longest = length_limit(ref, max_length)
    new = _new_tokens(tokens, init, reference)
    look_up(reference.model, loading, reference=True)
    pool, loaded = pool_of(data, reading, output, dry_run=dry_run)
    from learnable.models.source import identify

    awaits = to_fetch(ref) if dry_run else []
    ref = ref if awaits else pinned(ref)
    loading = replace(loading, dtype=ref.dtype)
    given = None if reference.model is None or awaits else given_part(reference.model, loading)
    inputs = {"pool": loaded.identity, "base": "" if awaits else identify(ref)}
    if given is not None:
        inputs["given"] = given[2]
    training = _Training(
        ref=ref, pool=pool, reference=reference, new=new, given=given, longest=longest, processes=processes
    )
    step = Step(
        verb="train",
        parameters=training.parameters,
        inputs=inputs,
        links={"pool": loaded.folder},
        says=[training.words],
        awaits=awaits,
        work=partial(training.work, most_refused=most_bad(loaded)),
    )
    return run(step, output, dry_run=dry_run)


@dataclass(frozen=True, kw_only=True)
class _Training:
    """What is to be trained; ``given`` is the model that stands for it where the user has one."""

    ref: ModelRef
    pool: Pool
    reference: Reference
    new: NewTokens | None
    given: tuple[str, Literal["adapter", "model"], str] | None
    longest: int
    processes: int

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
        facts: dict[str, Any] = {"base": self.ref.name, "folds": reference.folds}
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
            prompts=[rows.prompt_key(example, draw=self.reference.seed) for example in examples],
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


def _join_launcher() -> None:
    """Under a launcher such as torchrun, only the main process comes out of here; the others train with it."""
    if "RANK" in os.environ:
        from learnable.training import join

        join()


def _new_tokens(tokens: Sequence[str] | None, init: Init, reference: Reference) -> NewTokens | None:
    if not tokens:
        return None
    plain = (reference.model, reference.method, reference.folds, reference.fraction) == (None, "lora", 0, 1.0)
    if not plain or reference.last_epoch_loss:
        raise UsageError(
            "new tokens are trained with LoRA on all rows: no folds, no fraction, no full fine-tuning, no losses kept",
            hint="leave --folds, --fraction, --method, --last-epoch-loss and --reference.model out",
        )
    return NewTokens(
        added=tuple(map(NewToken.parse, tokens)),
        init=init,
        init_seed=reference.seed if init == "random" else 0,
    )
