"""What a command is given, found: a pool, a reference, an earlier step."""

import atexit
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from learnable import data as rows
from learnable.commands.load import load
from learnable.errors import ModelError, StoreError, UsageError
from learnable.runs.progress import say, say_once
from learnable.runs.step import BEGUN, DONE, Outcome, Step, read_outcome
from learnable.types import Example, Loading, ModelRef, Pool, Reading, Rendered

if TYPE_CHECKING:
    from learnable.models import LanguageModel, Renderer
    from learnable.training import References

LONGEST = 2_048


def pool_of(
    data: list[str], reading: Reading, output: str, *, holdout: float = 0.0, dry_run: bool = False
) -> tuple[Pool, Outcome]:
    """Return the pool that a command works on: loaded before, or loaded now into ``<output>-pool``.

    Args:
        data: Files, or a folder that `learnable load` wrote.
        reading: How to read rows.
        output: Of the command; with ``{fingerprint}`` in it, the pool's folder ends with the pool's own fingerprint.
        holdout: Share of each source to set aside.
        dry_run: Load into a folder that is gone when the process ends.
    """
    if len(data) == 1 and (rows.is_pool(Path(data[0])) or (Path(data[0]) / DONE).is_file()):
        loaded = finished(data[0], "load")
        if reading != Reading():
            raise UsageError(
                f"{data[0]} was loaded before: settings of reading have no effect on it",
                hint="give them to `learnable load`",
            )
    else:
        base = output.replace("{fingerprint}", "").rstrip("/-")
        if dry_run:
            base = str(_gone_at_exit() / Path(base).name)
        # Two names, so that asking for held-out rows later does not run into the pool without them.
        suffix = "-pool-heldout" if holdout else "-pool"
        own = "-{fingerprint}" if "{fingerprint}" in output else ""
        loaded = load(data, reading=reading, holdout=holdout, output=base + suffix + own)
    return rows.load_pool(loaded.folder), loaded


def _gone_at_exit() -> Path:
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def finished(folder: str | Path, verb: str) -> Outcome:
    """Return the outcome of a finished step.

    Raises:
        StoreError: If the folder is not the result of that verb.
    """
    if not Path(folder).is_dir():
        raise StoreError(f"there is no folder {folder}", hint=f"give the output of `learnable {verb}`")
    outcome = read_outcome(Path(folder))
    if outcome.verb != verb:
        raise StoreError(
            f"{folder} is the output of `learnable {outcome.verb}`", hint=f"give one of `learnable {verb}`"
        )
    return outcome


def length_limit(ref: ModelRef, asked: int | None) -> int:
    """Return the longest example in tokens that a command takes.

    Raises:
        ModelError: If more is asked for than the model can take.
    """
    from learnable.models.source import position_limit

    limit = position_limit(ref)
    if asked is None:
        return min(LONGEST, limit or LONGEST)
    if asked < 2 or (limit is not None and asked > limit):
        raise ModelError(
            f"max_length is {asked:,}, and {ref.name} takes 2 to {limit if limit else 'any number of'} tokens",
            hint="choose another max_length",
        )
    return asked


def look_up(name: str | None, loading: Loading, *, reference: bool = False) -> None:
    """Notice a wrong name of a model before rows are read, which can take long.

    Args:
        name: What the user gave; None is no model.
        loading: How it is loaded.
        reference: It may be an adapter too, or what `learnable train` wrote.

    Raises:
        ModelError: If there is no such model.
        StoreError: If it is the folder of another command.
    """
    if name is None:
        return
    from learnable.models import source

    if reference and _is_step(name):
        finished(name, "train")
        return
    loading = replace(loading, revision=None) if reference else loading
    source.look_up(ModelRef(name=name, **asdict(loading)), adapter=reference)


def opened(ref: ModelRef, *, on: str | None) -> "LanguageModel":
    """Return a model, its weights loaded here, or by the workers of a cluster in each pass.

    Args:
        ref: Which model.
        on: None is here, ``ray[:ADDRESS]`` a Ray cluster.
    """
    if on is None:
        from learnable.models import LanguageModel

        return LanguageModel(ref)
    from learnable.models.cluster import ClusterModel

    return ClusterModel(ref, on=on)


