"""Rows of files, lists, frames and datasets: one pool of conversations, and each row again as it came."""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from learnable.data import pairs_of
from learnable.data import read as read_pool
from learnable.data.sources import MEMORY, Source, read_records
from learnable.data.target import SUBTASK, Target, target_of
from learnable.data.writing import check_unchanged
from learnable.deferred import models
from learnable.errors import DataError, UsageError
from learnable.objects.given import checked_settings, render_rows
from learnable.packages import needed
from learnable.pools import Pool
from learnable.settings import Reading
from learnable.types import Example, Pair, Rendered

if TYPE_CHECKING:
    from datasets import Dataset

TAKEN = "give a path, a list of dicts, a datasets.Dataset, a polars or pandas DataFrame, or several of them"
INSTEAD = {
    "DatasetDict": 'give one split, such as dataset["train"]',
    "IterableDataset": "give some of its rows: list(dataset.take(1000))",
    "LazyFrame": "give frame.collect()",
    "dict": "give a list of rows, each a dict",
    "generator": "give list(...) of it",
}


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows that were read, and the distinct conversations in them.

    Args:
        pool: What became of every row.
        given: The rows that were in memory, by the position of their source in ``pool.files``.
        reading: How they were read.
        set_aside: Conversations that were read with them, and are kept apart to judge on.
    """

    pool: Pool
    given: Mapping[int, Sequence[Mapping[str, Any]]]
    reading: Reading
    set_aside: Sequence[Example] = ()

    def __len__(self) -> int:
        return len(self.pool)

    @property
    def frame(self) -> pl.DataFrame:
        """The n conversations: ``id``, ``source`` and ``messages``."""
        return self.pool.examples

    @property
    def examples(self) -> list[Example]:
        """The n conversations."""
        return list(self.pool.iter_examples())

    @property
    def pairs(self) -> list[Pair]:
        """The n preference pairs; a ``DataError`` where the rows are conversations with one answer."""
        return list(pairs_of(self.pool))

    def rendered(self, renderer: "models.Renderer", *, max_length: int) -> list[Rendered]:
        """Return the n conversations as a model sees them, see ``render_rows``."""
        most = self.reading.most_bad
        return render_rows(renderer, self.examples, max_length=max_length, most_refused=most)

    def windows(self, rows: int | None = None) -> "Iterator[Rows]":
        """Yield the rows so many conversations at a time, see ``Pool.windows``."""
        for window in self.pool.windows(rows):
            yield replace(self, pool=window)

    def chosen(self, ids: Iterable[str]) -> list[dict[str, Any]]:
        """Return the rows of examples as they came, in the order of the input; of duplicates the first.

        It is a DataError if a file has changed since it was read.
        """
        return [dict(row) for file, numbers in self._places(ids) for row in self._at(file, numbers)]

    def column(self, name: str) -> list[str | None]:
        """Return a column of the rows as text, for each conversation, (n,); None where its first row has none."""
        places = self._places(self.frame["id"])
        values = [row.get(name) for file, numbers in places for row in self._at(file, numbers)]
        first = self.pool.rows.filter(pl.col("reason").is_null()).sort("file", "row")
        found = dict(zip(first["id"], values, strict=True))
        return [None if found[one] in (None, "") else str(found[one]) for one in self.frame["id"]]

    @property
    def as_target(self) -> Target:
        """The rows as a target, with their subtasks."""
        return target_of(self.pool, self.column(SUBTASK), held_back=self.set_aside)

    def dataset(self, ids: Iterable[str]) -> "Dataset":
        """Return the rows of examples as a dataset; a column that a row lacks is None there.

        Raises:
            DataError: If a file has changed since it was read, or a column holds values of several types.
            UsageError: If the package datasets is not installed.
        """
        dataset = needed("datasets", by="a datasets.Dataset", extra="datasets").Dataset
        only = self.given.get(0) if len(self.pool.files) == 1 else None
        if isinstance(only, dataset):
            return only.select([number for _, numbers in self._places(ids) for number in numbers])
        rows = self.chosen(ids)
        names = dict.fromkeys(name for row in rows for name in row)
        try:
            return dataset.from_dict({name: [row.get(name) for row in rows] for name in names})
        except (TypeError, ValueError) as error:  # those of pyarrow are such
            raise DataError(
                f"the rows are no columns of one type each: {error}", hint="take .rows, a list of dicts"
            ) from error

    def _places(self, ids: Iterable[str]) -> list[tuple[int, list[int]]]:
        """Return the numbers of the rows of examples in each file, both in ascending order."""
        wanted = pl.DataFrame({"id": list(ids)}, schema={"id": pl.String})
        first = self.pool.rows.filter(pl.col("reason").is_null()).join(wanted, on="id", how="semi")
        return list(first.sort("file", "row").group_by("file", maintain_order=True).agg("row").iter_rows())

    def _at(self, file: int, numbers: Sequence[int]) -> list[Mapping[str, Any]]:
        if file in self.given:
            return [self.given[file][number] for number in numbers]
        check_unchanged(source := self.pool.files[file])
        wanted, records = set(numbers), read_records(source)
        return [record.value or {} for number, record in enumerate(records) if number in wanted]


def read(*data: Any, avoid: Any = (), **settings: Any) -> Rows:
    """Read rows of any common fine-tuning format.

    Args:
        data: Paths, hub ids, lists of dicts, datasets, frames of polars or pandas; or lists of these.
        avoid: Evaluation rows, given in the same ways: rows that stand there, in full or in part, are left out.
        settings: Fields of ``Reading``: ``format``, ``on_error``, ``source_column``, ``columns``, ``max_row_mb``.

    Raises:
        DataError: If a source cannot be read or has no usable row, or too many rows cannot be used.
        UsageError: If something else is given, or an option is not known.
    """
    reading = Reading(**checked_settings(settings, Reading))
    sources = _sources(data, "rows")
    nothing = avoid is None or (isinstance(avoid, list | tuple) and not avoid)
    avoided = _sources([] if nothing else [avoid], "evaluation")
    pool = read_pool(sources, **{**asdict(reading), "avoid": avoided})
    in_memory = iter(each.given for each in sources if isinstance(each, Source) and each.given is not None)
    held = {number: next(in_memory) for number, file in enumerate(pool.files) if file.kind == MEMORY}
    return Rows(pool=pool, given=held, reading=reading)


def as_rows(data: Any) -> Rows:
    """Return rows that were read, read now where they were not."""
    return data if isinstance(data, Rows) else read(data)


def _sources(data: Iterable[Any], what: str) -> list[str | Source]:
    """Return what was given to be read; rows in memory are called by ``what`` they are."""
    inputs = list[Any]()
    for given in data:
        several = isinstance(given, list | tuple) and not any(isinstance(each, Mapping) for each in given)
        inputs += given if several else [given]
    names = [f"{what}-{number}" if len(inputs) > 1 else what for number in range(1, len(inputs) + 1)]
    return [
        os.fspath(given)
        if isinstance(given, str | os.PathLike)
        else Source(MEMORY, name, name, _in_memory(given))
        for name, given in zip(names, inputs, strict=True)
    ]


def _in_memory(given: Any) -> Sequence[Mapping[str, Any]]:
    if isinstance(given, list | tuple):
        for number, row in enumerate(given, 1):
            if not isinstance(row, Mapping):
                raise UsageError(
                    f"row {number} is of type {type(row).__name__}, and the others are dicts", hint=TAKEN
                )
        return given
    if isinstance(given, pl.DataFrame):
        return given.to_dicts()
    if (pandas := sys.modules.get("pandas")) and isinstance(given, pandas.DataFrame):
        return pl.from_pandas(given).to_dicts()
    if (datasets := sys.modules.get("datasets")) and isinstance(given, datasets.Dataset):
        return cast("Sequence[Mapping[str, Any]]", given)
    kind = type(given).__name__
    raise UsageError(f"rows cannot be read from an object of type {kind}", hint=INSTEAD.get(kind, TAKEN))
