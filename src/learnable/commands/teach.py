"""``learnable teach``: a model learns a task in several arms, and is asked in words that it has not seen."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from learnable import evaluators
from learnable.commands import course as courses
from learnable.commands.experiment import Experiment, keep_model, write_frames
from learnable.commands.inputs import is_made, pool_of
from learnable.commands.load import HELDOUT
from learnable.commands.network import Network
from learnable.commands.options import Confidence, DryRun, Flat, MaxLength, ModelName, NewRow, Output, Several
from learnable.commands.task_arms import TaskArms, at_ratio, samples, token_distances
from learnable.errors import UsageError
from learnable.evaluators import Evaluation, Specification, parse
from learnable.experiments import UNTUNED, Arm, TaskArm, check_settings, parse_task_arms
from learnable.mixing import MIXTURES, Material, Mixing, Mixture, mixture
from learnable.runs.identity import fingerprint, source_of
from learnable.runs.price import Price
from learnable.runs.records import DONE, Outcome
from learnable.runs.step import Finished, Step, run
from learnable.runs.store import Store
from learnable.settings import Loading, NewToken, Reading, Tuning
from learnable.types import Example

STARTER_TASK, STARTER_TEST = "starter-task", "starter-task-test"
TEST_SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """What the arms of a lesson are, and what they are asked.

    Args:
        arms: Arms, each NAME or NAME@init=mean,ratio=10,token_rate=30 (see `learnable list mixtures`); the untuned
            model, common instruction tuning and, with a buffer and paraphrases, DELIA, when not given. Differences are to `common`, or to the
            first trained arm.
        tokens: New tokens, each `"<sep>=answer in JSON with a thought first"`.
        words: What the representation of a new token is compared with, such as json; its meaning when not given.
        evaluate: Evaluations, each NAME@key=value, asked on the test rows, or NAME:PATH@key=value on others. Loss, and
            the format where all answers of the task have one, when not given.
        seeds: Trainings of each arm.
        gradients: Rows of the task and of the buffer whose gradients are compared before training; 0 for none.
    """

    arms: Annotated[Sequence[str], Several] = ()
    tokens: Annotated[Sequence[str], Several] = ()
    init: NewRow = "description"
    words: Annotated[Sequence[str], Several] = ()
    evaluate: Annotated[Sequence[str], Several] = ()
    seeds: int = 1
    gradients: int = 32
    confidence: Confidence = 0.95

    def read(
        self, tuning: Tuning, usual: Sequence[str] = ()
    ) -> tuple[Sequence[TaskArm], tuple[NewToken, ...]]:
        """Return the arms as they are written, or those that are usual, and the new tokens that they are about."""
        check_settings(tuning, seeds=self.seeds, confidence=self.confidence)
        if self.gradients < 0:
            raise UsageError(
                f"gradients must be 0 or more, got {self.gradients}", hint="it is a number of rows"
            )
        written = parse_task_arms(self.arms or usual, init=self.init, known=MIXTURES)
        added = tuple(map(NewToken.parse, self.tokens))
        of_tokens = any("init=" in arm.label or "token_rate=" in arm.label for arm in written)
        if not added and (self.words or of_tokens):
            raise UsageError(
                "words, and arms with @init or @token_rate, are about new tokens, and there are none",
                hint='give --tokens "<sep>=what it means"',
            )
        return written, added

    def asked(self, task: Sequence[Example]) -> list[Specification]:
        """Return what is asked: the evaluations that are given, or those that are usual for the rows of a task."""
        return [parse(text) for text in dict.fromkeys(self.evaluate or courses.usual_evaluations(task))]

    @property
    def elsewhere(self) -> list[Evaluation]:
        """The evaluations on rows of their own."""
        return evaluators.evaluations_of([text for text in self.evaluate if parse(text).path is not None])


def teach(
    task: list[str],
    *,
    model: ModelName = "starter",
    paraphrases: str | None = None,
    buffer: str | None = None,
    facts: str | None = None,
    constrained: str | None = None,
    teaching: Annotated[Teaching, Flat] = Teaching(),
    test: str | None = None,
    general: str | None = None,
    mixing: Annotated[Mixing, Flat] = Mixing(),
    tuning: Annotated[Tuning, Flat] = Tuning(),
    loading: Annotated[Loading, Flat] = Loading(),
    reading: Annotated[Reading, Flat] = Reading(),
    max_length: MaxLength = None,
    on: str | None = None,
    store: str = "runs/store",
    dry_run: DryRun = False,
    output: Output = "lesson",
) -> Outcome:
    """Teach a model a task in several arms, side by side: DELIA, its halves, and common instruction tuning.

    What each arm learned is asked on rows that no training saw, in the wording of the task and in wordings that no
    training saw; what each has forgotten is asked on rows that have nothing to do with the task.

    Args:
        task: Rows of the task: files, or a folder that `learnable load` wrote.
        paraphrases: The task in other wordings, from `learnable diversify --method paraphrase`.
        buffer: Questions and answers of the model itself, from `learnable diversify --method self_sample`.
        facts: Questions and answers about facts of the task, from `--method facts`.
        constrained: The task with constraints in words, from `--method constraints`.
        test: Rows of the task in wordings that are not in it; when not given, a fifth of the rows is set aside and
            asked in a fifth of the paraphrases. The starter task brings its own.
        general: Rows to see what was forgotten; when not given, a tenth of the buffer (at most 100 rows), set aside.
        on: Where the models are asked: here, or `ray[:ADDRESS]`, a model on each GPU of a Ray cluster, or on its CPUs.
            Trainings and gradients are here.
        store: Folder of measurements and trainings; what is in it is never done twice.
    """
    written, added = teaching.read(tuning, _usual(paraphrases, buffer))
    made = {"paraphrases": paraphrases, "buffer": buffer, "facts": facts, "constrained": constrained}
    if dry_run and (waiting := [name for name, path in made.items() if path and not is_made(path)]):
        return _planned_after(waiting, written, teaching.seeds, output)
    evaluators.check_place([parse(text) for text in teaching.evaluate], on)
    network = Network.of(model, loading, max_length=max_length, on=on, dry_run=dry_run)
    test = STARTER_TEST if test is None and task == [STARTER_TASK] else test
    loaded = pool_of(task, reading, output, holdout=0.0 if test else TEST_SHARE, dry_run=dry_run)
    course = courses.read_course(
        loaded.rows.examples,
        test=test,
        heldout=loaded.step.folder / HELDOUT,
        made=made,
        general=general,
        mixing=mixing,
    )
    _check_material(written, course.material)
    how: dict[str, Any] = {"seeds": teaching.seeds, "confidence": teaching.confidence}
    experiment = Experiment(network=network, tuning=tuning, store=Path(store), **how)
    lesson = _TaughtTask(
        course=course,
        written=written,
        baseline=_baseline(written),
        asked=teaching.asked(course.task),
        elsewhere=teaching.elsewhere,
        makes=TaskArms(experiment=experiment, added=added, most_refused=loaded.rows.reading.most_bad),
        teaching=teaching,
        general_given=general is not None,
    )
    steps = {name: Path(path) for name, path in made.items() if path and (Path(path) / DONE).is_file()}
    return run(lesson.step({"pool": loaded.step.folder, **steps}), output, dry_run=dry_run)


@dataclass(frozen=True, kw_only=True)
class _TaughtTask:
    course: courses.Course
    written: Sequence[TaskArm]
    baseline: str
    asked: Sequence[Specification]
    elsewhere: Sequence[Evaluation]
    makes: TaskArms
    teaching: Teaching
    general_given: bool

    def step(self, links: Mapping[str, Path]) -> Step:
        """Return the step that teaches it; ``links`` are the folders of the steps that made what it is taught with."""
        elsewhere = {each.label: each.identity for each in self.elsewhere}
        return self.makes.experiment.step(
            "teach",
            self,
            parameters={
                # In their order: the first may be the baseline, the last the one whose model is kept.
                "arms": [
                    [arm.label, arm.mixture, arm.init, *[[arm.ratio, arm.token_rate]] * arm.sets_more]
                    for arm in self.written
                ],
                "tokens": [fingerprint(token) for token in self.makes.added],
                "words": list(self.teaching.words) or None,
                "evaluate": [fingerprint(specification) for specification in self.asked],
                "mixing": fingerprint(self.course.material.mixing),
                "gradients": self.teaching.gradients,
            },
            inputs=self.course.identity | elsewhere,
            sources={each.label: source_of(evaluators.build_evaluator(each)) for each in self.asked},
            links=links,
        )

    @property
    def says(self) -> list[str]:
        said, seeds = [], self.makes.experiment.seeds
        for arm in self.written:
            if arm.mixture != UNTUNED:
                on = (
                    f"{len(self._seen(arm)):,} examples"
                    if arm.mixture != "repeated"
                    else "as many tokens as delia"
                )
                said.append(f"{seeds} training{'s' if seeds > 1 else ''} of {arm.label} on {on}")
        tests = self.course.tests
        items = (len(tests.seen) + len(tests.unseen)) * sum(each.path is None for each in self.asked)
        items += len(self.course.general) + sum(len(each.examples) for each in self.elsewhere)
        return [*said, f"{items:,} evaluation items for each model"]

    def _seen(self, arm: TaskArm) -> list[Example]:
        """Return what a training of the first seed sees, or what has as many tokens."""
        name = "delia" if arm.mixture == "repeated" else arm.mixture
        return mixture(name, at_ratio(self.course.material, arm), seed=0).examples

    def price(self) -> Price:
        experiment = self.makes.experiment
        seeds, tuning, network = experiment.seeds, experiment.tuning, experiment.network
        trained = [arm for arm in self.written if arm.mixture != UNTUNED]
        price = Price()
        for arm in trained:
            passes = seeds * tuning.epochs
            price += network.training(self._seen(arm), tuning, passes=passes, models=seeds)
        with tempfile.TemporaryDirectory() as scratch:
            evaluations = [*courses.evaluations_here(self.course, self.asked, Path(scratch)), *self.elsewhere]
        models = seeds * len(trained) + (len(trained) < len(self.written))
        return sum([network.evaluations(evaluations)] * models, price)

    def work(self, folder: Path) -> Finished:
        course, makes = self.course, self.makes
        base, material = makes.base(self.written[0], 0), course.material
        lengths = makes.render([*course.task, *material.paraphrases, *material.buffer], base)
        material = replace(material, tokens={each.id: len(each.ids) for each in lengths})
        # All of them, before anything is written or trained: some token may not be one that can be added.
        planned = makes.arms(self.written, material)
        evaluations = [*courses.evaluations_here(course, self.asked, folder), *self.elsewhere]
        concepts = {
            token.text: self.teaching.words or ([token.meaning] if token.meaning else [])
            for token in makes.added
        }
        store = Store(makes.experiment.store)
        ran, facts = replace(makes.experiment, evaluations=evaluations).run(
            [arm for arm, _ in planned.values()],
            baseline=self.baseline,
            looks={
                "concepts": partial(token_distances, concepts=concepts, tests=course.asked),
                "samples": partial(samples, evaluations=evaluations, store=store),
            },
        )
        wordings, figures = courses.instruction_map(course)
        frames = ran.frames | {"samples": ran.frames["samples"].filter(seed=0), "wordings": wordings}
        if self.teaching.gradients and material.buffer:
            frames["buffering"] = makes.gradients(base, material, self.teaching.gradients)
        write_frames(frames, folder)
        models = {place: model for place, model in zip(planned, ran.trained, strict=True) if model}
        kept = next((arm.label for arm in self.written if arm.mixture == "delia"), None)
        kept = kept or next(label for label, seed in reversed(models) if not seed)
        _keep(*planned[kept, 0], models[kept, 0].folder, folder)
        facts |= {
            "task": len(course.task),
            "tests": len(course.asked),
            "buffer": len(material.buffer),
            "arms": [arm.label for arm in self.written],
            "baseline": self.baseline,
            "tokens": [token.text for token in makes.added],
            "inits": {arm.label: arm.init for arm in self.written} if makes.added else {},
            "general from buffer": bool(course.general) and not self.general_given,
            "diversity": figures,
            "kept model": kept,
            "notes": courses.notes_on(course),
        }
        return Finished(facts=facts, tokens=ran.tokens)


def _planned_after(waiting: Sequence[str], written: Sequence[TaskArm], seeds: int, output: str) -> Outcome:
    """Return what a dry run knows before the material of the arms is made."""
    count = seeds * sum(arm.mixture != UNTUNED for arm in written)
    says = f"{count} trainings, on {' and '.join(waiting)} that are made first"
    price = Price(unknown=("tokens, time and memory are known once these are made",))
    return Outcome.planned("teach", Path(output), [says], price=price)


def _baseline(written: Sequence[TaskArm]) -> str:
    trained = [arm.label for arm in written if arm.mixture != UNTUNED]
    if not trained:
        raise UsageError("there is no arm to train", hint=f"known: {', '.join(MIXTURES)}")
    return "common" if "common" in trained else trained[0]


def _check_material(written: Sequence[TaskArm], material: Material) -> None:
    # `repeated` has the tokens of `delia`, which are not known yet, but needs what that needs.
    wanted = [
        ("delia" if each.mixture == "repeated" else each.mixture, at_ratio(material, each))
        for each in written
    ]
    # Gradients are taken of what is given, whatever the arms are.
    wanted += [("no_buffer", material)] * bool(material.paraphrases)
    wanted += [("no_paraphrases", material)] * bool(material.buffer)
    for name, of in wanted:
        if name != UNTUNED:
            mixture(name, of, seed=0)


def _usual(paraphrases: str | None, buffer: str | None) -> list[str]:
    given = [paraphrases is not None, buffer is not None]
    usual = {(True, True): ["delia"], (True, False): ["no_buffer"], (False, True): ["no_paraphrases"]}
    return [UNTUNED, "common", *usual.get((given[0], given[1]), [])]


def _keep(arm: Arm, mixed: Mixture, trained: Path, folder: Path) -> None:
    """Write what one arm saw, and its model whole, loadable by plain transformers."""
    for number, stage in enumerate(mixed.stages):
        courses.write_rows(stage, folder / ("mixture.jsonl" if not number else f"mixture-{number + 1}.jsonl"))
    keep_model(arm, trained, folder / "model")
