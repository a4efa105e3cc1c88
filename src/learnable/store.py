"""Measurements on disk: Parquet parts, keyed by example id and by the measure that made them.

One folder per measure; a part is written aside and then renamed, so a reader never sees half of one and a killed run
loses at most the part it was working on.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import polars as pl

from learnable.atomic import write_frame, write_json
from learnable.errors import StoreError
from learnable.fingerprint import fingerprint
from learnable.types import Measure


class Store:
    """Numbers that cost a model pass, kept so that they are never computed twice.

    Args:
        folder: Where the parts lie; made when first written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def missing(self, measure: Measure, ids: pl.Series) -> pl.Series:
        """Return those of ``ids`` (n,) for which nothing is stored yet, in their order.

        Raises:
            StoreError: If a part cannot be read.
        """
        stored = self._scan(measure)
        if stored is None:
            return ids
        wanted = pl.LazyFrame({"id": ids}).join(
            stored.select("id"), on="id", how="anti", maintain_order="left"
        )
        with _part_errors(self._folder(measure)):
            return wanted.collect(engine="streaming")["id"]

    def write(self, measure: Measure, frame: pl.DataFrame) -> None:
        """Add a part: a frame with a column ``id`` and the measured columns.

        Raises:
            DiskError: If it cannot be written, for example because the disk is full.
        """
        folder = self._folder(measure)
        if not (folder / "measure.json").exists():
            write_json(folder / "measure.json", asdict(measure))
        write_frame(frame, folder / f"{uuid.uuid4().hex}.parquet")

    def read(self, measure: Measure, ids: pl.Series) -> pl.DataFrame:
        """Return what is stored for ``ids`` (n,): columns ``id`` and the measured ones, n rows in the order of ``ids``.

        Raises:
            StoreError: If something is missing, or a part cannot be read.
        """
        stored = self._scan(measure)
        if stored is None:
            raise StoreError(f"nothing is stored for the measure {measure.kind}", hint="run it first")
        wanted = pl.LazyFrame({"id": ids})
        with _part_errors(self._folder(measure)):
            found = _joined(wanted, stored)
            if not found["id"].equals(ids):
                # Two runs at the same time may have measured the same example; either number serves.
                found = _joined(wanted, stored.unique(subset="id", keep="any"))
        if found.height != len(ids):
            raise StoreError(
                f"{len(ids) - found.height} of {len(ids)} examples are not measured yet", hint="run it again"
            )
        return found

    def _folder(self, measure: Measure) -> Path:
        return self.folder / f"{measure.kind}-{fingerprint(measure)[:16]}"

    def _scan(self, measure: Measure) -> pl.LazyFrame | None:
        parts = sorted(self._folder(measure).glob("*.parquet"))
        return pl.scan_parquet(parts) if parts else None


def _joined(wanted: pl.LazyFrame, stored: pl.LazyFrame) -> pl.DataFrame:
    return wanted.join(stored, on="id", how="inner", maintain_order="left").collect(engine="streaming")


@contextmanager
def _part_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        raise StoreError(
            f"cannot read the measurements in {folder}: {str(error).splitlines()[0]}",
            hint="delete the damaged part, or that folder: what is missing then is measured again",
        ) from error
