"""What the steps on objects give: a reference, a table of scores, a selection."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.objects.model import Model, Scratch
from learnable.objects.rows import Rows
from learnable.packages import needed
from learnable.runs.files import write_frame
from learnable.runs.price import Cost
from learnable.runs.records import Outcome

if TYPE_CHECKING:
    from datasets import Dataset

SCORES, VECTORS, BY_TARGET = "scores.parquet", "vectors.parquet", "by_target.parquet"


@dataclass(frozen=True, kw_only=True)
class ReferenceModel:
    """A model that was trained on rows, to compare its base with.

    Args:
        trained: What the training left behind.
        scratch: Keeps its folder as long as this object is there; None where it was given with ``output``.
    """

    trained: Outcome
    scratch: Scratch | None

    @property
    def folder(self) -> Path:
        """What `learnable train` writes: an adapter, or a whole model, for each part."""
        return self.trained.folder


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """Scores of rows.

    Args:
        rows: What was scored.
        model: With what.
        reference: What it was compared with, as ``score`` was given it; None if nothing was.
        file: Where ``frame`` is.
        facts: Figures to show, and what a selection must know of the scorers.
        target: The rows that they were measured against; None if against none.
        settings: Of the reference, to show.
        costs: What it cost, and its reference, by the name of the step.
        scratch: Keeps the file as long as this object is there; None where its folder was given.
    """

    rows: Rows
    model: Model
    reference: Any
    file: Path
    facts: Mapping[str, Any]
    target: Rows | None
    settings: Mapping[str, Any]
    costs: Mapping[str, Cost]
    scratch: Scratch | None

    @cached_property
    def frame(self) -> pl.DataFrame:
        """``id``, ``source``, ``tokens``, what was measured and a column for each scorer, n rows; NaN is undefined."""
        return pl.read_parquet(self.file)

    @cached_property
    def vectors(self) -> NDArray[np.float32] | None:
        """Of the examples, (n, d); None where none were asked for."""
        return vectors_of(self.file.parent)

    @cached_property
    def says(self) -> Mapping[str, NDArray[np.float32]]:
        """What each row of the target says of each example, (n, t), by scorer."""
        file = self.file.parent / BY_TARGET
        columns = pl.read_parquet(file).drop("id") if file.is_file() else pl.DataFrame()
        return {each.name: as_array(each) for each in columns}

    def to_pandas(self) -> Any:
        """Return the frame as one of pandas.

        Raises:
            UsageError: If pandas is not installed.
        """
        needed("pandas", by="to_pandas()", extra="datasets")
        return self.frame.to_pandas()


@dataclass(frozen=True, kw_only=True)
class Picked:
    """Rows that were chosen within a budget, and the others with their reasons.

    Args:
        scores: What they were chosen by.
        kept: The chosen examples: ``id``, ``rank`` (0 = first picked), ``gain``, ``pinned``.
        dropped: The other examples: ``id`` and ``reason``.
        facts: Figures to show.
    """

    scores: ScoreTable
    kept: pl.DataFrame
    dropped: pl.DataFrame
    facts: Mapping[str, Any]

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The chosen rows exactly as they came, in the order of the input."""
        return self.scores.rows.chosen(self.kept["id"])

    def to_dataset(self) -> "Dataset":
        """Return the chosen rows as a ``datasets.Dataset``, in the order of the input."""
        return self.scores.rows.dataset(self.kept["id"])


def write_beside(
    file: Path, vectors: NDArray[np.float32] | None, says: Mapping[str, NDArray[np.float32]]
) -> None:
    """Write what a table of scores has beside its numbers: vectors, and what rows of a target say."""
    ids = pl.read_parquet(file, columns=["id"]) if vectors is not None or says else pl.DataFrame()
    if vectors is not None:
        rows = [None if np.isnan(row).all() else row.tolist() for row in vectors]
        lists = pl.Series("vector", rows, dtype=pl.List(pl.Float32))
        write_frame(ids.with_columns(lists), file.parent / VECTORS)
    if says:
        columns = [pl.Series(name, list(said), dtype=pl.List(pl.Float32)) for name, said in says.items()]
        write_frame(ids.with_columns(columns), file.parent / BY_TARGET)


def vectors_of(folder: Path) -> NDArray[np.float32] | None:
    """Return the vectors that were measured with a table of scores, (n, d) in its order; None if there are none."""
    file = folder / VECTORS
    return as_array(pl.read_parquet(file)["vector"]) if file.is_file() else None


def said_by_target(folder: Path, scorer: str) -> NDArray[np.float32] | None:
    """Return what each row of the target says of each example by a score, (n, t); None if the score does not say it."""
    file = folder / BY_TARGET
    if not file.is_file() or scorer not in pl.read_parquet_schema(file):
        return None
    return as_array(pl.read_parquet(file, columns=[scorer])[scorer])


def as_array(vectors: pl.Series, *, width: int = 0) -> NDArray[np.float32]:
    """Return vectors, List(Float32) (n,), as one array, (n, d); NaN where one is null.

    ``width`` is what d is where all are.
    """
    rows = vectors.to_list()
    width = max((len(row) for row in rows if row is not None), default=width)
    values = [row if row is not None else [np.nan] * width for row in rows]
    return np.array(values, dtype=np.float32).reshape(len(rows), width)
