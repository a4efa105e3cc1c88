"""Measurements on disk: Parquet parts in a folder for each measure, keyed by example id.

A measure has one value for an example: what another run stored in the meantime is not stored again, and parts that
disagree, copied from elsewhere, are an error.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import polars as pl

from learnable.errors import StoreError
from learnable.runs.files import write_frame, write_json
from learnable.runs.identity import fingerprint
from learnable.runs.locks import locked
from learnable.runs.step import note
from learnable.types import Measure

ELSEWHERE = "choose another folder with --store; a recipe keeps it in the folder given with -o"


class Store:
    """Numbers that cost a model pass, kept in a folder so that they are never computed twice."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: set[Path] = set()

    def missing(self, measure: Measure, ids: pl.Series) -> pl.Series:
        """Return those of ``ids`` (n,) for which nothing is stored yet, in their order."""
        parts = self._parts(measure)
        self._seen.update(parts)
        if not parts:
            return ids
        with _part_errors(self._folder(measure)):
            return ids.filter(~ids.is_in(_of(ids, pl.scan_parquet(parts).select("id"))["id"].implode()))

    def write(self, measure: Measure, frame: pl.DataFrame) -> None:
        """Add a part: a frame with a column ``id`` and the measured columns, without what another run stored meanwhile.

        Another batch, hence another rounding, may have given another number in that run; both then use the first.
        """
        folder = self._folder(measure)
        with locked(folder / "write.lock", hint=ELSEWHERE):
            if not (folder / "measure.json").exists():
                write_json(folder / "measure.json", asdict(measure), hint=ELSEWHERE)
            if others := sorted(set(self._parts(measure)) - self._seen):
                with _part_errors(folder):
                    frame = frame.join(pl.read_parquet(others, columns=["id"]), on="id", how="anti")
            part = folder / f"{uuid.uuid4().hex}.parquet"
            self._seen.update([*others, part])
            if frame.height:
                write_frame(frame, part, hint=ELSEWHERE)
        note()

    def read(self, measure: Measure, ids: pl.Series) -> pl.DataFrame:
        """Return what is stored for ``ids`` (n,): columns ``id`` and the measured ones, n rows in the order of ``ids``.

        Raises:
            StoreError: If something is missing, a part cannot be read, or two parts disagree.
        """
        found = self.known(measure, ids)
        if found is None:
            raise StoreError(f"nothing is stored for the measure {measure.kind}", hint="run it first")
        if found.height != len(ids):
            raise StoreError(
                f"{len(ids) - found.height} of {len(ids)} examples are not measured yet", hint="run it again"
            )
        return found

    def known(self, measure: Measure, ids: pl.Series) -> pl.DataFrame | None:
        """Return as ``read`` does what is stored of ``ids``, without those of which nothing is; None where nothing at all is."""
        if not (parts := self._parts(measure)):
            return None
        with _part_errors(self._folder(measure)):
            stored = _of(ids, pl.scan_parquet(parts))
            if stored["id"].is_duplicated().any():
                _check_agreement(parts, ids)
                stored = stored.unique(subset="id", keep="any")
            return pl.DataFrame({"id": ids}).join(stored, on="id", how="inner", maintain_order="left")

    def _folder(self, measure: Measure) -> Path:
        return self.folder / f"{measure.kind}-{fingerprint(measure)[:16]}"

    def _parts(self, measure: Measure) -> list[Path]:
        return sorted(self._folder(measure).glob("*.parquet"))


def _of(ids: pl.Series, stored: pl.LazyFrame) -> pl.DataFrame:
    """Return what is stored of some ids, in any order; memory grows with them, and not with the store."""
    return stored.join(pl.LazyFrame({"id": ids}), on="id", how="semi").collect(engine="streaming")


def _check_agreement(parts: list[Path], ids: pl.Series) -> None:
    """Refuse parts that hold different values for one example; the same value twice is fine."""
    stored = pl.scan_parquet(parts, include_file_paths="part")
    kept = _of(ids, stored)
    values = kept.select(pl.exclude("part")).unique()
    disagreeing = values.filter(pl.col("id").is_duplicated())["id"]
    if disagreeing.is_empty():
        return
    first = disagreeing.min()
    one, other = kept.filter(id=first).unique(pl.exclude("id", "part"), maintain_order=True)["part"][:2]
    raise StoreError(
        f"two parts of the store disagree on {disagreeing.n_unique():,} of {ids.n_unique():,} examples, such as "
        f"{str(first)[:8]}: {one} and {other}",
        hint="delete the part that you do not trust, or both: what is missing then is measured again",
    )


@contextmanager
def _part_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        raise StoreError(
            f"cannot read the measurements in {folder}: {str(error).splitlines()[0]}",
            hint="delete the damaged part, or that folder: what is missing then is measured again",
        ) from error
