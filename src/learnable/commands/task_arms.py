"""The arms of a task, and what else is looked at in their models: hidden states, texts, and gradients before training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.commands.experiment import Experiment
from learnable.deferred import models, training
from learnable.evaluators import Evaluation, completions, question_of
from learnable.experiments import RATIOS, UNTUNED, Arm, TaskArm, buffering
from learnable.mixing import Material, Mixture, mixture
from learnable.objects.given import render_rows
from learnable.runs.identity import fingerprint
from learnable.runs.store import Store
from learnable.settings import NewToken, NewTokens
from learnable.types import Example, Message, ModelRef, Rendered

CONCEPT_PROMPTS = 32
"""Prompts over which a distance of representations is averaged."""
DISTANCES: Mapping[str, type[pl.DataType]] = {
    "token": pl.String,
    "words": pl.String,
    "layer": pl.Int64,
    "distance": pl.Float64,
    "prompts": pl.Int64,
}
WRITTEN: Mapping[str, type[pl.DataType]] = {
    **dict.fromkeys(("evaluation", "id", "prompt", "completion"), pl.String),
    "value": pl.Float32,
}
SAMPLES = 6
"""Items of each evaluation whose texts are kept to be read."""


@dataclass(kw_only=True)
class TaskArms:
    """Makes the arms of a task: each begins from a model with the new tokens, and sees a mixture.

    ``most_refused`` is the share of rows that the chat template may refuse, see ``given.render_rows``.
    """

    experiment: Experiment
    added: tuple[NewToken, ...] = ()
    most_refused: float = 0.0
    _rendered: dict[str, Rendered] = field(default_factory=dict)

    def base(self, arm: TaskArm, seed: int) -> ModelRef:
        """Return the model that an arm starts from: with the new tokens, if there are any."""
        if not self.added:
            return self.experiment.network.ref
        init_seed = seed if arm.init == "random" else 0
        new = NewTokens(added=self.added, init=arm.init, init_seed=init_seed)
        return models.special_tokens.with_tokens(self.experiment.network.ref, new, self.experiment.store)

    def render(self, examples: Sequence[Example], base: ModelRef) -> tuple[Rendered, ...]:
        """Return examples as a model sees them: all models here alike, as they have the same tokens."""
        missing = {each.id: each for each in examples if each.id not in self._rendered}
        if missing:
            rendered = render_rows(
                models.Renderer.of(base),
                list(missing.values()),
                max_length=self.experiment.network.longest,
                most_refused=self.most_refused,
            )
            self._rendered |= {each.id: each for each in rendered}
        return tuple(self._rendered[each.id] for each in examples)

    def arms(
        self, written: Sequence[TaskArm], material: Material
    ) -> dict[tuple[str, int], tuple[Arm, Mixture]]:
        """Return each arm with what it sees, by label and seed; all arms of the first seed come first."""
        found = {}
        for seed, each in product(range(self.experiment.seeds), written):
            untuned = each.mixture == UNTUNED
            # An untuned model differs between seeds by its random rows only.
            if untuned and seed and not (self.added and each.init == "random"):
                continue
            nothing = Mixture(stages=(), task=0, others=0)
            mixed = nothing if untuned else mixture(each.mixture, at_ratio(material, each), seed=seed)
            base = self.base(each, seed)
            arm = Arm(
                label=each.label,
                seed=seed,
                base=base,
                stages=tuple(self.render(stage, base) for stage in mixed.stages),
                tuning=replace(self.experiment.tuning, seed=seed),
                token_ids=self._token_ids(base),
                token_rate=each.token_rate,
                columns={"task_examples": mixed.task, "stages": len(mixed.stages)},
            )
            found[each.label, seed] = arm, mixed
        return found

    def gradients(self, base: ModelRef, material: Material, count: int) -> pl.DataFrame:
        """Return how gradients of so many rows of each set add up before training, by the ``wording`` of the task.

        The other columns are those of ``experiments.buffering``.
        """
        buffer = mixture("no_paraphrases", material, seed=0).examples[len(material.task) :]
        sets = {"task": list(material.task), "buffer": buffer}
        if material.paraphrases:
            sets["reworded"] = mixture("no_buffer", material, seed=0).examples
        ratios = sorted({*RATIOS, len(buffer) / len(material.task)})
        rendered = {
            name: self.render(sorted(rows, key=lambda row: fingerprint(["gradients", row.id]))[:count], base)
            for name, rows in sets.items()
        }
        tuning, ids = self.experiment.tuning, self._token_ids(base)
        sums = training.gradient_sums(base, rendered, tuning=tuning, label="gradients", token_ids=ids)
        return pl.concat(
            buffering(sums, task=name, ratios=ratios).select(pl.lit(name).alias("wording"), pl.all())
            for name in sets
            if name != "buffer"
        )

    def _token_ids(self, base: ModelRef) -> tuple[int, ...]:
        return tuple(models.special_tokens.token_ids(base, NewTokens(added=self.added))) if self.added else ()


def at_ratio(material: Material, arm: TaskArm) -> Material:
    """Return what the mixture of an arm is made of: as it is, or with the arm's own ratio of buffer to task."""
    if arm.ratio is None:
        return material
    return replace(material, mixing=replace(material.mixing, ratio=arm.ratio))


def token_distances(
    model: "models.LanguageModel",
    _: pl.DataFrame,
    *,
    concepts: Mapping[str, Sequence[str]],
    tests: Sequence[Example],
) -> pl.DataFrame:
    """Return how far each new token is from each of its words (``concepts``), layer by layer, where it stands in tests."""
    lines = []
    for token, words in concepts.items():
        prompts = models.concepts.comparable_prompts(
            model, map(question_of, tests), token=token, words=words, most=CONCEPT_PROMPTS
        )
        measure = partial(_of_each_word, prompts=prompts, token=token, words=words)
        distances = model.call(measure) if isinstance(model, models.cluster.ClusterModel) else measure(model)
        for word, found in zip(words, distances, strict=True):
            counts = (~np.isnan(found)).sum(axis=1).tolist()
            means = [
                total / count if count else math.nan
                for total, count in zip(np.nansum(found, axis=1).tolist(), counts, strict=True)
            ]
            lines += [
                (token, word, layer, *both) for layer, both in enumerate(zip(means, counts, strict=True))
            ]
    return pl.DataFrame(lines, schema=DISTANCES, orient="row")


def _of_each_word(
    model: "models.LanguageModel", *, prompts: Sequence[Sequence[Message]], token: str, words: Sequence[str]
) -> list[NDArray[np.float64]]:
    """Return the distances of a token from each of the words, (layers + 1, n) each."""
    return [models.concepts.concept_distances(model, prompts, token=token, words=word) for word in words]


def samples(
    model: "models.LanguageModel", graded: pl.DataFrame, *, evaluations: Sequence[Evaluation], store: Store
) -> pl.DataFrame:
    """Return what a model wrote: the whole text of the first items of each generation evaluation, from the store."""
    lines = []
    for each in evaluations:
        if each.evaluator.kind == "generation":
            evaluator, some = each.evaluator, each.examples[:SAMPLES]
            written = completions(model, evaluator, some, store=store, label="samples")
            values = dict(graded.filter(evaluation=each.label).select("id", "value").iter_rows())
            for item, reply in zip(some, written, strict=True):
                text = reply.text if reply.text is not None else reply.why
                asked = evaluator.prompt(item)[-1].content
                lines.append((each.label, item.id, asked, text, values[item.id]))
    return pl.DataFrame(lines, schema=WRITTEN, orient="row")
