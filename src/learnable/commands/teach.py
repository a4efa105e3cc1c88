"""``learnable teach``: a model learns a task in several ways, and is asked in words that it has not seen."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import polars as pl

from learnable.commands.course import (
    Course,
    evaluations_here,
    instruction_map,
    notes_on,
    read_course,
    usual_evaluations,
    write_rows,
)
from learnable.commands.evaluate import Evaluation, check_place, evaluations_of
from learnable.commands.inputs import is_made, length_limit, most_bad, pinned, pool_of, to_fetch
from learnable.commands.lessons import Lessons, Taught
from learnable.commands.load import HELDOUT
from learnable.commands.options import Flat, Output, Several
from learnable.errors import UsageError
from learnable.evaluators import Specification, build_evaluator, parse
from learnable.experiments import UNTUNED, Init, Lesson, Measured, lesson_table, parse_lessons
from learnable.mixing import MIXTURES, Material, Mixing, Mixture, mixture
from learnable.runs.files import replacing, write_frame
from learnable.runs.identity import fingerprint, source_of
from learnable.runs.records import DONE, Outcome
from learnable.runs.step import Finished, Step, run
from learnable.settings import Loading, NewToken, Reading, Tuning
from learnable.types import ModelRef

STARTER_TASK, STARTER_TEST = "starter-task", "starter-task-test"
TEST_SHARE = 0.2


def teach(
    task: list[str],
    *,
    model: str = "starter",
    paraphrases: str | None = None,
    buffer: str | None = None,
    facts: str | None = None,
    constrained: str | None = None,
    arms: Annotated[list[str] | None, Several] = None,
    tokens: Annotated[list[str] | None, Several] = None,
    init: Init = "description",
    words: Annotated[list[str] | None, Several] = None,
    test: str | None = None,
    general: str | None = None,
    evaluate: Annotated[list[str] | None, Several] = None,
    mixing: Annotated[Mixing, Flat] = Mixing(),
    tuning: Annotated[Tuning, Flat] = Tuning(),
    loading: Annotated[Loading, Flat] = Loading(),
    reading: Annotated[Reading, Flat] = Reading(),
    seeds: int = 1,
    gradients: int = 32,
    max_length: int | None = None,
    confidence: float = 0.95,
    on: str | None = None,
    store: str = "runs/store",
    dry_run: bool = False,
    output: Output = "lesson",
) -> Outcome:
    """Teach a model a task in several ways, side by side: DELIA, its halves, and common instruction tuning.

    What each way learned is asked on rows that no training saw, in the wording of the task and in wordings that no
    training saw; what each has forgotten is asked on rows that have nothing to do with the task.

    Args:
        task: Rows of the task: files, or a folder that `learnable load` wrote.
        model: Folder, hub id, GGUF file, or `starter`.
        paraphrases: The task in other wordings, from `learnable diversify --method paraphrase`.
        buffer: Questions and answers of the model itself, from `learnable diversify --method self_sample`.
        facts: Questions and answers about facts of the task, from `--method facts`.
        constrained: The task with constraints in words, from `--method constraints`.
        arms: Ways to train, each NAME or NAME@init=mean (see `learnable list`); the untuned model, common instruction
            tuning and, with a buffer and paraphrases, DELIA, when not given. Differences are to `common`, or to the
            first trained arm.
        tokens: New tokens, each `"<sep>=what it means"`.
        init: How the row of a new token begins: random, mean (of all rows), or description (mean of its meaning's).
        words: What the representation of a new token is compared with, such as json; its meaning when not given.
        test: Rows of the task in wordings that are not in it; when not given, a fifth of the rows is set aside and
            asked in a fifth of the paraphrases. The starter task brings its own.
        general: Rows to see what was forgotten; when not given, a tenth of the buffer (at most 100 rows), set aside.
        evaluate: Evaluations, each NAME@key=value, asked on the test rows, or NAME:PATH@key=value on others. Loss, and
            the format where all answers of the task have one, when not given.
        mixing: How to mix.
        tuning: How to train.
        loading: How to load the model.
        reading: How to read the rows of the task.
        seeds: Trainings of each arm.
        gradients: Rows of the task and of the buffer whose gradients are compared before training; 0 for none.
        max_length: Longest example in tokens; 2,048 or the model's own limit when not given.
        confidence: Of all intervals of an evaluation together.
        on: Where the models are asked: here, or `ray[:ADDRESS]`, a model on each GPU of a Ray cluster, or on its CPUs.
            Trainings and gradients are here.
        store: Folder of measurements and trainings; what is in it is never done twice.
        dry_run: Say what would run, and run nothing.
        output: Folder to write.
    """
    _check(tuning, seeds=seeds, gradients=gradients, confidence=confidence)
    lessons = parse_lessons(arms or _usual(paraphrases, buffer), init=init, known=MIXTURES)
    baseline = _baseline(lessons)
    added = tuple(map(NewToken.parse, tokens or ()))
    if not added and (words or any(lesson.label != lesson.mixture for lesson in lessons)):
        raise UsageError(
            "words, and arms with @init, are about new tokens, and there are none",
            hint='give --tokens "<sep>=what it means"',
        )
    made = {"paraphrases": paraphrases, "buffer": buffer, "facts": facts, "constrained": constrained}
    if dry_run and (waiting := [name for name, path in made.items() if path and not is_made(path)]):
        count = seeds * sum(lesson.mixture != UNTUNED for lesson in lessons)
        says = f"{count} trainings, on {' and '.join(waiting)} that are made first"
        return Outcome.planned("teach", Path(output), [says])
    if test is None and task == [STARTER_TASK]:
        test = STARTER_TEST
    check_place([parse(text) for text in evaluate or ()], on)
    from learnable.models.source import identify

    ref = ModelRef(name=model, **asdict(loading))
    longest = length_limit(ref, max_length)
    pool, loaded = pool_of(task, reading, output, holdout=0.0 if test else TEST_SHARE, dry_run=dry_run)
    course = read_course(
        list(pool.iter_examples()),
        test=test,
        heldout=loaded.folder / HELDOUT,
        made=made,
        general=general,
        mixing=mixing,
    )
    _check_material(lessons, course.material)
    asked = [parse(text) for text in dict.fromkeys(evaluate or usual_evaluations(course.task))]
    elsewhere = evaluations_of([text for text in evaluate or () if parse(text).path is not None])
    _check_evaluators(asked)
    awaits = to_fetch(ref) if dry_run else []
    ref = ref if awaits else pinned(ref, on=on)
    parameters: dict[str, Any] = {
        # In their order: the first may be the baseline, the last the one whose model is kept.
        "arms": [[lesson.label, fingerprint(lesson)] for lesson in lessons],
        "tokens": [fingerprint(token) for token in added],
        "words": words,
        "evaluate": [fingerprint(specification) for specification in asked],
        "mixing": fingerprint(mixing),
        "tuning": fingerprint(tuning),
        "seeds": seeds,
        "gradients": gradients,
        "max_length": longest,
        "confidence": confidence,
    }
    inputs = {
        "base": "" if awaits else identify(ref),
        **course.identity,
        **{each.label: each.identity for each in elsewhere},
    }
    links = {"pool": loaded.folder}
    links |= {name: Path(path) for name, path in made.items() if path and (Path(path) / DONE).is_file()}

    def work(folder: Path) -> Finished:
        passes = Lessons(
            ref=ref,
            longest=longest,
            store=Path(store),
            tuning=tuning,
            added=added,
            most_refused=most_bad(loaded),
            on=on,
        )
        # All of them, before anything is written or trained: some token may not be one that can be added.
        bases = [passes.base(lesson, 0) for lesson in lessons]
        evaluations = [*evaluations_here(course, asked, folder), *elsewhere]
        lengths = passes.lengths(
            [*course.task, *course.material.paraphrases, *course.material.buffer], bases[0]
        )
        material = replace(course.material, tokens=lengths)
        taught = passes.train(lessons, seeds, lambda name, seed: mixture(name, material, seed=seed))
        concepts = {token.text: words or ([token.meaning] if token.meaning else []) for token in added}
        results, distances, samples = passes.evaluate(
            taught, evaluations, concepts=concepts, tests=course.asked
        )
        trained = _arm_table(taught)
        frames = {
            "arms": trained,
            "results": results,
            "table": lesson_table(
                results,
                trained,
                evaluations=[
                    Measured(
                        label=each.label,
                        unit=each.evaluator.unit,
                        higher_is_better=each.evaluator.higher_is_better,
                    )
                    for each in evaluations
                ],
                baseline=baseline,
                confidence=confidence,
            ),
            "concepts": distances,
            "samples": samples,
        }
        frames["wordings"], figures = instruction_map(course)
        for name, frame in frames.items():
            write_frame(frame, folder / f"{name}.parquet")
        if gradients and material.buffer:
            write_frame(_gradients(passes, bases[0], material, gradients), folder / "buffering.parquet")
        kept = next((one for one in taught if one.lesson.mixture == "delia" and one.seed == 0), None)
        kept = kept or next(one for one in reversed(taught) if one.trained is not None and one.seed == 0)
        _keep(kept, tuning, folder)
        facts_shown: dict[str, Any] = {
            "model": model,
            "task": len(course.task),
            "tests": len(course.asked),
            "buffer": len(material.buffer),
            "arms": [lesson.label for lesson in lessons],
            "baseline": baseline,
            "evaluations": [each.label for each in evaluations],
            "seeds": seeds,
            "confidence": confidence,
            "tokens": [token.text for token in added],
            "inits": {lesson.label: lesson.init for lesson in lessons} if added else {},
            "general from buffer": bool(course.general) and general is None,
            "diversity": figures,
            "kept model": kept.lesson.label,
            "tuning": asdict(tuning) | {"learning_rate": tuning.peak_learning_rate},
            "notes": notes_on(course),
        }
        return Finished(facts=facts_shown, tokens=passes.tokens)

    step = Step(
        verb="teach",
        parameters=parameters,
        inputs=inputs,
        sources={each.label: source_of(build_evaluator(each)) for each in asked},
        links=links,
        says=_price(lessons, seeds, course, asked, elsewhere),
        awaits=awaits,
        work=work,
    )
    return run(step, output, dry_run=dry_run)


def _check(tuning: Tuning, *, seeds: int, gradients: int, confidence: float) -> None:
    if seeds < 1 or gradients < 0 or not 0 < confidence < 1:
        raise UsageError(
            f"seeds must be at least 1, gradients at least 0 and confidence between 0 and 1, got {seeds}, {gradients} "
            f"and {confidence}"
        )
    if tuning.seed or tuning.steps is not None:
        raise UsageError("the seeds and steps of the trainings are set here", hint="give --seeds")


def _baseline(lessons: Sequence[Lesson]) -> str:
    trained = [lesson.label for lesson in lessons if lesson.mixture != UNTUNED]
    if not trained:
        raise UsageError("there is no arm to train", hint=f"known: {', '.join(MIXTURES)}")
    return "common" if "common" in trained else trained[0]


def _check_material(lessons: Sequence[Lesson], material: Material) -> None:
    """Say what is missing before anything runs."""
    # `repeated` has the tokens of `delia`, which are not known yet, but needs what that needs.
    names = ["delia" if each.mixture == "repeated" else each.mixture for each in lessons]
    # Gradients are taken of what is given, whatever the arms are.
    names += ["no_buffer"] * bool(material.paraphrases) + ["no_paraphrases"] * bool(material.buffer)
    for name in dict.fromkeys(names):
        if name != UNTUNED:
            mixture(name, material, seed=0)


def _check_evaluators(asked: Sequence[Specification]) -> None:
    for specification in asked:
        if build_evaluator(specification).kind == "judge":
            raise UsageError(
                f"{specification.label} compares the answers of two models, and here each is graded by itself",
                hint="use it in `learnable compare`",
            )


def _usual(paraphrases: str | None, buffer: str | None) -> list[str]:
    found = {
        (True, True): ["delia"],
        (True, False): ["no_buffer"],
        (False, True): ["no_paraphrases"],
        (False, False): [],
    }
    return [UNTUNED, "common", *found[paraphrases is not None, buffer is not None]]


def _arm_table(taught: Sequence[Taught]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "arm": one.lesson.label,
                "seed": one.seed,
                "examples": len(one.mixture.examples) if one.mixture else 0,
                "task_examples": one.mixture.task if one.mixture else 0,
                "stages": len(one.mixture.stages) if one.mixture else 0,
                "tokens": one.trained.tokens if one.trained else 0,
                "response_tokens": one.response_tokens,
                "steps": one.trained.steps if one.trained else 0,
                "seconds": one.trained.seconds if one.trained else 0.0,
                "model": one.trained.folder.name if one.trained else None,
            }
            for one in taught
        ],
        schema_overrides={"model": pl.String},
    )


def _gradients(passes: Lessons, base: ModelRef, material: Material, count: int) -> pl.DataFrame:
    sets = {
        "task": material.task,
        "buffer": mixture("no_paraphrases", material, seed=0).examples[len(material.task) :],
    }
    ratio = len(sets["buffer"]) / len(material.task)
    if material.paraphrases:
        sets["reworded"] = mixture("no_buffer", material, seed=0).examples
    drawn = {
        name: sorted(examples, key=lambda each: fingerprint(["gradients", each.id]))[:count]
        for name, examples in sets.items()
    }
    return passes.gradients(base, drawn, ratio=ratio)


def _keep(one: Taught, tuning: Tuning, folder: Path) -> None:
    """Write what one training saw, and its model whole, loadable by plain transformers."""
    from learnable.training import save_whole

    assert one.trained is not None
    assert one.mixture is not None
    for number, stage in enumerate(one.mixture.stages):
        write_rows(stage, folder / ("mixture.jsonl" if not number else f"mixture-{number + 1}.jsonl"))
    if tuning.method == "lora":
        save_whole(one.base, one.trained.folder, folder / "model")
        return
    with replacing(folder / "model") as part:
        shutil.copytree(one.trained.folder, part, ignore=shutil.ignore_patterns("training.json"))


def _price(
    lessons: Sequence[Lesson],
    seeds: int,
    course: Course,
    asked: Sequence[Specification],
    elsewhere: Sequence[Evaluation],
) -> list[str]:
    def size(found: Mixture) -> int:
        return len(found.examples)

    price = [
        f"{seeds} training{'s' if seeds > 1 else ''} of {lesson.label} on "
        + (
            "as many tokens as delia"
            if lesson.mixture == "repeated"
            else f"{size(mixture(lesson.mixture, course.material, seed=0)):,} examples"
        )
        for lesson in lessons
        if lesson.mixture != UNTUNED
    ]
    items = (len(course.tests.seen) + len(course.tests.unseen)) * sum(each.path is None for each in asked)
    items += len(course.general) + sum(len(each.examples) for each in elsewhere)
    return [*price, f"{items:,} evaluation items for each model"]
