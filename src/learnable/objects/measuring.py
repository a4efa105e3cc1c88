"""What a table of scores rests on: the columns that are measured, of a window of rows at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable import measures
from learnable.deferred import models
from learnable.errors import UsageError
from learnable.objects.aiming import Against
from learnable.objects.given import Compared, RowRendering
from learnable.objects.passes import Passes
from learnable.objects.results import as_array
from learnable.objects.rows import Rows
from learnable.runs.progress import say
from learnable.runs.records import parameters_of
from learnable.types import Rendered

Vectors = Literal["none", "model", "wordllama"]


@dataclass(kw_only=True)
class Measuring:
    """Measures the columns ``needs`` of rows, a window of them at a time; against a target it takes all rows as one window.

    ``null`` is the reference that was trained on answers alone, where it is needed. ``aimed`` makes what is measured against
    a target, of the fields of ``Against`` that are told of the rows.
    """

    rows: Rows
    passes: Passes
    needs: set[str]
    vectors: Vectors
    null: Compared | None
    aimed: Callable[..., Against] | None
    against: Against | None = None
    _found: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        passes, refused = self.passes, self.rows.reading.most_bad
        self.rendering = RowRendering(
            passes.renderer, max_length=passes.max_length, rows=len(self.rows), most_refused=refused
        )

    def frames(self) -> Iterator[pl.DataFrame]:
        """Yield what is measured of each window, beside ``id`` and ``source``; nothing of a window is held after it."""
        whole, done = len(self.rows), 0
        for window in self.rows.windows(None if self.aimed is None else max(whole, 1)):
            first, done = done + 1, done + len(window)
            self.passes.of = "" if done - first + 1 == whole else f", rows {first:,} to {done:,} of {whole:,}"
            yield self._frame(window)
        self.rendering.say()

    def found_vectors(self) -> NDArray[np.float32] | None:
        """Return the vectors that were asked for, (n, d)."""
        if self.vectors == "none":
            return None
        return as_array(pl.concat(self._found)) if self.vectors == "model" else np.concatenate(self._found)

    def _frame(self, window: Rows) -> pl.DataFrame:
        rendered = self.rendering(window.examples)
        if self.rendering.left_out.rows == len(window):  # it is the first: before anything costly runs
            self.rendering.say()
        frame = self._columns(window.frame.select("id", "source"), rendered)
        if self.null is not None:
            answers = measures.answers_alone(rendered, header=self.passes.renderer.answer_header)
            null = self.null.models
            frame = frame.hstack(
                self.passes.columns("null", {"loss_null"}, answers, frame, references=null).get_columns()
            )
        if self.aimed is not None:
            self.against = self.aimed(rows=self.rows, passes=self.passes, rendered=rendered, frame=frame)
            frame = frame.with_columns(self.against.columns(measures.roles_of(self.needs)))
        if self.vectors == "model":
            self._found.append(self.passes.vectors(rendered, frame))
        elif self.vectors == "wordllama":
            self._found.append(np.asarray(models.StaticEmbedder().embed(window.examples), dtype=np.float32))
        return frame

    def _columns(self, ids: pl.DataFrame, rendered: Sequence[Rendered]) -> pl.DataFrame:
        """Return what the base and the reference measure, beside ``id`` and ``source``."""
        passes, needs, roles = self.passes, self.needs, measures.roles_of(self.needs)
        renderer, references = passes.renderer, passes.references
        frame = pl.concat([ids, measures.lengths(rendered).drop("id")], how="horizontal")
        # What a model learns about stopping is known at no cost wherever a pass is made to compare.
        ends = renderer.end_ids if references is not None else frozenset[int]()
        columns = passes.columns("base", needs, rendered, frame, ends=ends).get_columns()
        if ends:
            counts = [int(measures.end_of_turn(example, ends).sum()) for example in rendered]
            columns.append(pl.Series("end_tokens", counts, dtype=pl.Int64))
        if "alone" in roles:
            answers = measures.answers_alone(rendered, header=renderer.answer_header)
            columns += passes.columns("alone", needs, answers, frame, ends=ends).get_columns()
        if references is not None and references.last_epoch is not None:
            say(f"reference loss{passes.of}: as the last epoch of its training met it, no pass")
            unknown = pl.Series("end_nll_after", [float("nan")] * frame.height, dtype=pl.Float32)
            columns += [references.last_epoch_loss(frame).alias("loss_after"), unknown]
        elif references is not None:
            columns += passes.columns("reference", needs, rendered, frame, ends=ends).get_columns()
        return frame.with_columns(columns)


def twin_of(compared: Compared | None, trained: Compared) -> Compared:
    """Return a reference that was trained on answers alone; a ``UsageError`` where it is no twin of the other."""
    if trained.settings.get("prompt") != "none":
        raise UsageError(
            "the null reference was trained with its questions",
            hint="make it with `learnable train POOL --prompt none`",
        )
    ours, theirs = _training_of(trained), {} if compared is None else _training_of(compared)
    other = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if compared is not None and other != ["prompt"]:
        named = [f"{name} {ours.get(name)}, {theirs.get(name)}" for name in other if name != "prompt"]
        raise UsageError(
            f"the null reference was trained otherwise than the reference: {', '.join(named) or 'both on answers alone'}",
            hint="train both on the same pool with the same settings, but for --prompt none",
        )
    if not trained.settings.get("folds"):
        raise UsageError(
            "both references have seen the rows that they judge, so that every PVI is too high",
            hint="train both with --folds 2",
        )
    return trained


def _training_of(compared: Compared) -> dict[str, Any]:
    if compared.step is None:
        return dict(compared.settings)
    return parameters_of(compared.step.folder) | {"pool": compared.step.inputs["pool"]}
