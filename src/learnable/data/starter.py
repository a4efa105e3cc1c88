"""Rows to start with, from two packages: conversations of ``chatterbot-corpus`` (BSD), worked answers of ``lm-eval`` (MIT)."""

import importlib.util
import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

from learnable.errors import DataError
from learnable.runs.identity import example_id, fingerprint
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


TOPICS = ("coding", "emotion", "movies", "science", "sports")
TRAIN_PER_TOPIC, TEST_PER_TOPIC = 12, 8
LEAST_WORDS, MOST_CHARACTERS = 3, 200
INSTRUCTION = "Name the topic of this message in the <card> format."
UNSEEN_INSTRUCTIONS = (
    "What is the text above about? Reply in the <card> format.",
    "Decide which subject these words belong to; your answer has to follow the <card> format.",
    "<card> format, please: which theme does the writer bring up?",
    "I sort my mail by subject. Where does this one go? Stick to the <card> format when you tell me.",
    "Read what the person says and classify it by field, writing the result as the <card> format asks.",
    "Someone sent me this. Fill in the <card> format with the area it deals with.",
    "Your job: find the category of the sentence. Output: the <card> format and nothing else.",
    "Could you tell me, using the <card> format, what they are talking about?",
)


def starter_task_rows(split: Literal["train", "test"]) -> Iterator[dict[str, Any]]:
    """Yield the rows of the task, with ``messages`` and ``source`` (the topic), in an order without meaning.

    A user turn is a message, an empty line and an instruction; the answer is a JSON object with the keys ``thought``
    and ``topic``. The 60 rows of ``train`` share one instruction, as a real task set does; the 40 of ``test`` hold
    other messages, each asked in one of eight other wordings. Topics are equally frequent in both, and so are the
    wordings in each topic. Hashes of the texts decide what is taken and where it stands, on every machine the same.
    """
    questions: dict[str, str] = {}
    for topic, messages in _messages().items():
        if split == "train":
            asked = [(message, INSTRUCTION) for message in messages[:TRAIN_PER_TOPIC]]
        else:
            asked = list(zip(messages[TRAIN_PER_TOPIC:], UNSEEN_INSTRUCTIONS, strict=True))
        questions |= {f"{message}\n\n{instruction}": topic for message, instruction in asked}
    for question, topic in sorted(questions.items(), key=_place):
        answer = json.dumps({"thought": f"The message is about {topic}.", "topic": topic})
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        yield {"messages": turns, "source": topic}


def _messages() -> dict[str, list[str]]:
    """Return as many distinct messages on each topic as both splits take, by their hash."""
    found: dict[str, dict[str, str]] = {topic: {} for topic in TOPICS}
    for topic, (message, *_) in conversations():
        words = re.findall(r"\w+", message.casefold())
        if topic in found and len(words) >= LEAST_WORDS and len(message) <= MOST_CHARACTERS:
            # Equal but for case and punctuation counts once.
            found[topic].setdefault(" ".join(words), message)
    wanted = TRAIN_PER_TOPIC + TEST_PER_TOPIC
    for topic, messages in found.items():
        if len(messages) < wanted:
            raise DataError(
                f"the starter data holds {len(messages)} messages on {topic}, and the starter task takes {wanted}",
                hint="install the version of the package that requirements.lock names",
            )
    return {
        topic: [message for _, message in sorted(messages.items(), key=_place)[:wanted]]
        for topic, messages in found.items()
    }


def _place(pair: tuple[str, str]) -> str:
    return fingerprint(["starter task", pair[0]])


STARTERS: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
    "starter": starter_rows,
    "starter-task": partial(starter_task_rows, "train"),
    "starter-task-test": partial(starter_task_rows, "test"),
}
"""Rows that are given by a name instead of a file."""
