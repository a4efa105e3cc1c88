"""What is given, found: an earlier step, rows as the model sees them, a model that was trained before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from learnable.deferred import models, training
from learnable.errors import ModelError, StoreError, UsageError, did_you_mean
from learnable.runs.progress import say, say_once
from learnable.runs.records import BEGUN, DONE, Outcome, read_outcome
from learnable.types import Example, ModelRef, Rendered

LONGEST = 2_048


def checked_settings(
    given: Mapping[str, Any], kind: Any, *, without: Sequence[str] = ()
) -> Mapping[str, Any]:
    """Return settings, each of which is a field of a class."""
    names = {each.name for each in fields(kind)} - set(without)
    if unknown := sorted(set(given) - names):
        raise UsageError(f"there is no setting {unknown[0]!r}", hint=did_you_mean(unknown[0], names))
    return given


def finished(folder: str | Path, *verbs: str) -> Outcome:
    """Return the outcome of a finished step of one of these verbs."""
    *most, last = (f"`learnable {verb}`" for verb in verbs)
    wanted = f"{', '.join(most)} or {last}" if most else last
    if not Path(folder).is_dir():
        raise StoreError(f"there is no folder {folder}", hint=f"give the output of {wanted}")
    outcome = read_outcome(Path(folder))
    if outcome.verb not in verbs:
        raise StoreError(
            f"{folder} is the output of `learnable {outcome.verb}`", hint=f"give one of {wanted}"
        )
    return outcome


def length_limit(ref: ModelRef, asked: int | None) -> int:
    """Return the longest example in tokens that a command takes."""
    limit = models.source.position_limit(ref)
    if asked is None:
        return min(LONGEST, limit or LONGEST)
    if asked < 2 or (limit is not None and asked > limit):
        raise ModelError(
            f"max_length is {asked:,}, and {ref.name} takes 2 to {limit if limit else 'any number of'} tokens",
            hint="choose another max_length",
        )
    return asked


class RowRendering:
    """Renders n examples, window by window; those that the chat template refuses are bad rows like others.

    Such examples have no tokens, and it is said how many they are. ``most_refused`` is the share of the n ``rows`` that may
    be refused; at the first one it is a ``ModelError`` if none may be.
    """

    def __init__(
        self, renderer: "models.Renderer", *, max_length: int, rows: int, most_refused: float
    ) -> None:
        self._renderer, self._max_length = renderer, max_length
        self._rows, self._most_refused = rows, most_refused
        self._refused, self._first, self._said = 0, "", ""
        self.left_out = models.answers.LeftOut()

    def __call__(self, examples: Sequence[Example]) -> list[Rendered]:
        """Return examples as the model sees them; a ``ModelError`` if more than the share of all is refused."""
        seen = self._renderer.render(
            examples, max_length=self._max_length, skip_refused=self._most_refused > 0
        )
        refused = [each.refused for each in seen if each.refused is not None]
        self._refused += len(refused)
        self._first = self._first or next(iter(refused), "")
        self.left_out.add(seen)
        if self._refused > self._most_refused * self._rows:
            raise ModelError(
                f"{self._counted(self._rows)}, more than {100 * self._most_refused:g}%: {self._first}",
                hint=f"load the rows with --on-error skip to leave all of them out, or {models.templates.template_hint()}",
            )
        return seen

    def say(self) -> None:
        """Say how many of the rows up to now are refused, unless that is said, and what of the others is left out."""
        said = f"{self._counted(self.left_out.rows)}, which are left out: {self._first}"
        if self._refused and said != self._said:
            self._said = said
            say(said)
        say_left_out(str(self.left_out))

    def _counted(self, rows: int) -> str:
        return f"the chat template refuses {self._refused:,} of {rows:,} examples"


def render_rows(
    renderer: "models.Renderer", examples: Sequence[Example], *, max_length: int, most_refused: float
) -> list[Rendered]:
    """Return examples as the model sees them, see ``RowRendering``."""
    rendering = RowRendering(renderer, max_length=max_length, rows=len(examples), most_refused=most_refused)
    seen = rendering(examples)
    rendering.say()
    return seen


def say_left_out(cut: str) -> None:
    """Warn where the chat template leaves out text of the rows, which is said so."""
    if cut:
        say_once(f"warning: {cut}: {models.answers.LEFT_OUT_HINT}")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What a base model is compared with: ``step`` trained it, ``ref`` says how it is loaded, if not as the base is."""

    models: "training.References"
    identity: str
    settings: Mapping[str, Any]
    step: Outcome | None = None
    ref: ModelRef | None = None


def compared_with(reference: str, ref: ModelRef) -> Compared:
    """Return a reference of a base, its dtype resolved: what `learnable train` wrote, or a fine-tuned model or adapter.

    Raises:
        ModelError: If it was trained from another base than this one.
    """
    if not is_step(reference):
        name, kind, identity = given_part(reference, ref)
        models = training.References(parts=(training.Part(name=name, kind=kind),))
        return Compared(models=models, identity=identity, settings={"kind": "given", "model": reference})
    trained = trained_from(ref, reference, what="reference")
    models = training.read_reference(Path(reference))
    return Compared(models=models, identity=trained.identity, settings=dict(trained.facts), step=trained)


def trained_from(ref: ModelRef, folder: str, *, what: str) -> Outcome:
    """Return what `learnable train` left in a folder; a ModelError where it began from another model than this one."""
    trained = finished(folder, "train")
    if trained.inputs["base"] != models.identify(ref):
        raise ModelError(
            f"the {what} {folder} was trained from {trained.facts['base']}, which is not the model given here",
            hint=f"give --model {trained.facts['base']} as it was then: same weights, chat template and dtype",
        )
    return trained


def given_part(name: str, ref: ModelRef) -> tuple[str, Literal["adapter", "model"], str]:
    """Return where a model that the user has trained is, whether it is an adapter, and its identity."""
    ref = replace(ref, name=name, revision=None)
    folder = models.locate(ref, adapter=True)
    if models.is_adapter(folder):
        return str(folder.resolve()), "adapter", models.adapter_key("", folder)
    return str(folder.resolve()), "model", models.identify(models.dtype.resolved(ref))


def is_step(folder: str) -> bool:
    """Tell whether a command wrote this folder, or is at work in it."""
    return any((Path(folder) / name).is_file() for name in (BEGUN, DONE))


def opened(ref: ModelRef, *, on: str | None = None) -> "models.LanguageModel":
    """Return a model, its weights loaded here, or by the workers of a cluster (``ray[:ADDRESS]``) in each pass."""
    if on is None:
        return models.LanguageModel(ref)
    return models.cluster.ClusterModel(ref, on=on)


def pinned(ref: ModelRef, *, on: str | None = None) -> ModelRef:
    """Return a model with the dtype that ``auto`` is where it runs: an identity tells dtypes apart."""
    if on is None:
        return models.dtype.resolved(ref)
    return replace(ref, dtype=models.cluster.dtype_of_workers(ref, on))
