"""How long a model's own answers are: greedy ones to a few held-out prompts, the plainest sign that it learned length."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from learnable.commands.network import Network
from learnable.data import prompt_key
from learnable.deferred import models
from learnable.diversifiers.drawing import Drawing
from learnable.experiments.run import Look
from learnable.runs.price import Price
from learnable.runs.store import Store
from learnable.settings import Sampling
from learnable.types import Message, Pair

NEW_TOKENS = 64
"""Most tokens of an answer; a longer one is cut off, and counts as so many."""


@dataclass(frozen=True, kw_only=True)
class AnswerLengths:
    """Asks every model the same ``prompts``, by their key, greedily; what is in the ``store`` is never drawn again."""

    prompts: Mapping[str, Sequence[Message]]
    store: Path

    @classmethod
    def of(cls, pairs: Sequence[Pair], *, most: int, store: Path) -> "AnswerLengths":
        """Return so many of the prompts of pairs, at most, drawn by a hash of them; those with tools are left out."""
        prompts = {prompt_key(each, draw="lengths"): each.prompt for each in pairs if not each.tools}
        return cls(prompts=dict(sorted(prompts.items())[:most]), store=store)

    @property
    def looks(self) -> Mapping[str, Look]:
        """What an experiment takes from each model; nothing where there is no prompt."""
        return {"answers": self.look} if self.prompts else {}

    def price(self, network: Network) -> Price:
        """Return what the answers of one model will cost, each with the most tokens it may have."""
        prompts = list(self.prompts.values())
        return network.writing(len(prompts), new_tokens=NEW_TOKENS, prompts=prompts)

    def look(self, model: "models.LanguageModel", _: pl.DataFrame) -> pl.DataFrame:
        """Return ``id`` of each prompt, ``answer_tokens``, and whether the answer ``finished``."""
        sampling = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=NEW_TOKENS)
        draw = Drawing(generator=model, sampling=sampling, store=Store(self.store))
        asked = {key: turns for key, turns in self.prompts.items() if not draw.refusal(turns)}
        answers = draw.answers(list(asked.values()), seeds=[0] * len(asked), label="greedy answers")
        texts = [each.text for each in answers]
        ids = model.renderer.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        columns = {"id": pl.String, "answer_tokens": pl.Int64, "finished": pl.Boolean}
        return pl.DataFrame(
            [list(asked), [*map(len, ids)], [each.finished for each in answers]], schema=columns, orient="col"
        )

    def words(self, frames: Mapping[str, pl.DataFrame]) -> list[str]:
        """Say how long the answers of each arm are at its largest budget, in a sentence; nothing where none was asked.

        Args:
            frames: Of the experiment; ``answers`` as of ``look``, with ``arm``, ``budget_tokens`` and ``seed``.
        """
        if "answers" not in frames:
            return []
        answers, budget = frames["answers"], pl.col("budget_tokens")
        largest = answers.filter(budget.is_null() | (budget == budget.max().over("arm")))
        means = largest.group_by("arm", maintain_order=True).agg(
            pl.col("answer_tokens").mean(), (~pl.col("finished")).mean().alias("cut_off")
        )
        said = [
            f"{arm} {tokens:.1f}{f' ({cut_off:.0%} cut off)' if cut_off else ''}"
            for arm, tokens, cut_off in means.iter_rows()
        ]
        number = answers["id"].n_unique()
        most = f"of {NEW_TOKENS} at most"
        return [f"mean tokens of greedy answers to {number:,} held-out prompts, {most}: {', '.join(said)}"]
