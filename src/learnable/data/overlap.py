"""What two sets of rows share: the same prompt, or many words in a row."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import polars as pl

from learnable.errors import DataError, UsageError, did_you_mean
from learnable.types import Message

EXCERPT = 200
"""Characters of shared text that are shown."""

SAME_PROMPT = "same prompt"

# Chinese and Japanese write no spaces: each character is a word. A sign before a number is one too, or 3 + 5 would be
# the same prompt as 3 - 5.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+|[-+*/=<>^%](?=\s*[\d(])")

CONTAMINATION = {
    "item": pl.String,
    "pool": pl.String,
    "kind": pl.String,
    "shared": pl.String,
    "pool_rows": pl.Int64,
}


def spoken(conversations: Iterable[tuple[str, Sequence[Message]]]) -> pl.DataFrame:
    """Return ``id``, ``text`` (what users say) and ``answer`` (what assistants say) of conversations with their names."""
    lines = [
        (name, *("\n".join(m.content for m in turns if m.role == role) for role in ("user", "assistant")))
        for name, turns in conversations
    ]
    return pl.DataFrame(lines, schema=dict.fromkeys(("id", "text", "answer"), pl.String), orient="row")


def contamination(pool_texts: pl.DataFrame, item_texts: pl.DataFrame, *, n: int = 13) -> pl.DataFrame:
    """Find the evaluation items that stand in the pool, in full or in part.

    Texts are compared as sequences of words: lower case, without punctuation. An item is found if its prompt is the
    same as a prompt of the pool, or if its prompt or answer shares n words in a row with a prompt or answer of the
    pool; so for texts under n words only the first rule counts. Memory grows with the items, not with the pool.

    Args:
        pool_texts: ``id``, ``text`` (the prompt, without a template that all prompts share) and, if wanted,
            ``answer``.
        item_texts: The same of the evaluation items.
        n: Words in a row.

    Returns:
        One row per item found, in the order of the items: ``item`` and ``pool`` (their ids; of several pool rows
        the first, the same prompt before a shared n-gram), ``kind`` ("same prompt" or "shared 13-gram"),
        ``shared`` (the normalised text they share, cut to ``EXCERPT`` characters) and ``pool_rows`` (how many rows
        of the pool share something with the item).

    Raises:
        DataError: If ``id`` or ``text`` is missing.
        UsageError: If n is under 1.

    Source: Brown et al., Language Models are Few-Shot Learners (2005.14165), appendix C, for 13 words; there, a
        gram that more than ten training documents share does not count, here it does.
    """
    if n < 1:
        raise UsageError(f"an n-gram has at least 1 word, got n={n}")
    items = list(_rows(item_texts, "evaluation set"))
    by_prompt, by_gram = defaultdict[str, set[int]](set), defaultdict[str, set[int]](set)
    for place, (_, prompt, answer) in enumerate(items):
        # Two prompts without any word, say of dots only, are not the same prompt.
        if prompt:
            by_prompt[" ".join(prompt)].add(place)
        for gram in (*n_grams(prompt, n), *n_grams(answer, n)):
            by_gram[gram].add(place)
    known = {word for gram in by_gram for word in gram.split()}
    found: dict[int, tuple[str, str, str]] = {}
    pool_rows = Counter[int]()
    for pool_id, prompt, answer in _rows(pool_texts, "pool"):
        same = by_prompt.get(" ".join(prompt), set())
        grams = [*n_grams(prompt, n, known), *n_grams(answer, n, known)]
        partly = {
            item: gram for gram in reversed(grams) for item in by_gram.get(gram, ())
        }  # the first of each
        for item in same | partly.keys():
            pool_rows[item] += 1
            if item in same and (item not in found or found[item][1] != SAME_PROMPT):
                found[item] = (pool_id, SAME_PROMPT, " ".join(prompt))
            elif item not in found:
                found[item] = (pool_id, f"shared {n}-gram", partly[item])
    rows = [
        (items[item][0], *named, excerpt(shared), pool_rows[item])
        for item, (*named, shared) in sorted(found.items())
    ]
    return pl.DataFrame(rows, schema=CONTAMINATION, orient="row")


def _rows(frame: pl.DataFrame, what: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield id, and the words of prompt and answer; what is null is empty."""
    for column in ("id", "text"):
        if column not in frame.columns:
            raise DataError(f"the {what} has no column {column!r}", hint=did_you_mean(column, frame.columns))
    answer = pl.col("answer") if "answer" in frame.columns else pl.lit("")
    columns = frame.select(pl.col("id").cast(pl.String), pl.col("text").fill_null(""), answer.fill_null(""))
    for name, *texts in columns.iter_rows():
        prompt, reply = map(words_of, texts)
        yield name, prompt, reply


def words_of(text: str) -> list[str]:
    """Return the words of a text that is to be compared: lower case, without punctuation."""
    return WORD.findall(text.lower())


def n_grams(words: Sequence[str], n: int, known: Collection[str] | None = None) -> Iterator[str]:
    """Yield the n-grams, of known words only where these are given: most of a pool is passed over by this."""
    run = 0
    for end, word in enumerate(words, start=1):
        run = run + 1 if known is None or word in known else 0
        if run >= n:
            yield " ".join(words[end - n : end])


def shingles(words: Sequence[str]) -> set[tuple[str, ...]]:
    """Return the distinct word 3-grams of a text; of fewer words, all of them as one gram."""
    return {*zip(words, words[1:], words[2:], strict=False)} or ({tuple(words)} if words else set())


def jaccard(one: Collection[Any], other: Collection[Any]) -> float:
    """Return what is in both sets over what is in either, in [0, 1]; NaN where neither has any."""
    first, second = frozenset(one), frozenset(other)
    shared = len(first & second)
    either = len(first) + len(second) - shared
    return shared / either if either else math.nan


def excerpt(text: str) -> str:
    """Return the beginning of a text."""
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"
