"""``learnable train``: a model in, a fine-tuned one out."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from learnable.commands.inputs import look_up, pool_of, trusted_of
from learnable.commands.network import Network
from learnable.commands.options import Data, DryRun, Flat, MaxLength, ModelName, NewRow, Output, Several
from learnable.deferred import training
from learnable.errors import UsageError
from learnable.experiments import Init
from learnable.objects.given import given_part
from learnable.objects.preferences import check_loss
from learnable.objects.training import ReferenceTraining, check_warmup
from learnable.proportions import Proportions
from learnable.runs.records import Outcome
from learnable.runs.step import run
from learnable.settings import Loading, NewToken, NewTokens, Reading, Reference

Mixture = Annotated[
    str | None,
    Parameter(
        help="Share of the tokens that each source of the rows has: `natural`, `uniform`, `a=0.7,b=0.3` (or in per cent), "
        "or `ado`, which moves it to where losses fall fastest (`ado@prior=uniform,curve=heldout`). Sources are begun anew "
        "where they are used up, for `--steps` of `--batch-size` rows on average. All rows, once an epoch, when not given."
    ),
]
PairLoss = Annotated[
    str | None,
    Parameter(
        help="Of preference pairs: sigmoid (DPO), davir, ipo, hinge, or NAME@beta=0.5. The learning rate is then 5e-5 for LoRA "
        "and 5e-7 for full fine-tuning when not given."
    ),
]


def train(
    data: Data,
    *,
    model: ModelName = "starter",
    target: str | None = None,
    reference: Annotated[Reference, Flat] = Reference(),
    loading: Annotated[Loading, Flat] = Loading(),
    reading: Annotated[Reading, Flat] = Reading(),
    tokens: Annotated[list[str] | None, Several] = None,
    init: NewRow = "description",
    mixture: Mixture = None,
    loss: PairLoss = None,
    max_length: MaxLength = None,
    keep_epochs: bool = False,
    layers: Literal["linear", "attention"] = "linear",
    processes: int = 1,
    store: str | None = None,
    dry_run: DryRun = False,
    output: Output = "reference",
) -> Outcome:
    """Fine-tune a model on a pool: a reference, in-sample or cross-fitted in folds, or a model with new tokens.

    With `--tokens` the folder itself holds the whole trained model, which plain transformers loads. Preference pairs train
    with `--loss`, against the model as it is.

    Args:
        target: File with a few rows of your task, or what `learnable load` made of it: rows of the pool that are rows
            of it are not trained on.
        tokens: New tokens, each `"<sep>=what it means"`. Only their rows of the embedding are trained, beside LoRA.
        keep_epochs: Keep the adapter and Adam's moments of each epoch: a warm-up for `score --warmup`. An epoch has at
            least eight steps then, whatever `--fraction` says.
        layers: Layers that LoRA adapters go on: all linear ones, or those of attention alone.
        processes: Train as so many processes that share each batch, on a GPU each or on some cores each. The result
            is the same up to rounding. Started by `torchrun`, its processes train together instead.
        store: Folder of the losses that `--rows trimmed` and `--loss` measure; within the output when not given.
    """
    join_launcher()
    network = Network.of(model, loading, max_length=max_length, dry_run=dry_run)
    new, mixed = _new_tokens(tokens, init, reference), None if mixture is None else Proportions.parse(mixture)
    _check(loss, reference, new, loading, keep_epochs=keep_epochs)
    loaded = pool_of(data, reading, output, dry_run=dry_run, pairs=loss is not None)
    aimed = None if target is None else pool_of([target], Reading(), f"{output}-target", dry_run=dry_run)
    trusted = trusted_of(reference, output, dry_run=dry_run)
    named = reference.model if not network.awaits else None
    training = ReferenceTraining(
        name=model,
        ref=network.ref,
        rows=loaded.rows,
        reference=reference,
        target=None if aimed is None else aimed.target_rows.as_target,
        trusted=None if trusted is None else trusted.rows,
        store=None if store is None else Path(store),
        new=new,
        given=None if named is None else given_part(named, network.ref),
        longest=network.longest,
        processes=processes,
        keep_epochs=keep_epochs,
        layers=layers,
        mixture=mixed,
        loss=loss,
    )
    read = {"pool": loaded, "target": aimed, "trusted": trusted}
    made = {name: each.step for name, each in read.items() if each is not None}
    step = training.step(
        {"base": network.identity} | {name: each.identity for name, each in made.items()},
        links={name: each.folder for name, each in made.items()},
        awaits=network.awaits,
        plan=lambda: network.reference(loaded.pool, training.reference, passes=training.passes),
    )
    return run(step, output, dry_run=dry_run)


def _check(
    loss: str | None, reference: Reference, new: NewTokens | None, loading: Loading, *, keep_epochs: bool
) -> None:
    """Notice what cannot be trained before rows are read, which can take long."""
    if loss is not None:
        check_loss(loss)
    if keep_epochs:
        check_warmup(reference, new)
    look_up(reference.model, loading, reference=True)


def join_launcher() -> None:
    """Under a launcher such as torchrun, only the main process comes out of here; the others train with it."""
    if "RANK" in os.environ:
        training.devices.join()


def _new_tokens(tokens: Sequence[str] | None, init: Init, reference: Reference) -> NewTokens | None:
    if not tokens:
        return None
    plain = (reference.model, reference.method, reference.folds, reference.fraction) == (None, "lora", 0, 1.0)
    if not plain or reference.rows != "all" or reference.last_epoch_loss:
        raise UsageError(
            "new tokens are trained with LoRA on all rows: no folds, no fraction, no full fine-tuning, no losses kept",
            hint="leave --folds, --fraction, --method, --last-epoch-loss and --reference.model out",
        )
    return NewTokens(
        added=tuple(map(NewToken.parse, tokens)),
        init=init,
        init_seed=reference.seed if init == "random" else 0,
    )
