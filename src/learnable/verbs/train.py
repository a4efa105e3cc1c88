"""``learnable train``: a model in, a fine-tuned reference out."""

import time
from dataclasses import asdict
from typing import Annotated, Any

from learnable.progress import say
from learnable.steps import Outcome, Step
from learnable.types import Loading, ModelRef, Reading, Reference
from learnable.verbs.inputs import given_part, length_limit, pool_of, would_run
from learnable.verbs.options import Flat, Output


def train(
    data: list[str],
    *,
    model: str = "starter",
    reference: Annotated[Reference, Flat] = Reference(),
    loading: Annotated[Loading, Flat] = Loading(),
    reading: Annotated[Reading, Flat] = Reading(),
    max_length: int | None = None,
    dry_run: bool = False,
    output: Output = "reference",
) -> Outcome:
    """Fine-tune a reference model on a pool: in-sample, or cross-fitted in folds.

    Args:
        data: Files, or a folder that `learnable load` wrote.
        model: Folder, hub id, GGUF file, or `starter`.
        reference: How to fine-tune.
        loading: How to load the model.
        reading: How to read rows.
        max_length: Longest example in tokens; 2,048 or the model's own limit when not given.
        dry_run: Say what would run, and run nothing.
        output: Folder to write.
    """
    from learnable.model.source import identify, is_here

    started = time.monotonic()
    ref = ModelRef(name=model, **asdict(loading))
    longest = length_limit(ref, max_length)
    pool, loaded = pool_of(data, reading, output)
    if dry_run and not is_here(ref):
        return Outcome.planned("train", [f"fetch or convert {model}", *[_price(reference, len(pool))]])
    inputs = {"pool": loaded.identity, "base": identify(ref)}
    facts: dict[str, Any] = {"base": model, "folds": reference.folds}
    if reference.model is not None:
        name, kind, inputs["given"] = given_part(reference.model, loading)
        facts |= {"kind": "given", "model": reference.model}
        parameters: dict[str, Any] = {}
    else:
        facts |= {
            "kind": "trained",
            "method": reference.method,
            "epochs": reference.epochs,
            "fraction": reference.fraction,
        }
        facts["learning rate"] = reference.peak_learning_rate
        parameters = asdict(reference) | {"max_length": longest}
    step = Step(verb="train", parameters=parameters, inputs=inputs)
    folder = step.folder(output)
    if dry_run:
        return would_run(step, folder, [_price(reference, len(pool))])
    links = {"pool": loaded.folder}
    if done := step.begin(folder, links=links):
        return done
    from learnable.model import Renderer
    from learnable.training import given_reference, train_reference

    tokens = 0
    if reference.model is not None:
        given_reference(name, kind, folder)
    else:
        say(f"training the reference ({reference.method}): {_price(reference, len(pool))}")
        skip = loaded.facts["on_error"] == "skip"
        rendered = Renderer.of(ref).render(list(pool.iter_examples()), max_length=longest, skip_refused=skip)
        sources = pool.examples["source"].to_list()
        tokens = train_reference(ref, rendered, sources, folder, reference=reference)
    return step.finish(
        folder, facts=facts, started=started, links=links, tokens=tokens, passes=reference.passes
    )


def _price(reference: Reference, examples: int) -> str:
    if reference.model is not None:
        return "no pass: the reference is given"
    return f"{reference.passes:g} training pass{'' if reference.passes == 1 else 'es'} over {examples:,} examples"
