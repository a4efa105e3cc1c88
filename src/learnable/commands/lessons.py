"""What teaching costs model passes for: trainings, evaluations, hidden states and gradients."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.commands.evaluate import Evaluation, graded_all
from learnable.commands.inputs import opened, render_rows
from learnable.evaluators import GenerationEvaluator, completions, question_of
from learnable.experiments import RATIOS, UNTUNED, Lesson, buffering
from learnable.mixing import Mixture
from learnable.runs.identity import fingerprint
from learnable.runs.locks import waiting_lock
from learnable.runs.progress import say
from learnable.runs.store import Store
from learnable.settings import NewToken, NewTokens, Tuning
from learnable.types import Example, Message, ModelRef, Rendered

if TYPE_CHECKING:
    from learnable.models import LanguageModel
    from learnable.training import Trained

CONCEPT_PROMPTS = 32
"""Prompts over which a distance of representations is averaged."""
DISTANCES = {
    "token": pl.String,
    "words": pl.String,
    "layer": pl.Int64,
    "distance": pl.Float64,
    "prompts": pl.Int64,
}
WRITTEN = {
    "evaluation": pl.String,
    "id": pl.String,
    "prompt": pl.String,
    "completion": pl.String,
    "value": pl.Float32,
}
SAMPLES = 6
"""Items of each evaluation whose texts are kept to be read."""


@dataclass(frozen=True, kw_only=True)
class Taught:
    """One training of one arm; ``mixture`` and ``trained`` are None for the untuned model.

    ``response_tokens`` counts those of the mixture, once.
    """

    lesson: Lesson
    seed: int
    base: ModelRef
    mixture: Mixture | None = None
    trained: "Trained | None" = None
    response_tokens: int = 0


@dataclass(kw_only=True)
class Lessons:
    """The model passes of `learnable teach`.

    Args:
        ref: The model.
        longest: Longest example in tokens.
        store: Folder of measurements, trainings and models with new tokens.
        tuning: How to train.
        added: New tokens.
        most_refused: Share of rows that the chat template may refuse, see ``inputs.render_rows``.
        on: Where the models are asked, see ``inputs.opened``.
        tokens: Trained on in this run.
    """

    ref: ModelRef
    longest: int
    store: Path
    tuning: Tuning
    added: tuple[NewToken, ...] = ()
    most_refused: float = 0.0
    on: str | None = None
    tokens: int = 0
    _rendered: dict[str, Rendered] = field(default_factory=dict)

    def base(self, lesson: Lesson, seed: int) -> ModelRef:
        """Return the model that an arm starts from: with the new tokens, if there are any."""
        from learnable.models import with_tokens

        if not self.added:
            return self.ref
        return with_tokens(self.ref, self._tokens(lesson, seed), self.store)

    def _tokens(self, lesson: Lesson, seed: int) -> NewTokens:
        return NewTokens(added=self.added, init=lesson.init, init_seed=seed if lesson.init == "random" else 0)

    def token_ids(self, base: ModelRef) -> list[int]:
        """Return the ids of the new tokens."""
        from learnable.models import token_ids

        return token_ids(base, NewTokens(added=self.added)) if self.added else []

    def lengths(self, examples: Sequence[Example], base: ModelRef) -> dict[str, int]:
        """Render examples, and return how many tokens each has."""
        return {each.id: len(each.ids) for each in self._render(examples, base)}

    def _render(self, examples: Sequence[Example], base: ModelRef) -> list[Rendered]:
        from learnable.models import Renderer

        missing = {each.id: each for each in examples if each.id not in self._rendered}
        if missing:
            rendered = render_rows(
                Renderer.of(base),
                list(missing.values()),
                max_length=self.longest,
                most_refused=self.most_refused,
            )
            self._rendered |= {each.id: each for each in rendered}
        return [self._rendered[each.id] for each in examples]

    def train(
        self, lessons: Sequence[Lesson], seeds: int, mixed: Callable[[str, int], Mixture]
    ) -> list[Taught]:
        """Train every arm with every seed; all arms of the first seed come first.

        Args:
            lessons: The arms.
            seeds: Trainings of each.
            mixed: Gives the mixture for a name and a seed.
        """
        planned = [
            (lesson, seed)
            for seed in range(seeds)
            for lesson in lessons
            # An untuned model differs between seeds by its random rows only.
            if lesson.mixture != UNTUNED or seed == 0 or (self.added and lesson.init == "random")
        ]
        taught = []
        for number, (lesson, seed) in enumerate(planned):
            base = self.base(lesson, seed)
            if lesson.mixture == UNTUNED:
                taught.append(Taught(lesson=lesson, seed=seed, base=base))
                continue
            mixture = mixed(lesson.mixture, seed)
            label = f"training {number + 1} of {len(planned)}: {lesson.label}, seed {seed}"
            trained = self._train(base, mixture, seed, label)
            counted = sum(int(each.mask.sum()) for each in self._render(mixture.examples, base))
            taught.append(
                Taught(
                    lesson=lesson,
                    seed=seed,
                    base=base,
                    mixture=mixture,
                    trained=trained,
                    response_tokens=counted,
                )
            )
        return taught

    def _train(self, base: ModelRef, mixture: Mixture, seed: int, label: str) -> "Trained":
        """Train through the stages of a mixture, one after the other."""
        from learnable.models import Renderer
        from learnable.models.source import identify
        from learnable.training import fine_tune

        how, ids = replace(self.tuning, seed=seed), self.token_ids(base)
        made = [identify(base), Renderer.of(base).key, self.longest, fingerprint(how), ids]
        earlier: Trained | None = None
        for number, stage in enumerate(mixture.stages):
            made.append(sorted(each.id for each in stage))
            folder = self.store / "arms" / fingerprint(made)[:16]
            with waiting_lock(self.store / "arms" / f"{folder.name}.lock"):
                trained = fine_tune(
                    ModelRef(**(asdict(base) | {"name": str(earlier.folder)}))
                    if earlier and how.method == "full"
                    else base,
                    self._render(stage, base),
                    folder,
                    tuning=how,
                    label=label + (f", stage {number + 1}" if len(mixture.stages) > 1 else ""),
                    token_ids=ids,
                    start=earlier.folder if earlier and how.method == "lora" else None,
                )
            self.tokens += trained.tokens if trained.ran else 0
            earlier = _together(earlier, trained)
        assert earlier is not None
        return earlier

    @contextmanager
    def _worn(self, one: Taught, loaded: dict[str, "LanguageModel"]) -> Iterator["LanguageModel"]:
        """Give the model of a training; one base is in memory at a time."""
        whole = one.trained is not None and self.tuning.method == "full"
        name = str(one.trained.folder) if whole and one.trained else one.base.name
        if name not in loaded:
            loaded.clear()
            loaded[name] = opened(replace(one.base, name=name), on=self.on)
        model = loaded[name]
        adapter = one.trained.folder if one.trained and not whole else None
        with model.adapter(adapter) if adapter is not None else nullcontext():
            yield model

    def evaluate(
        self,
        taught: Sequence[Taught],
        evaluations: Sequence[Evaluation],
        *,
        concepts: Mapping[str, Sequence[str]],
        tests: Sequence[Example],
    ) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
        """Return grades, concept distances and samples of text of every model.

        Args:
            taught: The models.
            evaluations: What they are asked.
            concepts: Words to compare each token with.
            tests: Conversations in which the tokens stand.
        """
        say(f"evaluating {len(taught)} models on {', '.join(each.label for each in evaluations)}")
        store = Store(self.store)
        loaded: dict[str, LanguageModel] = {}
        grades, samples = list[pl.DataFrame](), list[pl.DataFrame]()
        # There may be no token, or no word to compare it with.
        distances = [pl.DataFrame(schema={"arm": pl.String, "seed": pl.Int32, **DISTANCES})]
        # Models of one base one after the other, so that each base is loaded once.
        for one in sorted(taught, key=lambda one: one.base.name):
            who = [pl.lit(one.lesson.label).alias("arm"), pl.lit(one.seed).alias("seed")]
            what = f": {one.lesson.label}, seed {one.seed}"
            with self._worn(one, loaded) as model:
                graded = graded_all(model, evaluations, store=store, max_length=self.longest, what=what)
                grades.append(graded.select(*who, pl.all()))
                for token, words in concepts.items():
                    distances.append(_distances(model, tests, token, words).select(*who, pl.all()))
                if one.seed == 0:
                    samples.append(_samples(model, evaluations, store, graded).select(*who, pl.all()))
        return pl.concat(grades), pl.concat(distances), pl.concat(samples)

    def gradients(
        self, base: ModelRef, sets: Mapping[str, Sequence[Example]], *, ratio: float
    ) -> pl.DataFrame:
        """Return how gradients add up before training; see ``comparing.buffering``.

        Args:
            base: The model that training starts from.
            sets: ``buffer`` and one or more forms of the task, by name.
            ratio: The one of the mix that is trained on.

        Returns:
            The columns of ``buffering``, and ``wording``: which form of the task.
        """
        from learnable.training import gradient_sums

        rendered = {name: self._render(rows, base) for name, rows in sets.items()}
        sums = gradient_sums(
            base, rendered, tuning=self.tuning, label="gradients", token_ids=self.token_ids(base)
        )
        return pl.concat(
            buffering(sums, task=name, ratios=sorted({*RATIOS, ratio})).select(
                pl.lit(name).alias("wording"), pl.all()
            )
            for name in sets
            if name != "buffer"
        )


def _together(earlier: "Trained | None", trained: "Trained") -> "Trained":
    """Return a training of several stages as one: the model of the last, the cost of all."""
    if earlier is None:
        return trained
    return replace(
        trained,
        tokens=earlier.tokens + trained.tokens,
        steps=earlier.steps + trained.steps,
        seconds=earlier.seconds + trained.seconds,
        ran=earlier.ran or trained.ran,
    )


def _distances(
    model: "LanguageModel", tests: Sequence[Example], token: str, words: Sequence[str]
) -> pl.DataFrame:
    from learnable.models.cluster import ClusterModel
    from learnable.models.concepts import comparable_prompts

    asked = map(question_of, tests)
    prompts = comparable_prompts(model, asked, token=token, words=words, most=CONCEPT_PROMPTS)
    frames = [pl.DataFrame(schema=DISTANCES)]
    measure = partial(_of_each_word, prompts=prompts, token=token, words=words)
    distances = model.call(measure) if isinstance(model, ClusterModel) else measure(model)
    for word, found in zip(words, distances, strict=True):
        counted = (~np.isnan(found)).sum(axis=1)
        frames.append(
            pl.DataFrame(
                {
                    "token": token,
                    "words": word,
                    "layer": list(range(len(found))),
                    "distance": [
                        total / count if count else np.nan
                        for total, count in zip(np.nansum(found, axis=1), counted, strict=True)
                    ],
                    "prompts": counted,
                },
                schema=DISTANCES,
            )
        )
    return pl.concat(frames)


def _of_each_word(
    model: "LanguageModel", *, prompts: Sequence[Sequence[Message]], token: str, words: Sequence[str]
) -> list[NDArray[np.float64]]:
    """Return the distances of a token from each of the words, (layers + 1, n) each."""
    from learnable.models.concepts import concept_distances

    return [concept_distances(model, prompts, token=token, words=word) for word in words]


def _samples(
    model: "LanguageModel", evaluations: Sequence[Evaluation], store: Store, graded: pl.DataFrame
) -> pl.DataFrame:
    """Return what a model wrote: the whole text of the first items of each generation evaluation, from the store."""
    frames = [pl.DataFrame(schema=WRITTEN)]
    for each in evaluations:
        if each.evaluator.kind != "generation":
            continue
        evaluator = cast("GenerationEvaluator", each.evaluator)
        some = each.examples[:SAMPLES]
        written = completions(model, evaluator, some, store=store, label="samples")
        values = dict(graded.filter(pl.col("evaluation") == each.label).select("id", "value").iter_rows())
        frames.append(
            pl.DataFrame(
                {
                    "evaluation": each.label,
                    "id": [e.id for e in some],
                    "prompt": [evaluator.prompt(e)[-1].content for e in some],
                    "completion": [w.text if w.text is not None else w.why for w in written],
                    "value": [values[e.id] for e in some],
                },
                schema=WRITTEN,
            )
        )
    return pl.concat(frames)
