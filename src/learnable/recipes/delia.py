"""The recipe ``delia``: teach the task, not the template."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

from learnable.commands import diversify, report, teach
from learnable.commands.inputs import look_up
from learnable.commands.options import Flat, Listed, MaxLength, ModelName, Several
from learnable.commands.teach import Teaching
from learnable.diversifiers import build_diversifier
from learnable.errors import UsageError
from learnable.evaluators import build_evaluator, parse
from learnable.mixing import MIXTURES, Mixing
from learnable.recipes.run import Run, recipe
from learnable.settings import Loading, Reading, Tuning

MADE = ("paraphrases", "buffer")
"""Material that this recipe makes."""


@dataclass(frozen=True, kw_only=True)
class Rewording:
    """How the instructions of a task are reworded.

    Args:
        paraphrase: Method of the wordings, such as paraphrase@where=last.
        wordings: Rewrites of each instruction.
        generator: What paraphrases instead of the model: a server, openai:URL#NAME, or vllm:MODEL.
    """

    paraphrase: str = "paraphrase"
    wordings: int = 10
    generator: str | None = None


@dataclass(frozen=True, kw_only=True)
class OwnBuffer:
    """Where the buffer comes from, whose questions have nothing to do with the task.

    Args:
        buffer: Method of the buffer; or self_answer with --questions FILE.
        questions: Rows whose questions self_answer answers.
        rows: Rows of the buffer; the paper has 260 for each row of the task; 0 for all questions of self_answer.
        max_new_tokens: Longest question and longest answer of the buffer; the paper's is 512.
        temperature: How freely to draw the buffer; 0.7 when not given.
        top_p: Draw it from the likeliest tokens that together have this probability; 0.95 when not given.
    """

    buffer: str = "self_sample"
    questions: Annotated[Sequence[str], Several] = ()
    rows: int = 60
    max_new_tokens: int = 256
    temperature: float | None = None
    top_p: float | None = None


@dataclass(frozen=True, kw_only=True)
class TaskTuning(Tuning):
    """How to train on a small task, which needs some steps; see ``Tuning`` for the fields."""

    epochs: float = 2.0
    learning_rate: float | None = 0.0005
    batch_size: int = 4


@recipe
def delia(
    task: Annotated[Sequence[str], Listed] = ("starter-task",),
    *,
    model: ModelName = "starter",
    test: str | None = None,
    general: str | None = None,
    rewording: Annotated[Rewording, Flat] = Rewording(),
    own_buffer: Annotated[OwnBuffer, Flat] = OwnBuffer(),
    teaching: Annotated[Teaching, Flat] = Teaching(),
    ratio: float | None = None,
    tuning: Annotated[TaskTuning, Flat] = TaskTuning(),
    reading: Annotated[Reading, Flat] = Reading(),
    loading: Annotated[Loading, Flat] = Loading(),
    max_length: MaxLength = None,
    on: str | None = None,
    run: Annotated[Run, Flat] = Run(),
) -> None:
    """Teach the task, not the template.

    Rewrite the instructions of a small task in many ways, sample a buffer of questions and answers from the model
    itself, train on both in one shuffle, and ask in wordings that no training saw, side by side with common instruction
    tuning (DELIA, arXiv 2408.10841).

    Args:
        task: Rows of one task: files, folders, hub ids, or `starter-task`.
        test: Rows in other wordings; when not given, a fifth of the task, asked in a fifth of the paraphrases.
        general: Rows to see what was forgotten; a tenth of the buffer when not given.
        ratio: Buffer rows for each row of the task; all of the buffer when not given.
        on: Where the model is measured: here, or `ray[:ADDRESS]`, a Ray cluster. Trainings are here.
    """
    look_up(model, loading)
    _check(rewording, own_buffer, teaching, tuning, loading)
    network: dict[str, Any] = {"model": model, "loading": loading, "on": on, "store": run.store}
    network |= {"reading": reading}
    worded: dict[str, Any] = {"method": rewording.paraphrase, "n": rewording.wordings}
    worded |= {"generator": rewording.generator}
    reworded = run.step("paraphrases", diversify, list(task), **worded, **network)
    drawn: dict[str, Any] = asdict(own_buffer) | network
    drawn |= {"method": drawn.pop("buffer"), "n": drawn.pop("rows") or None}
    drawn["reading"] = replace(reading, avoid=(*task, *filter(None, (test, general)), *(reading.avoid or ())))
    sampled = run.step("buffer", diversify, list(drawn.pop("questions")), **drawn)
    given: dict[str, Any] = {"paraphrases": reworded.path, "buffer": sampled.path, "teaching": teaching}
    given |= {"mixing": Mixing(ratio=ratio), "test": test, "general": general, "max_length": max_length}
    lesson = run.step("lesson", teach, list(task), tuning=Tuning(**asdict(tuning)), **given, **network)
    run.step("report", report, lesson.path, title="delia", command=run.command)


def _check(
    rewording: Rewording, own_buffer: OwnBuffer, teaching: Teaching, tuning: Tuning, loading: Loading
) -> None:
    """Find what is mistyped, lacks what it starts from, or has no effect, before anything runs."""
    build_diversifier(rewording.paraphrase)
    if rewording.generator is not None and rewording.generator.startswith("vllm:"):
        look_up(rewording.generator.removeprefix("vllm:"), loading)
    name, method = build_diversifier(own_buffer.buffer)
    if method.needs_examples and not own_buffer.questions:
        raise UsageError(f"{name} needs rows to start from", hint="give --questions FILE")
    for evaluation in teaching.evaluate:
        build_evaluator(parse(evaluation))
    arms, _ = teaching.read(tuning)
    for arm in arms:
        needs = MIXTURES[arm.mixture].needs if arm.mixture in MIXTURES else ()
        if lacking := [name for name in needs if name not in MADE]:
            raise UsageError(
                f"the arm {arm.label!r} needs {lacking[0]}, which this recipe does not make",
                hint=f"leave it out, or use `learnable teach` with --{lacking[0]}",
            )
