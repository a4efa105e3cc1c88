"""``hints``: what a dictionary says of the words of a question, added to it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from learnable.data.csv_files import csv_records
from learnable.data.records import place
from learnable.data.sources import locate, read_records, suffix_of
from learnable.diversifiers.drawing import Drawing
from learnable.diversifiers.keeping import enumerated
from learnable.diversifiers.kinds import Diversified, Diversifier, Ledger, variant
from learnable.errors import DataError, UsageError
from learnable.types import Example, Message

_TOKEN = re.compile(r"\w+|[^\w\s]")
_WORD_COLUMNS = ("word", "term", "source")

Key = tuple[str, ...]
"""A word or several, as tokens in lower case."""


class DictionaryEntry(NamedTuple):
    """A word of a dictionary and what it means."""

    word: str
    meanings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Hints(Diversifier):
    """Rows with what a dictionary says of their words: that in this text, "X" means "Y1" or "Y2".

    Words are looked up in every user turn as they are written there, without regard to case: inflected forms need
    entries of their own. An entry may be several words, or a token such as ``<sep>`` with what it stands for; where
    entries overlap, the longest is taken. The hints of a turn follow it as a paragraph of their own, one for each entry,
    in the order of the text. Nothing is drawn, so there is one row for each, and no ``n``.

    Args:
        file: The dictionary. In a .tsv or .csv file: the word, then a meaning in each further column or several in
            one, separated by ``;``; a first line that begins with ``word``, ``term`` or ``source`` is a header. In a
            .jsonl, .json or .parquet file: ``word`` and ``translations`` (or ``meanings``), a list or such a text.
        meanings: Most meanings to tell of a word, the first ones of the dictionary.

    Source: DiPMT, Ghazvininejad et al. 2023 (arXiv 2302.07856), a baseline of DELIA (arXiv 2408.10841), which only
        prompts with them; wording ours.
    """

    needs_generator: ClassVar[bool] = False
    file: str = ""
    meanings: int = 3

    def __post_init__(self) -> None:
        if not self.file:
            raise UsageError(
                "hints needs a dictionary", hint="hints@file=words.tsv: a word and its meanings in each line"
            )
        if self.meanings < 1:
            raise UsageError(f"meanings must be at least 1, got {self.meanings}")

    @property
    def files(self) -> tuple[str, ...]:
        """The files that are read."""
        return (self.file,)

    def __call__(
        self, examples: Sequence[Example], *, n: int | None, draw: Drawing, seed: int
    ) -> Diversified:
        """Return every row, those without a word of the dictionary as they are; ``meta`` has ``hinted``, the words."""
        if n is not None:
            raise UsageError(f"hints makes one row of each, got n={n}", hint="leave n out")
        entries, kept = read_dictionary(self.file), list[Example]()
        for example in examples:
            turns, hinted = list[Message](), dict[str, None]()
            for turn in example.messages:
                hits = list(_hits(turn.content, entries)) if turn.role == "user" else []
                hinted |= dict.fromkeys(entry.word for entry in hits)
                told = " ".join(
                    f'In this text, "{entry.word}" means {enumerated(entry.meanings[: self.meanings], "or")}.'
                    for entry in hits
                )
                turns.append(replace(turn, content=f"{turn.content.rstrip()}\n\n{told}") if told else turn)
            kept.append(variant(example, turns, by="hints", seed=seed, hinted=", ".join(hinted)))
        without = sum(not example.meta["hinted"] for example in kept)
        note = f"{without:,} of {len(kept):,} rows have no word of the dictionary and stay as they are"
        return Diversified(kept=kept, dropped=Ledger().frame, notes=(note,) if without else ())

    def price(self, *, rows: int, n: int | None) -> str:
        """Return how many rows it makes, in words."""
        return f"{rows:,} rows with what the dictionary says of their words"


_LINE = "a word and its meanings in each line"


def read_dictionary(path: str) -> dict[Key, DictionaryEntry]:
    """Return the entries of a dictionary by their tokens; those of a word that stands there twice are joined."""
    unknown, name = suffix_of(path) is None, Path(path).name
    if unknown or not Path(path).is_file():
        what = "is no .tsv, .csv, .jsonl, .json or .parquet file" if unknown else "is not there"
        raise DataError(f"the dictionary {path} {what}", hint=_LINE)
    entries: dict[Key, DictionaryEntry] = {}
    for number, line, cells, reason in _lines(path):
        word, *rest = [cell.strip() for cell in cells] or [""]
        meanings = [part.strip() for cell in rest for part in cell.split(";") if part.strip()]
        key = _key(word)
        if reason or not key or not meanings:
            where = place(name, row=number, line=line)
            raise DataError(f"{where}: {reason or 'no word with a meaning'}", hint=_LINE)
        before = entries.get(key, DictionaryEntry(word, ()))
        entries[key] = DictionaryEntry(before.word, tuple(dict.fromkeys([*before.meanings, *meanings])))
    if not entries:
        raise DataError(f"the dictionary {name} has no entry", hint=f"it is {path}")
    return entries


def _lines(path: str) -> Iterator[tuple[int, int | None, Sequence[str], str | None]]:
    """Yield number and line of a row, its word and meanings, and why it cannot be read."""
    (source,) = locate(path)
    if source.kind == "csv":
        for number, record in enumerate(csv_records(path)):
            cells = record.fields or []
            if number or not cells or cells[0].strip().lower() not in _WORD_COLUMNS:
                yield number, record.line, cells, record.reason
        return
    for number, read in enumerate(read_records(source)):
        row: Mapping[str, Any] = read.value or {}
        meanings = row.get("translations", row.get("meanings"))
        told = [meanings] if isinstance(meanings, str) else meanings if isinstance(meanings, list) else []
        cells, reason = [row.get("word", ""), *told], read.reason
        if reason is None and not all(isinstance(cell, str) for cell in cells):
            reason = f"word and translations must be text; seen: {', '.join(row)}"
        yield number, read.line, cells if reason is None else [], reason


def _hits(text: str, entries: Mapping[Key, DictionaryEntry]) -> Iterator[DictionaryEntry]:
    """Yield the entries that a text has, each once, in its order."""
    tokens, seen, start = _key(text), set[Key](), 0
    longest = max(map(len, entries))
    while start < len(tokens):
        stretches = (tokens[start : start + length] for length in range(longest, 0, -1))
        found = next((key for key in stretches if key in entries), None)
        if found is not None and found not in seen:
            seen.add(found)
            yield entries[found]
        start += len(found or (0,))


def _key(text: str) -> Key:
    return tuple(_TOKEN.findall(text.lower()))
