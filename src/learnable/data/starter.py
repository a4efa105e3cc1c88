"""A small set of conversations to start with: the English part of the package ``chatterbot-corpus`` (BSD)."""

import importlib.metadata
import importlib.resources
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from learnable.errors import DataError
from learnable.runs.identity import example_id
from learnable.types import Message

STARTER_PACKAGE = "chatterbot-corpus"
STARTER_VERSION = "1.3.3"
STARTER_ROWS = 480
MAX_ANSWER_CHARACTERS = 600

# In these files the texts after the first are other answers to the same question, not further turns.
_ALTERNATIVE_ANSWERS = ("computers", "emotion")


def starter_rows(*, limit: int | None = STARTER_ROWS) -> Iterator[dict[str, Any]]:
    """Yield distinct conversations as rows with ``messages`` and ``source`` (the topic, such as ``trivia``).

    The subset is the same on every machine: each topic gives its share of ``limit`` (None for all rows), the rows with
    the smallest content hash.
    """
    topics: dict[str, dict[str, list[dict[str, Any]]]] = {}
    taken: set[str] = set()
    for source, texts in _conversations():
        roles = zip(cycle(("user", "assistant")), texts, strict=False)
        turns: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in roles]
        identity = example_id(Message(**turn) for turn in turns)
        if identity not in taken:
            taken.add(identity)
            topics.setdefault(source, {})[identity] = turns
    shares = _shares({source: len(rows) for source, rows in topics.items()}, limit)
    for source, rows in topics.items():
        chosen = set(sorted(rows)[: shares[source]])
        yield from ({"messages": rows[identity], "source": source} for identity in rows if identity in chosen)


def starter_version() -> str:
    """Return the installed version of the package the rows come from."""
    try:
        return importlib.metadata.version(STARTER_PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise DataError(
            f"the starter data needs the package {STARTER_PACKAGE}, which is not installed",
            hint=f"pip install {STARTER_PACKAGE}=={STARTER_VERSION}",
        ) from error


def _shares(sizes: dict[str, int], limit: int | None) -> dict[str, int]:
    """Split ``limit`` over the topics in proportion to their sizes (largest remainders)."""
    total = sum(sizes.values())
    if limit is None or limit >= total:
        return sizes
    shares = {source: size * limit // total for source, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda source: (-(sizes[source] * limit % total), source))
    for source in by_remainder[: limit - sum(shares.values())]:
        shares[source] += 1
    return shares


def _conversations() -> Iterator[tuple[str, list[str]]]:
    """Yield the topic and the turns of every usable conversation, in the order of the files."""
    import yaml

    starter_version()
    # The base loader keeps every scalar as it is written: an answer `No` stays text, 1963 and dates, too.
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    folder = Path(str(importlib.resources.files("chatterbot_corpus"))) / "data" / "english"
    for path in sorted(folder.glob("*.yml")):
        with path.open(encoding="utf-8") as file:
            conversations = yaml.load(file, Loader=loader)["conversations"]
        for conversation in conversations:
            if not isinstance(conversation, list):
                continue
            is_single = path.stem in _ALTERNATIVE_ANSWERS
            texts = [
                str(turn).strip() for turn in conversation[: 2 if is_single else len(conversation) // 2 * 2]
            ]
            is_short = all(len(answer) <= MAX_ANSWER_CHARACTERS for answer in texts[1::2])
            if len(texts) > 1 and all(texts) and is_short:
                yield path.stem, texts
