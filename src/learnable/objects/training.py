"""Training a model on rows: a reference in parts, or a model with new tokens."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import polars as pl

from learnable.data import pool_identity, prompt_key
from learnable.data.target import Target, shared_with_target
from learnable.deferred import models, training
from learnable.errors import UsageError
from learnable.measures import answers_alone
from learnable.objects.given import checked_settings, length_limit
from learnable.objects.model import as_model, output_folder
from learnable.objects.preferences import (
    check_loss,
    loss_of,
    reference_nll,
    rendered_pairs,
    with_rate,
)
from learnable.objects.results import ReferenceModel
from learnable.objects.rows import Rows, as_rows
from learnable.objects.trimming import trimmed
from learnable.proportions import Proportions, shares_drawn, steps_of, tokens_by_source
from learnable.runs.identity import fingerprint, source_of
from learnable.runs.progress import say
from learnable.runs.step import Finished, Step, run
from learnable.runs.store import Store
from learnable.settings import ROWS, NewTokens, Reference, told
from learnable.types import ModelRef, Rendered


def train(
    rows: Any,
    /,
    model: Any,
    *,
    target: Any = None,
    output: str | os.PathLike[str] | None = None,
    max_length: int | None = None,
    loss: str | None = None,
    keep_epochs: bool = False,
    layers: Literal["linear", "attention"] = "linear",
    mixture: str | None = None,
    **settings: Any,
) -> ReferenceModel:
    """Fine-tune a model on rows, as a reference to compare it with; the model itself stays as it is.

    Args:
        rows: What ``read`` gave, or takes.
        model: A ``Model``, or its name.
        target: A few rows of a task, as ``read`` takes them: rows that are rows of it are not trained on.
        output: Folder to keep the result in, as ``learnable train`` does; when not given, the result is there as long
            as the object is.
        max_length: Longest example in tokens; 2,048 or the model's own limit when not given.
        loss: Of preference pairs: ``sigmoid`` (DPO), ``davir``, ``ipo``, ``hinge``, or ``NAME@beta=0.5``.
        keep_epochs: Keep each epoch, with Adam's moments: a warm-up for scorers that take gradients.
        layers: Layers that LoRA adapters go on: all linear ones, or those of attention alone.
        mixture: Share of the tokens that each source has, such as ``ado`` or ``a=0.7,b=0.3``; see ``learnable train``.
        settings: Fields of ``Reference``: ``folds``, ``epochs``, ``method``, ``learning_rate``, ``seed`` ... Trusted
            ``rows`` may be anything that ``read`` takes.

    Raises:
        UsageError: If a setting is not known.
        TrainError: If there is nothing to train on, or the loss is not finite.
        StoreError: If the folder holds something else.
    """
    known, base = as_rows(rows), as_model(model)
    trusted = None
    if not isinstance(settings.get("rows", "all"), str) or settings.get("rows", "all") not in ROWS:
        trusted, settings["rows"] = as_rows(settings["rows"]), "trusted"
    reference = Reference(**checked_settings(settings, Reference, without=("model",)))
    ref, _held = base.for_training(moves_weights=reference.method == "full")
    training = ReferenceTraining(
        name=base.name,
        ref=ref,
        rows=known,
        reference=reference,
        target=None if target is None else as_rows(target).as_target,
        trusted=trusted,
        store=base.store.folder,
        longest=length_limit(ref, max_length),
        loss=loss,
        keep_epochs=keep_epochs,
        layers=layers,
        mixture=None if mixture is None else Proportions.parse(mixture),
    )
    inputs = {"pool": pool_identity(known.pool), "base": models.identify(ref)}
    step = training.step(inputs | ({} if trusted is None else {"trusted": pool_identity(trusted.pool)}))
    folder, scratch = output_folder(output)
    return ReferenceModel(trained=run(step, folder), scratch=scratch)


def check_warmup(reference: Reference, new: NewTokens | None = None) -> None:
    """Refuse to keep epochs of several models, or of one that is not trained here."""
    if reference.model is not None or reference.folds or new is not None or reference.rows != "all":
        raise UsageError(
            "epochs are kept of one model that is trained here: no folds, no tokens, no chosen rows, no model of your own",
            hint="leave --folds, --tokens, --rows and --reference.model out",
        )


@dataclass(frozen=True, kw_only=True)
class ReferenceTraining:
    """What is to be trained, from which model, on what and how; see ``train_reference`` for the last three.

    ``longest`` is in tokens. Rows of a ``target`` are not trained on; ``new`` tokens are trained with the model. A model
    that the user has stands for it where it is ``given``: where it is, what it is, and its identity. Pairs have a
    ``loss``, as it is written. ``trusted`` rows are trained on in place of the others. What is measured before a training
    is kept in ``store``, or within the folder of the step.
    """

    name: str
    ref: ModelRef
    rows: Rows
    reference: Reference
    longest: int
    target: Target | None = None
    new: NewTokens | None = None
    given: tuple[str, Literal["adapter", "model"], str] | None = None
    processes: int = 1
    keep_epochs: bool = False
    layers: Literal["linear", "attention"] = "linear"
    mixture: Proportions | None = None
    loss: str | None = None
    trusted: Rows | None = None
    store: Path | None = None

    def __post_init__(self) -> None:
        self.rows.pool.check_kind(pairs=self.loss is not None)
        if self.trusted is not None:
            # An identity has the rows, and not the name of their file.
            object.__setattr__(self, "reference", replace(self.reference, rows="trusted"))
        elif self.reference.rows not in ("all", "trimmed"):
            raise UsageError("no trusted rows are given", hint="name their file: --rows FILE")
        if self.keep_epochs:
            check_warmup(self.reference, self.new)
        if self.target is not None and self.reference.model is not None:
            raise UsageError(
                "rows of a target are left out of a training, and nothing is trained where a model is given",
                hint="leave --target out, or --reference.model",
            )
        if self.mixture is not None:
            self._check_mixture(self.mixture)
        if self.loss is not None:
            self._check_pairs()
            object.__setattr__(self, "reference", with_rate(self.reference))

    def _check_pairs(self) -> None:
        reference = self.reference
        given = (reference.model, self.new, self.mixture, self.target) != (None, None, None, None)
        given |= reference.rows != "all"
        if given or reference.prompt != "given" or reference.last_epoch_loss or self.keep_epochs:
            raise UsageError(
                f"the loss {self.loss} is of pairs, which train adapters or a model: no tokens, no mixture, no target, no "
                "epochs or losses kept, no model of your own",
                hint="leave the other options out",
            )

    def _check_mixture(self, mixture: Proportions) -> None:
        reference = self.reference
        one = (reference.model, reference.folds, reference.fraction, self.new) == (None, 0, 1.0, None)
        one &= reference.rows == "all"
        if not one or reference.last_epoch_loss or self.keep_epochs:
            raise UsageError(
                f"the mixture {mixture} is of one model that is trained on all rows: no folds, no fraction, no tokens, "
                "no epochs or losses kept, no model of your own",
                hint="leave the other options out",
            )
        counts = self._taught.frame["source"].value_counts().sort("source")
        mixture.check(dict(counts.iter_rows()), reference)

    @property
    def passes(self) -> float:
        """Training cost in passes over the rows."""
        if self.mixture is None or not len(self.rows):
            passes = self.reference.passes_over(len(self.rows), keep_epochs=self.keep_epochs)
            return passes if self.trusted is None else passes * len(self.trusted) / len(self.rows)
        steps = steps_of(self.reference, len(self.rows))
        return steps * self.reference.batch_size / len(self.rows)

    def step(self, inputs: Mapping[str, str], **more: Any) -> Step:
        """Return the step, with the identities of its ``pool``, ``base`` and ``trusted`` rows, and what else it has."""
        reference, parameters, inputs = self.reference, dict[str, Any](), dict(inputs)
        says = ["no pass: the reference is given"]
        if reference.model is None:
            parameters = told(reference) | {"max_length": self.longest}
            if not reference.last_epoch_loss:
                del parameters["last_epoch_loss"]  # it came later; references without it are what they were
            if reference.prompt == "given":
                del parameters["prompt"]  # likewise
            if reference.folds:
                parameters["folds by"] = "prompt"  # a reference whose folds went by id is another one
            # As above: these came later.
            parameters |= {"keep epochs": True} if self.keep_epochs else {}
            parameters |= {"layers": self.layers} if self.layers != "linear" else {}
            parameters |= {"mixture": str(self.mixture)} if self.mixture is not None else {}
            what = f"{len(self.rows):,} {'examples' if self.loss is None else 'pairs'}"
            says = [f"{self.passes:g} training pass{'' if self.passes == 1 else 'es'} over {what}"]
        if self.new is not None:
            parameters["tokens"] = fingerprint(self.new)
        if self.loss is not None:
            parameters["loss"] = self.loss
            more["sources"] = {self.loss: source_of(check_loss(self.loss))}
        if self.target is not None:
            inputs["target"] = self.target.identity
        if self.given is not None:
            inputs["given"] = self.given[2]
        base, after = reference.choosing_passes
        if base:
            again = f" and {after} reference pass{'' if after == 1 else 'es'}" if after else ""
            says.insert(0, f"{base} base pass{again} to choose the rows")
        return Step(verb="train", parameters=parameters, inputs=inputs, says=says, work=self._work, **more)

    @cached_property
    def _taught(self) -> Rows:
        """The rows that are trained on."""
        return self._apart(self.rows)

    def _apart(self, rows: Rows) -> Rows:
        """Return rows without those that are rows of the target."""
        if self.target is None:
            return rows
        apart = pl.Series(shared_with_target(rows.pool, self.target), dtype=pl.String).is_null()
        return replace(rows, pool=replace(rows.pool, conversations=rows.pool.examples.filter(apart).lazy()))

    def _facts(self) -> dict[str, Any]:
        reference = self.reference
        facts: dict[str, Any] = {"base": self.name, "folds": reference.folds}
        if reference.model is not None:
            facts |= {"kind": "given", "model": reference.model}
        else:
            facts |= {"kind": "trained", "method": reference.method, "epochs": reference.epochs}
            facts |= {"fraction": reference.fraction, "learning rate": reference.peak_learning_rate}
            facts |= {} if reference.prompt == "given" else {"prompt": reference.prompt}
            if reference.last_epoch_loss:
                first = "; of one epoch, what is met first is met before anything is learned"
                facts["loss after"] = "as the last epoch met it" + (first if reference.epochs < 2 else "")
        if self.keep_epochs:
            facts |= {"kept epochs": int(reference.epochs), "layers": self.layers}
        if reference.rows != "all":
            facts["rows"] = reference.rows
        if reference.rows == "trimmed":
            facts |= {"share": reference.share, "rounds": reference.rounds}
        if self.target is not None:
            facts["rows of the target left out"] = len(self.rows) - len(self._taught)
        if self.new is not None:
            facts["tokens"] = str(self.new)
        return facts

    def _work(self, folder: Path) -> Finished:
        trainings: list[training.Trained] = []
        facts, measured = self._facts(), 0
        if self.loss is not None:
            trainings, facts["loss"], measured = self._on_pairs(self.loss, folder)
        elif self.given is not None:
            training.reference.given_reference(self.given[0], self.given[1], folder)
        elif self.new is not None:
            trainings = self._with_tokens(self.new, folder)
        else:
            trainings, chosen, measured = self._on_rows(folder)
            facts |= chosen
        return Finished(
            facts=facts,
            tokens=measured + sum(each.tokens for each in trainings if each.ran),
            passes=self.passes,
            at_least_s=sum(each.seconds for each in trainings),
        )

    def _on_rows(self, folder: Path) -> "tuple[list[training.Trained], dict[str, Any], int]":
        """Train on the rows that the reference names; return the trainings, facts, and the tokens that were measured."""
        renderer, own = models.Renderer.of(self.ref), {example.id for example in self._taught.examples}
        rows, only = self._taught.examples, None
        seen = self._taught.rendered(renderer, max_length=self.longest)
        facts: dict[str, Any] = {}
        trainings: list[training.Trained] = []
        measured = 0
        if self.trusted is not None:
            trusted = self._apart(self.trusted)
            only, whole = set(trusted.frame["id"]), trusted.rendered(renderer, max_length=self.longest)
            facts = {"trusted rows": len(only), "trusted rows in the pool": len(only & own)}
            facts["trusted tokens"] = sum(len(each.ids) for each in self._as_trained(whole, renderer))
            # A row that stands in both is one.
            rows = [*rows, *(each for each in trusted.examples if each.id not in own)]
            seen = [*seen, *(each for each in whole if each.id not in own)]
        train = partial(
            training.reference.train_reference,
            self.ref,
            sources=[each.source for each in rows],
            prompts=[prompt_key(each, draw=self.reference.seed) for each in rows],
            reference=self.reference,
            processes=self.processes,
            layers=self.layers,
        )
        if self.reference.rows == "trimmed":
            only, trainings, measured = trimmed(
                self.ref,
                seen,
                folder,
                reference=self.reference,
                max_length=self.longest,
                store=Store(self.store or folder / "store"),
                train=lambda place, ids: train(seen, folder=place, only=ids),
            )
            facts = {"trimmed to": len(only)}
        rendered = self._as_trained(seen, renderer)
        last = train(rendered, folder=folder, only=only, keep_epochs=self.keep_epochs, mixture=self.mixture)
        facts |= {} if self.mixture is None else self._drawn(rendered, last[0].folder)
        return [*trainings, *last], facts, measured

    def _drawn(self, rendered: list[Rendered], folder: Path) -> dict[str, Any]:
        """Return what a mixture came to: the shares of its sources, and how often each was seen."""
        tokens = tokens_by_source(rendered, self._taught.frame["source"].to_list())
        drawn = shares_drawn(pl.read_parquet(folder / training.MIXTURE), tokens)
        said = [
            f"{name} {share:.1%} ({times:.1f} times)"
            for name, share, times in drawn["source", "share", "times"].rows()
        ]
        return {"mixture": str(self.mixture), "drawn": ", ".join(said)}

    def _as_trained(self, rendered: list[Rendered], renderer: "models.Renderer") -> list[Rendered]:
        """Return examples as they are trained on, with their questions or without."""
        if self.reference.prompt == "given":
            return rendered
        return answers_alone(rendered, header=renderer.answer_header)

    def _on_pairs(self, loss: str, folder: Path) -> "tuple[list[training.Trained], str, int]":
        """Train on pairs; return the trainings, the loss with its settings, and the tokens that were measured for it."""
        pairs, _ = rendered_pairs(
            models.Renderer.of(self.ref),
            self.rows.pairs,
            max_length=self.longest,
            most_refused=self.rows.reading.most_bad,
        )
        store = Store(self.store or folder / "store")
        nll, tokens = reference_nll(self.ref, pairs, max_length=self.longest, store=store)
        objective, notes = loss_of(loss, nll)
        for note in notes:
            say(f"warning: {note}")
        trainings = training.reference.train_reference(
            self.ref,
            [pair.answers for pair in pairs],
            [pair.source for pair in pairs],
            folder,
            prompts=[fingerprint([self.reference.seed, pair.prompt]) for pair in pairs],
            reference=self.reference,
            objective=objective,
            columns=nll,
            processes=self.processes,
            layers=self.layers,
        )
        return trainings, str(objective), tokens

    def _with_tokens(self, new: NewTokens, folder: Path) -> "list[training.Trained]":
        """Write the whole trained model; return its training."""
        trainings = []
        # A configuration is what a whole model gets last: a run that was killed after it has only to clear up.
        if not (folder / "config.json").is_file():
            base = models.special_tokens.with_tokens(self.ref, new, folder / "base")
            trained = training.fine_tune(
                base,
                self._taught.rendered(models.Renderer.of(base), max_length=self.longest),
                folder / "adapter",
                tuning=self.reference,
                label="training",
                token_ids=models.special_tokens.token_ids(base, new),
                processes=self.processes,
            )
            trainings.append(trained)
            training.save_whole(base, folder / "adapter", folder)
        training.reference.given_reference(".", "model", folder)
        for leftover in (folder / "base", folder / "adapter", *folder.glob("merged*")):
            shutil.rmtree(leftover, ignore_errors=True)  # all of it is in the whole model
        return trainings