def pinned(ref: ModelRef, *, on: str | None) -> ModelRef:
    """Return a model with the dtype that ``auto`` is where it runs: an identity tells dtypes apart."""
    if on is None:
        return ref
    from learnable.models.cluster import dtype_of_workers

    return replace(ref, dtype=dtype_of_workers(ref, on))


def render_rows(
    renderer: "Renderer", examples: Sequence[Example], *, max_length: int, most_refused: float
) -> list[Rendered]:
    """Return examples as the model sees them; those that its chat template refuses are bad rows like others.

    Args:
        renderer: Of the model.
        examples: Of a pool.
        max_length: Longest example in tokens.
        most_refused: Share of the examples that may be refused; they have no tokens, and it is said how many they are.

    Raises:
        ModelError: If more are refused; at the first one if none may be.
    """
    from learnable.models import template_hint

    seen = renderer.render(examples, max_length=max_length, skip_refused=most_refused > 0)
    refused = [each for each in seen if each.refused is not None]
    said = f"the chat template refuses {len(refused):,} of {len(seen):,} examples"
    if len(refused) > most_refused * len(seen):
        raise ModelError(
            f"{said}, more than {100 * most_refused:g}%: {refused[0].refused}",
            hint=f"load the rows with --on-error skip to leave all of them out, or {template_hint()}",
        )
    if refused:
        say(f"{said}, which are left out: {refused[0].refused}")
    say_left_out(seen)
    return seen


def say_left_out(rendered: Sequence[Rendered]) -> None:
    """Warn where the chat template leaves out text of the rows."""
    from learnable.models import LEFT_OUT_HINT, left_out

    if cut := left_out(rendered):
        say_once(f"warning: {cut}: {LEFT_OUT_HINT}")


def most_bad(loaded: Outcome) -> float:
    """Return which share of the rows of a pool may be bad, as it was loaded."""
    return Reading(on_error=loaded.facts["on_error"]).most_bad


def given_part(name: str, loading: Loading) -> tuple[str, Literal["adapter", "model"], str]:
    """Return where a model that the user has trained is, whether it is an adapter, and its identity."""
    from learnable.models.source import adapter_key, identify, is_adapter, locate

    ref = ModelRef(name=name, **asdict(replace(loading, revision=None)))
    folder = locate(ref, adapter=True)
    if is_adapter(folder):
        return str(folder.resolve()), "adapter", adapter_key("", folder)
    return str(folder.resolve()), "model", identify(ref)


def reference_identity(reference: str, loading: Loading, base_key: str) -> str:
    """Return the identity of a reference: of the step that trained it, or of the given model.

    Raises:
        ModelError: If it was trained from another base than the one that is scored with.
    """
    if not _is_step(reference):
        return given_part(reference, loading)[2]
    trained = finished(reference, "train")
    if trained.inputs["base"] != base_key:
        raise ModelError(
            f"the reference {reference} was trained from {trained.facts['base']}, which is not the model given here",
            hint=f"give --model {trained.facts['base']} as it was then: same weights, chat template and dtype",
        )
    return trained.identity


def reference_models(reference: str, loading: Loading) -> "References":
    """Return the models of a reference folder, or a given model as a reference of one part."""
    from learnable.training import Part, References, no_assignment, read_reference

    if _is_step(reference):
        return read_reference(Path(reference))
    name, kind, _ = given_part(reference, loading)
    return References(parts=(Part(name=name, kind=kind),), assignment=no_assignment())


def _is_step(folder: str) -> bool:
    return any((Path(folder) / name).is_file() for name in (BEGUN, DONE))


def would_run(step: Step, folder: Path, price: Iterable[str]) -> Outcome:
    """Return what a step would cost, without running it."""
    lines = ["done already"] if step.is_done(folder) else list(price)
    return Outcome.planned(step.verb, lines, folder=folder, identity=step.identity)
