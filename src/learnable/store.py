"""Measurements on disk: Parquet parts, keyed by example id and by the measure that made them.

One folder per measure; a part is written aside and then renamed, so a reader never sees half of one and a killed run
loses at most the part it was working on.
"""

import errno
import json
import uuid
from dataclasses import asdict
from pathlib import Path

import polars as pl

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
        """Return those of ``ids`` (n,) for which nothing is stored yet, in their order."""
        stored = self._scan(measure)
        if stored is None:
            return ids
        wanted = pl.LazyFrame({"id": ids})
        return wanted.join(stored.select("id"), on="id", how="anti", maintain_order="left").collect()["id"]

    def write(self, measure: Measure, frame: pl.DataFrame) -> None:
        """Add a part: a frame with a column ``id`` and the measured columns.

        Raises:
            StoreError: If it cannot be written, for example because the disk is full.
        """
        folder = self._folder(measure)
        part = folder / f"{uuid.uuid4().hex}.part"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            note = folder / "measure.json"
            if not note.exists():
                aside = folder / f"{uuid.uuid4().hex}.json.part"
                aside.write_text(json.dumps(asdict(measure), indent=2), encoding="utf-8")
                aside.rename(note)
            frame.write_parquet(part)
            part.rename(part.with_suffix(".parquet"))
        except OSError as error:
            full = error.errno == errno.ENOSPC
            raise StoreError(
                f"cannot write measurements to {folder}: {error.strerror or error}",
                hint="free some space and run the same command again: what is stored is kept"
                if full
                else "is the folder writable?",
            ) from error

    def read(self, measure: Measure, ids: pl.Series) -> pl.DataFrame:
        """Return what is stored for ``ids`` (n,): columns ``id`` and the measured ones, n rows in the order of ``ids``.

        Raises:
            StoreError: If something is missing, or a part cannot be read.
        """
        stored = self._scan(measure)
        if stored is None:
            raise StoreError(f"nothing is stored for the measure {measure.kind}", hint="run it first")
        # Two runs at the same time may have measured the same example; either number serves.
        unique = stored.unique(subset="id", keep="any")
        found = pl.LazyFrame({"id": ids}).join(unique, on="id", how="inner", maintain_order="left").collect()
        if found.height != len(ids):
            raise StoreError(f"{len(ids) - found.height} of {len(ids)} examples are not measured yet", hint="run it again")
        return found

    def _folder(self, measure: Measure) -> Path:
        return self.folder / f"{measure.kind}-{fingerprint(measure)[:16]}"

    def _scan(self, measure: Measure) -> pl.LazyFrame | None:
        parts = sorted(self._folder(measure).glob("*.parquet"))
        for part in parts:
            if part.stat().st_size == 0:
                raise StoreError(f"{part} is empty", hint="the disk was full when it was written; delete it and run again")
        return pl.scan_parquet(parts) if parts else None
