"""The recipe ``delia``: teach the task, not the template."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

from learnable.commands import diversify, report, teach
from learnable.commands.inputs import look_up
from learnable.commands.options import Flat, Listed, Several
from learnable.diversifiers import build_diversifier
from learnable.errors import UsageError
from learnable.evaluators import build_evaluator, parse
from learnable.experiments import Init, parse_task_arms
from learnable.mixing import MIXTURES, Mixing
from learnable.recipes.run import Run, recipe
from learnable.settings import Loading, NewToken, Reading, Tuning

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

    def check(self, loading: Loading) -> dict[str, Any]:
        """Return the options of `learnable diversify`, once their names are known."""
        build_diversifier(self.paraphrase)
        if self.generator is not None and self.generator.startswith("vllm:"):
            look_up(self.generator.removeprefix("vllm:"), loading)
        return {"method": self.paraphrase, "n": self.wordings, "generator": self.generator}


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

    def check(self) -> dict[str, Any]:
        """Return the options of `learnable diversify`, once their names are known.

        Raises:
            UsageError: If the method is not known, or lacks the rows that it starts from.
        """
        name, method = build_diversifier(self.buffer)
        if method.needs_examples and not self.questions:
            raise UsageError(f"{name} needs rows to start from", hint="give --questions FILE")
        drawn = {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature, "top_p": self.top_p}
        return {"method": self.buffer, "n": self.rows or None, **drawn}


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """What the arms of a lesson are, and what they are asked.

    Args:
        tokens: New tokens, each `"<sep>=answer in JSON with a thought first"`.
        init: How their rows of the embedding begin: random, mean, or description.
        words: What their representation is compared with; their meaning when not given.
        arms: NAME or NAME@init=mean (see `learnable list mixtures`); untuned, common and delia when not given.
        ratio: Buffer rows for each row of the task; all of the buffer when not given.
        seeds: Trainings of each arm.
        evaluate: Such as format@syntax=python,label=answer; loss, and the format if all answers have one, when not given.
        gradients: Rows of task and buffer whose gradients are compared; 0 for none.
        confidence: Of all intervals of an evaluation together.
    """

    tokens: Annotated[Sequence[str], Several] = ()
    init: Init = "description"
    words: Annotated[Sequence[str], Several] = ()
    arms: Annotated[Sequence[str], Several] = ()
    ratio: float | None = None
    seeds: int = 1
    evaluate: Annotated[Sequence[str], Several] = ()
    gradients: int = 32
    confidence: float = 0.95

    def check(self) -> dict[str, Any]:
        """Return the options of `learnable teach`, once it is known that the arms have their material.

        Raises:
            UsageError: If an arm lacks its material, or there is no token for what is about tokens.
        """
        for evaluation in self.evaluate:
            build_evaluator(parse(evaluation))
        lessons = parse_task_arms(self.arms, init=self.init, known=MIXTURES)
        for lesson in lessons:
            for name in MIXTURES[lesson.mixture].needs if lesson.mixture in MIXTURES else ():
                if name not in MADE:
                    raise UsageError(
                        f"the arm {lesson.label!r} needs {name}, which this recipe does not make",
                        hint=f"leave it out, or use `learnable teach` with --{name}",
                    )
        added = [NewToken.parse(text) for text in self.tokens]
        if not added and (self.words or any(lesson.label != lesson.mixture for lesson in lessons)):
            raise UsageError(
                "words, and arms with @init, are about new tokens, and there are none",
                hint='give --tokens "<sep>=what it means"',
            )
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        mixing = Mixing(ratio=given.pop("ratio"))
        return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()} | {
            "mixing": mixing
        }


@dataclass(frozen=True, kw_only=True)
class TaskTuning(Tuning):
    """How to train on a small task, which needs some steps; see ``Tuning`` for the fields."""

    epochs: float = 2.0
    learning_rate: float | None = 0.0005
    batch_size: int = 4

    def check(self) -> Tuning:
        """Return the same as `learnable teach` takes it.

        Raises:
            UsageError: If it sets what a lesson sets itself.
        """
        if self.seed or self.steps is not None:
            raise UsageError(
                "a lesson sets the seeds and steps of its trainings itself: --seed and --steps have no effect",
                hint="give --seeds",
            )
        return Tuning(**asdict(self))


@recipe
def delia(
    task: Annotated[Sequence[str], Listed] = ("starter-task",),
    *,
    model: str = "starter",
    test: str | None = None,
    general: str | None = None,
    rewording: Annotated[Rewording, Flat] = Rewording(),
    own_buffer: Annotated[OwnBuffer, Flat] = OwnBuffer(),
    teaching: Annotated[Teaching, Flat] = Teaching(),
    tuning: Annotated[TaskTuning, Flat] = TaskTuning(),
    reading: Annotated[Reading, Flat] = Reading(),
    loading: Annotated[Loading, Flat] = Loading(),
    max_length: int | None = None,
    on: str | None = None,
    run: Annotated[Run, Flat] = Run(),
) -> None:
    """Teach the task, not the template.

    Rewrite the instructions of a small task in many ways, sample a buffer of questions and answers from the model
    itself, train on both in one shuffle, and ask in wordings that no training saw, side by side with common instruction
    tuning (DELIA, arXiv 2408.10841).

    Args:
        task: Rows of one task: files, folders, hub ids, or `starter-task`.
        model: Folder, hub id, GGUF file, or `starter`.
        test: Rows in other wordings; when not given, a fifth of the task, asked in a fifth of the paraphrases.
        general: Rows to see what was forgotten; a tenth of the buffer when not given.
        rewording: How to reword.
        own_buffer: Where the buffer comes from.
        teaching: What is taught and asked.
        tuning: How to train.
        reading: How to read rows.
        loading: How to load the model.
        max_length: Longest example in tokens; 2,048 or the model's own limit when not given.
        on: Where the model is measured: here, or `ray[:ADDRESS]`, a Ray cluster. Trainings are here.
        run: Where to write.
    """
    look_up(model, loading)
    worded, drawn, taught = rewording.check(loading), own_buffer.check(), teaching.check()
    tuned, avoid = tuning.check(), [*task, *filter(None, (test, general))]
    network: dict[str, Any] = {"model": model, "loading": loading, "on": on, "store": run.store}
    network |= {"reading": reading}
    reworded = run.step("paraphrases", diversify, list(task), **worded, **network)
    sampled = run.step("buffer", diversify, list(own_buffer.questions), avoid=avoid, **drawn, **network)
    material: dict[str, Any] = {
        "paraphrases": reworded.path,
        "buffer": sampled.path,
        "test": test,
        "general": general,
    }
    limits: dict[str, Any] = {"tuning": tuned, "max_length": max_length}
    lesson = run.step("lesson", teach, list(task), **material, **taught, **limits, **network)
    run.step("report", report, lesson.path, title="delia", command=run.command)
