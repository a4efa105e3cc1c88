"""``learnable train``: a model in, a fine-tuned one out."""

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from learnable import data as rows
from learnable.commands.inputs import (
    given_part,
    length_limit,
    look_up,
    most_bad,
    pinned,
    pool_of,
    render_rows,
    would_run,
)
from learnable.commands.options import Flat, Output, Several
from learnable.errors import UsageError
from learnable.experiments import Init
from learnable.runs.identity import fingerprint
from learnable.runs.progress import say
from learnable.runs.step import Outcome, Step
from learnable.settings import Loading, NewToken, NewTokens, Reading, Reference
from learnable.types import Example, ModelRef

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
    from learnable.models.source import identify, is_here

    started = time.monotonic()
    ref = ModelRef(name=model, **asdict(loading))
    longest = length_limit(ref, max_length)
    new = _new_tokens(tokens, init, reference)
    look_up(reference.model, loading, reference=True)
    pool, loaded = pool_of(data, reading, output, dry_run=dry_run)
    if dry_run and not is_here(ref):
        return Outcome.planned("train", [f"fetch or convert {model}", *[_price(reference, len(pool))]])
    ref = pinned(ref)
    loading = replace(loading, dtype=ref.dtype)
    inputs = {"pool": loaded.identity, "base": identify(ref)}
    facts: dict[str, Any] = {"base": model, "folds": reference.folds}
    if reference.model is not None:
        name, kind, inputs["given"] = given_part(reference.model, loading)
        facts |= {"kind": "given", "model": reference.model}
        parameters: dict[str, Any] = {}
    else:
        facts |= _facts(reference)
        parameters = asdict(reference) | {"max_length": longest}
        if not reference.last_epoch_loss:
            del parameters["last_epoch_loss"]  # it came later, and references without it are what they were
        if reference.folds:
            parameters["folds by"] = "prompt"  # a reference whose folds went by id is another one
    if new is not None:
        facts["tokens"], parameters["tokens"] = str(new), fingerprint(new)
    step = Step(verb="train", parameters=parameters, inputs=inputs)
    folder = step.folder(output)
    if dry_run:
        return would_run(step, folder, [_price(reference, len(pool))])
    links = {"pool": loaded.folder}
    if done := step.begin(folder, links=links):
        return done
    from learnable.models import Renderer
    from learnable.training import given_reference, train_reference

    trainings: list[Trained] = []
    most = most_bad(loaded)
    if reference.model is not None:
        given_reference(name, kind, folder)
    elif new is not None:
        say(f"training with {new}: {_price(reference, len(pool))}")
        examples = list(pool.iter_examples())
        trainings = _with_tokens(
            ref, examples, folder, new, reference, longest, most_refused=most, processes=processes
        )
    else:
        say(f"training the reference ({reference.method}): {_price(reference, len(pool))}")
        examples = list(pool.iter_examples())
        trainings = train_reference(
            ref,
            render_rows(Renderer.of(ref), examples, max_length=longest, most_refused=most),
            pool.examples["source"].to_list(),
            folder,
            prompts=[rows.prompt_key(example, draw=reference.seed) for example in examples],
            reference=reference,
            processes=processes,
        )
    return step.finish(
        folder,
        facts=facts,
        started=started,
        links=links,
        tokens=sum(each.tokens for each in trainings if each.ran),
        passes=reference.passes,
        at_least_s=sum(each.seconds for each in trainings),
    )


def _join_launcher() -> None:
    """Under a launcher such as torchrun, only the main process comes out of here; the others train with it."""
    if "RANK" in os.environ:
        from learnable.training import join

        join()


def _facts(reference: Reference) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "kind": "trained",
        "method": reference.method,
        "epochs": reference.epochs,
        "fraction": reference.fraction,
        "learning rate": reference.peak_learning_rate,
    }
    if reference.last_epoch_loss:
        facts["loss after"] = "as the last epoch met it" + (
            "; of one epoch, what is met first is met before anything is learned"
            if reference.epochs < 2
            else ""
        )
    return facts


def _price(reference: Reference, examples: int) -> str:
    if reference.model is not None:
        return "no pass: the reference is given"
    return f"{reference.passes:g} training pass{'' if reference.passes == 1 else 'es'} over {examples:,} examples"


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


def _with_tokens(
    ref: ModelRef,
    examples: Sequence[Example],
    folder: Path,
    new: NewTokens,
    reference: Reference,
    longest: int,
    *,
    most_refused: float,
    processes: int,
) -> "list[Trained]":
    """Write the whole trained model into ``folder``; return its training."""
    from learnable.models import Renderer, token_ids, with_tokens
    from learnable.training import fine_tune, given_reference, save_whole

    trainings = []
    # A configuration is what a whole model gets last: a run that was killed after it has only to clear up.
    if not (folder / "config.json").is_file():
        base = with_tokens(ref, new, folder / "base")
        rendered = render_rows(Renderer.of(base), examples, max_length=longest, most_refused=most_refused)
        ids = token_ids(base, new)
        trained = fine_tune(
            base,
            rendered,
            folder / "adapter",
            tuning=reference,
            label="training",
            token_ids=ids,
            processes=processes,
        )
        trainings.append(trained)
        save_whole(base, folder / "adapter", folder)
    given_reference(".", "model", folder)
    for leftover in (folder / "base", folder / "adapter", *folder.glob("merged*")):
        shutil.rmtree(leftover, ignore_errors=True)  # all of it is in the whole model
    return trainings
