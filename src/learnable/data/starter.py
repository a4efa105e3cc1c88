"""Rows to start with, from two packages: conversations of ``chatterbot-corpus`` (BSD), worked answers of ``lm-eval`` (MIT)."""

import importlib.util
import re
from collections.abc import Iterable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from learnable.errors import DataError
from learnable.runs.identity import example_id
from learnable.types import Message

INSTALL = {
    "chatterbot-corpus": "pip install chatterbot-corpus==1.3.3",
    "lm-eval": "pip install --no-deps lm-eval==0.4.13",
}
"""What brings each package; of ``lm-eval`` only files are read, which need none of its dependencies."""
STARTER_ROWS = 480
MAX_QUESTION_CHARACTERS, MAX_ANSWER_CHARACTERS = 800, 600

# In these files the texts after the first are other answers to the same question, not further turns.
_ALTERNATIVE_ANSWERS = ("computers", "emotion")
_LEAD = re.compile(
    r"^Let's think step by step\.\s*(We refer to Wikipedia articles on [^.]+ for help\.\s*)?"
    r"(Let.s solve this (problem )?step by step\.\s*)?"
)
"""What stands before every answer of MMLU, to lead a model on."""


def starter_rows(*, limit: int | None = STARTER_ROWS) -> Iterator[dict[str, Any]]:
    """Yield distinct rows with ``messages`` and ``source``: half of them conversations, half worked answers.

    ``source`` is the topic of a conversation, such as ``trivia``, or the test whose examples an answer is from, ``mmlu`` or
    ``bbh``. The subset is the same on every machine: each source gives its share of its half of ``limit`` (None for all
    rows), the rows with the smallest content hash.
    """
    yield from _drawn(conversations(), None if limit is None else limit - limit // 2)
    yield from _drawn(worked_answers(), None if limit is None else limit // 2)


def _drawn(texts: Iterable[tuple[str, list[str]]], limit: int | None) -> Iterator[dict[str, Any]]:
    """Yield rows of distinct texts, at most ``limit``, in the order they stand in; each source gives its share."""
    sources: dict[str, dict[str, list[dict[str, Any]]]] = {}
    taken: set[str] = set()
    for source, turns in texts:
        roles = zip(cycle(("user", "assistant")), turns, strict=False)
        messages: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in roles]
        identity = example_id(Message(**turn) for turn in messages)
        if identity not in taken:
            taken.add(identity)
            sources.setdefault(source, {})[identity] = messages
    shares = _shares({source: len(rows) for source, rows in sources.items()}, limit)
    for source, rows in sources.items():
        chosen = set(sorted(rows)[: shares[source]])
        yield from ({"messages": rows[identity], "source": source} for identity in rows if identity in chosen)


def _shares(sizes: dict[str, int], limit: int | None) -> dict[str, int]:
    """Split ``limit`` over the sources in proportion to their sizes (largest remainders)."""
    total = sum(sizes.values())
    if limit is None or limit >= total:
        return sizes
    shares = {source: size * limit // total for source, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda source: (-(sizes[source] * limit % total), source))
    for source in by_remainder[: limit - sum(shares.values())]:
        shares[source] += 1
    return shares


def conversations() -> Iterator[tuple[str, list[str]]]:
    """Yield the topic and the turns of every usable conversation, in the order of the files."""
    for path in _files("chatterbot-corpus", "chatterbot_corpus/data/english", "*.yml"):
        for conversation in _read(path)["conversations"]:
            if not isinstance(conversation, list):
                continue
            is_single = path.stem in _ALTERNATIVE_ANSWERS
            texts = [
                str(turn).strip() for turn in conversation[: 2 if is_single else len(conversation) // 2 * 2]
            ]
            is_short = all(len(answer) <= MAX_ANSWER_CHARACTERS for answer in texts[1::2])
            if len(texts) > 1 and all(texts) and is_short:
                yield path.stem, texts


def worked_answers() -> Iterator[tuple[str, list[str]]]:
    """Yield the test and a question with its answer in steps: the examples that prompts for MMLU and BIG-Bench Hard begin with.

    They are of the development split, and none is asked by the tests themselves.
    """
    for test, folder, question in (
        ("mmlu", "mmlu/flan_cot_fewshot", "question"),
        ("bbh", "bbh/cot_fewshot", "input"),
    ):
        for path in _files("lm-eval", f"lm_eval/tasks/{folder}", "[!_]*.yaml"):
            task = _read(path)
            # In a task of MMLU the description is a heading of the prompt, in one of BBH it is what is asked.
            asked = "" if test == "mmlu" else f"{task['description'].strip()}\n\n"
            for example in task["fewshot_config"]["samples"]:
                texts = [asked + example[question].strip(), _LEAD.sub("", example["target"]).strip()]
                if len(texts[0]) <= MAX_QUESTION_CHARACTERS and len(texts[1]) <= MAX_ANSWER_CHARACTERS:
                    yield test, texts


def _files(package: str, folder: str, pattern: str) -> list[Path]:
    """Return files of a package, in order; a ``DataError`` where it is not installed. The package is not imported."""
    module, _, inside = folder.partition("/")
    found = importlib.util.find_spec(module)
    files = sorted(Path(str(found.origin)).parent.joinpath(inside).glob(pattern)) if found else []
    if not files:
        raise DataError(
            f"the starter data needs the package {package}, which is not installed", hint=INSTALL[package]
        )
    return files


def _read(path: Path) -> Any:
    import yaml

    # The base loader keeps every scalar as it is written: an answer `No` stays text, 1963 and dates, too.
    return yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))
