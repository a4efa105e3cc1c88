"""``learnable score``: the losses of a pool, and formulas over them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from learnable.commands.inputs import Loaded, is_made, look_up, pool_of
from learnable.commands.network import GRADIENT_EPOCHS, Network, gradient_epochs, passes_said
from learnable.commands.options import Data, DryRun, Flat, MaxLength, ModelName, Output, StoreFolder
from learnable.measures import PASSES, Role, roles_of
from learnable.objects.given import compared_with, finished
from learnable.objects.measuring import Vectors
from learnable.objects.scoring import methods_of, needs_of
from learnable.objects.scoring import score as measured
from learnable.runs.identity import fingerprint, source_of
from learnable.runs.price import Price
from learnable.runs.records import DONE, Outcome
from learnable.runs.step import Finished, Step, run
from learnable.runs.store import Store
from learnable.settings import Aim, Loading, Reading
from learnable.types import Scorer


def score(
    data: Data,
    *,
    model: ModelName = "starter",
    reference: str | None = None,
    target: str | None = None,
    null: str | None = None,
    warmup: str | None = None,
    scorers: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    loading: Annotated[Loading, Flat] = Loading(),
    reading: Annotated[Reading, Flat] = Reading(),
    aim: Aim = Aim(),
    max_length: MaxLength = None,
    vectors: Vectors = "none",
    on: str | None = None,
    store: StoreFolder = "runs/store",
    dry_run: DryRun = False,
    output: Output = "scores",
) -> Outcome:
    """Measure the losses of a pool, and score every example by formulas over them.

    Args:
        reference: Folder that `learnable train` wrote, or a fine-tuned model or LoRA adapter of your own.
        target: File with a few rows of your task, answers included, or what `learnable load` made of it, for scorers
            that measure against it. Rows of the pool that are rows of it get no score. A column `subtask` names parts.
        null: Folder of a reference that was trained with `--prompt none`, for pvi and hard_not_wrong.
        warmup: Folder of a training with `--keep-epochs`, for less.
        scorers: Names of scorers (see `learnable list`); learnability, difference and length_matched when a
            reference is given, else loss.
        vectors: Vectors of the examples, which some selectors need: of the model (its last hidden states, one more
            pass), or of `wordllama` (word vectors from a pip package, no pass).
        on: Where the model runs: here, or `ray[:ADDRESS]`, a model on each GPU of a Ray cluster, or on its CPUs.
    """
    given = {"reference": reference, "null": null, "warmup": warmup}
    trained = {role: each for role, each in given.items() if each is not None}
    methods = methods_of(list(dict.fromkeys(scorers or ())), has_reference=reference is not None)
    keeps_losses = "loss after" in _facts_of(reference)  # they cost no pass
    needs = needs_of(methods, {**trained, "target": target}, keeps_losses=keeps_losses)
    made = not dry_run or all(map(is_made, trained.values()))
    network = Network.of(model, loading, max_length=max_length, on=on, dry_run=dry_run)
    for each in trained.values() if made else ():
        look_up(each, loading, reference=True)
    scoring = _Scoring(
        network=network,
        loaded=pool_of(data, reading, output, dry_run=dry_run),
        trained=trained,
        aimed=None if target is None else pool_of([target], Reading(), f"{output}-target", dry_run=dry_run),
        aim=aim,
        methods=methods,
        needs=needs,
        passes=passes_of(roles_of(needs) - ({"reference"} if keeps_losses else set()), vectors),
        vectors=vectors,
        store=Store(Path(store)),
    )
    awaits = [*network.awaits, *([] if made else ["after the reference"])]
    return run(scoring.step(awaits), output, dry_run=dry_run)


@dataclass(frozen=True, kw_only=True)
class _Scoring:
    """A table of scores whose inputs are found: what it will do, and how it is done.

    ``trained`` are folders or names of models beside the base, by the option that named them.
    """

    network: Network
    loaded: Loaded
    trained: Mapping[str, str]
    aimed: Loaded | None
    aim: Aim
    methods: Mapping[str, Scorer]
    needs: Collection[str]
    passes: Sequence[Role]
    vectors: Vectors
    store: Store

    def step(self, awaits: Sequence[str]) -> Step:
        """Return the step that makes it, once what it awaits is there."""
        inputs = {"pool": self.loaded.step.identity}
        inputs |= {} if self.network.awaits else {"base": self.network.identity}
        links = {"pool": self.loaded.step.folder}
        if self.aimed is not None:
            inputs["target"] = self.aimed.target_rows.as_target.identity
            links["target"] = self.aimed.step.folder
        for role, each in () if awaits else self.trained.items():
            inputs[role] = compared_with(each, self.network.ref).identity
            links |= {role: Path(each)} if (Path(each) / DONE).is_file() else {}
        scorers = {name: fingerprint(method) for name, method in self.methods.items()}
        parameters = {"max_length": self.network.longest, "vectors": self.vectors, "scorers": scorers}
        return Step(
            verb="score",
            parameters=parameters | ({"aim": fingerprint(self.aim)} if self.aimed else {}),
            inputs=inputs,
            sources={name: source_of(method) for name, method in self.methods.items()},
            links=links,
            says=passes_said(self.passes, self.aim, self._epochs, rows=len(self.loaded.pool)),
            awaits=awaits,
            plan=self.price,
            work=self.work,
        )

    @property
    def _epochs(self) -> int:
        """At how many epochs gradients are taken."""
        kept = _facts_of(self.trained.get("warmup")).get("kept epochs", GRADIENT_EPOCHS)
        return gradient_epochs(self.methods.values(), kept)

    def price(self) -> Price:
        """Return what its passes will cost."""
        return self.network.scoring(
            self.loaded.pool,
            self.passes,
            needs=self.needs,
            store=self.store,
            aim=self.aim,
            target=0 if self.aimed is None else len(self.aimed.pool),
            epochs=self._epochs,
        )

    def work(self, folder: Path) -> Finished:
        given: Mapping[str, Any] = self.trained
        table = measured(
            self.loaded.rows,
            self.network.as_model,
            **given,
            target=None if self.aimed is None else self.aimed.target_rows,
            aim=self.aim,
            scorers=self.methods,
            max_length=self.network.longest,
            vectors=self.vectors,
            store=self.store,
            output=folder,
        )
        tokens = table.costs["score"].tokens
        return Finished(facts=table.facts, tokens=tokens, pool_tokens=table.facts["tokens"])


def _facts_of(trained: str | None) -> Mapping[str, Any]:
    """Return the facts of a training; none of one that is not made yet, or not by us."""
    there = trained is not None and (Path(trained) / DONE).is_file()
    return finished(trained, "train").facts if trained is not None and there else {}


def passes_of(roles: Collection[Role], vectors: Vectors) -> list[Role]:
    """Return the roles of which each costs a table of scores a pass."""
    asked = {*roles, *(["similarity"] if vectors == "model" else [])}
    return [role for role in PASSES if role in asked]
