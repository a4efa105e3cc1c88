"""Puzzles of reasoning-gym, graded by its own scorers."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from learnable.errors import UsageError, did_you_mean
from learnable.evaluators.reading import ItemSettings, distinct, item_id
from learnable.packages import needed
from learnable.types import Example, Grade, Message

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)

PUZZLES_PER_SEED = 1_000_000
MOST_SEEDS = 4_000
"""Some generators take no seed above 2**32."""


@dataclass(frozen=True, kw_only=True)
class ReasoningGym(ItemSettings):
    """Puzzles made on the spot, such as ``reasoning_gym:chain_sum``; the path is the name of the generator.

    What stands between ``<answer>`` marks is graded, else the whole completion. The scorers give part of a point for
    some answers that hold the right one among other words.

    Args:
        n: How many puzzles to make; repeats are left out.
        seed: Which puzzles; different seeds share none but by chance. (reasoning-gym numbers puzzles from its seed, so
            that its seeds 0 and 1 share all but one; here each seed starts a million further on.)
        suffix: Added to the question after an empty line, for example ``Write the answer alone.``: most scorers
            take nothing but the bare answer for right.
        max_new_tokens: Most tokens of a completion.

    Source: reasoning-gym (Stojanovski et al. 2025, arXiv:2505.24760), default difficulty.
    """

    unit: ClassVar[str] = "points (0 to 1)"
    packages: ClassVar[tuple[str, ...]] = ("reasoning-gym",)
    n: int = 200
    suffix: str | None = None
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.n <= PUZZLES_PER_SEED:
            raise UsageError(f"n must be 1 to {PUZZLES_PER_SEED:,}, got {self.n}")
        if not 0 <= self.seed < MOST_SEEDS:
            raise UsageError(f"seed must be 0 to {MOST_SEEDS - 1:,}, got {self.seed}")

    def read(self, path: str | None) -> list[Example]:
        """Return puzzles of the generator that ``path`` names."""
        known = needed("reasoning_gym.factory", by="reasoning_gym", extra="evaluate").DATASETS
        if path is None:
            raise UsageError("reasoning_gym needs a generator", hint="for example reasoning_gym:chain_sum")
        if path not in known:
            raise UsageError(f"reasoning-gym has no generator {path!r}", hint=did_you_mean(path, known))
        puzzles, examples = _puzzles(path, self.n, self.seed), []
        for number in range(self.n):
            entry = puzzles[number]
            question = f"{entry['question']}\n\n{self.suffix}" if self.suffix else str(entry["question"])
            answer = Message(role="assistant", content=str(entry["answer"]))
            turns = (Message(role="user", content=question), answer)
            grading = {"generator": path, "n": self.n, "seed": self.seed, "number": number}
            identity = item_id(turns, {"generator": path})
            examples.append(Example(id=identity, messages=turns, source=path, meta=grading))
        return distinct(examples, path)

    def grade(self, example: Example, completion: str) -> Grade:
        """Return the score of the puzzle's own scorer; an answer that breaks the scorer is wrong, and says so."""
        meta = example.meta
        puzzles = _puzzles(meta["generator"], meta["n"], meta["seed"])
        marked = _ANSWER.findall(completion)
        answer = (marked[-1] if marked else completion).strip()
        if not answer:
            return Grade(value=0.0, why="empty")
        entry = puzzles[meta["number"]]
        try:
            score = float(puzzles.score_answer(answer=answer, entry=entry))
        except Exception as error:  # a hundred scorers, each with its own ways to fail on junk
            return Grade(value=0.0, answer=answer, why=f"the scorer failed on it: {error!r}"[:200])
        return Grade(value=score, answer=answer, why="" if score >= 1 else f"expected {entry['answer']}")


@cache
def _puzzles(generator: str, n: int, seed: int) -> Any:
    """Return the data set of reasoning-gym: puzzles by number, and their scorer."""
    gym = needed("reasoning_gym", by="reasoning_gym", extra="evaluate")
    return gym.create_dataset(generator, size=n, seed=(seed + 1) * PUZZLES_PER_SEED)
