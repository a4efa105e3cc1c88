"""A small task to start with: name the topic of a message, in a format that the instruction names and never explains.

The messages come from the package of the starter conversations; instructions and answers are made here.
"""

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

from learnable.data.starter import conversations, starter_rows
from learnable.errors import DataError
from learnable.runs.identity import fingerprint

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
