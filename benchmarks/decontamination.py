"""What does it cost to look for evaluation rows? Rows a second of ``learnable load``, with and without ``--avoid``.

Makes up a table of questions and answers, and an evaluation, of words that are drawn as often as they are in English
(Zipf), so that most words of a row are in the evaluation too. A few rows of the evaluation are put into the table in
each of three ways, and the table says how many of them were found. No model.

    OMP_NUM_THREADS=1 python benchmarks/decontamination.py
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from learnable.data import in_evaluation, read
from learnable.data.decontamination import ways_found
from learnable.runs.price import peak_memory_bytes

VOCABULARY, QUESTION, ANSWER = 20_000, 30, 60
PLANTED = 50
"""Rows of each kind that stand in the evaluation."""


def texts(rng: np.random.Generator, number: int, words: int) -> list[list[str]]:
    """Return texts of about so many words each."""
    odds = 1 / np.arange(1, VOCABULARY + 1)
    drawn = rng.choice(VOCABULARY, size=(number, words), p=odds / odds.sum())
    return [[f"w{word}" for word in row] for row in drawn]


def planted(asked: list[list[str]]) -> list[list[str]]:
    """Return questions that are those of the evaluation, nearly so, or have 13 words in a row of one."""
    same, near, part = (asked[start : start + PLANTED] for start in (0, PLANTED, 2 * PLANTED))
    return [
        *same,
        *([*words[:-1], "other"] for words in near),
        *(["well"] * 20 + words[:13] for words in part),
    ]


def write(path: Path, questions: list[list[str]], answers: list[list[str]]) -> str:
    """Write rows of questions and answers."""
    with path.open("w", encoding="utf-8") as file:
        for question, answer in zip(questions, answers, strict=True):
            file.write(json.dumps({"prompt": " ".join(question), "response": " ".join(answer)}) + "\n")
    return str(path)


def main() -> None:
    """Load the table in both ways, a few times in turn, and print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--evaluation", type=int, default=1_000)
    parser.add_argument("--times", type=int, default=3)
    chosen = parser.parse_args()
    rng = np.random.default_rng(0)
    asked = texts(rng, chosen.evaluation, QUESTION)
    questions = [*texts(rng, chosen.rows - 3 * PLANTED, QUESTION), *planted(asked)]
    with tempfile.TemporaryDirectory() as folder:
        data = write(Path(folder) / "pool.jsonl", questions, texts(rng, chosen.rows, ANSWER))
        held = write(Path(folder) / "eval.jsonl", asked, texts(rng, chosen.evaluation, ANSWER))
        seconds: dict[str, list[float]] = {"without": [], "with": []}
        for _ in range(chosen.times):
            for name, avoid in (("without", []), ("with", [held])):
                begun = time.process_time()
                pool = read([data], avoid=avoid)
                seconds[name].append(time.process_time() - begun)
    speed = {name: chosen.rows / min(taken) for name, taken in seconds.items()}
    print(
        f"{chosen.rows:,} rows of {QUESTION + ANSWER} words, {chosen.evaluation:,} evaluation rows, one core"
    )
    for name, rate in speed.items():
        print(f"{name:>8} --avoid: {rate:,.0f} rows a second of processor time")
    print(
        f"ratio: {speed['without'] / speed['with']:.1f}; highest memory {peak_memory_bytes() / 2**20:,.0f} MiB"
    )
    print(f"found: {in_evaluation(pool.rows).height} of {3 * PLANTED} planted ({ways_found(pool.rows)})")


if __name__ == "__main__":
    main()
