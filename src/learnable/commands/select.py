"""``learnable select``: scores in, chosen rows out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import polars as pl

from learnable import data as rows
from learnable.commands.inputs import is_made
from learnable.commands.options import DryRun, Flat, Output, Several, unusual
from learnable.commands.selection_card import CARD, selection_card
from learnable.data.exports import Destination, Trainer, write_export
from learnable.deferred import models
from learnable.errors import DataError, UsageError, did_you_mean
from learnable.explorer import read_ids
from learnable.measures import numbers_of
from learnable.objects.choosing import chosen
from learnable.objects.given import finished, length_limit
from learnable.objects.results import said_by_target, vectors_of
from learnable.objects.scoring import rules_of
from learnable.pools import in_memory
from learnable.runs.files import FrameWriter, write_frame, write_text, writing_frames
from learnable.runs.identity import file_digest, fingerprint, source_of
from learnable.runs.progress import say
from learnable.runs.records import Outcome
from learnable.runs.step import Finished, Step, run
from learnable.scorers import SCORERS
from learnable.selectors import SELECTORS, Choosing
from learnable.spec import build
from learnable.types import Budget, ModelRef, Scorer, Selection, Selector

BELOW = -1e-4
"""A loss below this is no loss: rounding alone does not come so far below 0."""
TABLES: Mapping[str, Callable[[Path], pl.LazyFrame]] = {
    ".parquet": pl.scan_parquet,
    ".csv": pl.scan_csv,
    ".jsonl": pl.scan_ndjson,
}
DROPPED = "dropped.jsonl"
NOT_SCORED = "not in the table of scores"
"""Reason in the ledger of a row that a table does not name."""
ROWS = 1 << 18
"""Rows of a table that are written at a time."""


@dataclass(frozen=True, kw_only=True)
class Selecting(Choosing):
    """How to choose by the scores, and what is written beside the rows; see ``Choosing`` for the other fields.

    Args:
        pin: Files of ids to choose first, whatever their score and the conditions; they count against the budget.
            A .txt with an id per line, or a download of `learnable explore` (a table with a column id).
        ban: Files of ids never to choose.
        export: Also write the conversations and a configuration for a trainer: trl, unsloth, llamafactory or axolotl.
        license: License of the rows, such as apache-2.0, for the card of the selection; what the rows say in a column
            `license` when not given.
    """

    pin: Annotated[Sequence[str], Several] = ()
    ban: Annotated[Sequence[str], Several] = ()
    export: Trainer | None = None
    license: str | None = None

    def check(self, scorers: Sequence[str]) -> None:
        """Find names that are not known, and files of ids that cannot be read, before anything is measured."""
        needs = {need for scorer in scorers for need in build("scorer", scorer, SCORERS).needs}
        build("selector", self.selector, SELECTORS)
        if self.by not in {*scorers, *numbers_of(needs)}:
            raise UsageError(
                f"--by is {self.by!r}, which is not among the scorers", hint=did_you_mean(self.by, scorers)
            )
        _listed((*self.pin, *self.ban))


def select(
    scores: str,
    *,
    budget: str = "6%",
    choosing: Annotated[Selecting, Flat] = Selecting(),
    before: str | None = None,
    after: str | None = None,
    pool: str | None = None,
    model: str | None = None,
    dry_run: DryRun = False,
    output: Output = "selection",
) -> Outcome:
    """Choose examples or preference pairs within a budget, and write the chosen rows exactly as they came.

    Args:
        scores: Folder that `learnable score` wrote, or a table of losses or scores (.parquet, .csv, .jsonl) computed
            elsewhere.
        budget: 6% (of the examples), 500 (examples), or 50000tokens (prompt and response); also as --budget.fraction,
            --budget.examples or --budget.tokens.
        before: For a table of losses: column with the loss before fine-tuning.
        after: For a table of losses: column with the loss after fine-tuning.
        pool: For a table: folder that `learnable load` wrote, with the rows or pairs that the table's column id names.
            The chosen rows are written.
        model: For a table with `--pool`: the model that an export trains.
    """
    asked = Budget.parse(budget)
    if dry_run and not is_made(scores):
        return Outcome.planned("select", Path(output), [f"no pass: after {scores}"])
    scored = finished(scores, "score") if Path(scores).is_dir() else None
    loaded = None if pool is None else finished(pool, "load")
    _check_fits(scores, choosing, losses=bool(before or after), pool=pool, model=model)
    table = scored.folder / "scores.parquet" if scored else Path(scores)
    choice = _Choice(
        scored=scored,
        loaded=loaded,
        table=table,
        frame=pl.scan_parquet(table) if scored else _table(table, before, after, named=pool is not None),
        choosing=choosing,
        budget=budget,
        method=build("selector", choosing.selector, SELECTORS),
        lists={"pin": _listed(choosing.pin), "ban": _listed(choosing.ban)},
        model=model,
    )
    given = {"budget": str(asked), "before": before, "after": after, "model": model}
    return run(choice.step(given), output, dry_run=dry_run)


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """A selection whose inputs are found: what it depends on, and how it is done.

    ``frame`` has the scores of a ``table``: that of a step (``scored``), or one of the user's own, whose rows are maybe
    ``loaded``. ``lists`` are the ids of the files of each list.
    """

    scored: Outcome | None
    loaded: Outcome | None
    table: Path
    frame: pl.LazyFrame
    choosing: Selecting
    budget: str
    method: Selector
    lists: Mapping[str, Mapping[str, Sequence[str]]]
    model: str | None

    @cached_property
    def _scorers(self) -> dict[str, Scorer]:
        """What a table of losses is scored by, by name."""
        return {} if self.scored else {name: known() for name, known in SCORERS.items()}

    def step(self, given: Mapping[str, Any]) -> Step:
        """Return the step that makes it, of the choosing and what else is given."""
        scored, loaded, choosing = self.scored, self.loaded, self.choosing
        parameters = asdict(choosing) | dict(given)
        parameters["selector"] += f" {fingerprint(self.method)}"
        # These came later: selections without them are what they were. Of lists, the ids count, not where they lie.
        parameters |= {name: fingerprint(_distinct(ids)) if ids else None for name, ids in self.lists.items()}
        absent = {name for name in ("export", "license", "model", *self.lists) if parameters[name] is None}
        read = {"scores": scored.identity if scored else file_digest(self.table)}
        methods = {choosing.selector: self.method} | self._scorers
        return Step(
            verb="select",
            parameters={name: value for name, value in parameters.items() if name not in absent},
            inputs=read | ({"pool": loaded.identity} if loaded else {}),
            sources={name: source_of(each) for name, each in methods.items()},
            links={"scores": scored.folder} if scored else {"pool": loaded.folder} if loaded else {},
            work=self.work,
        )

    def work(self, folder: Path) -> Finished:
        """Choose, and write what was chosen, in which form it was asked for."""
        scored, choosing, lists = self.scored, self.choosing, self.lists
        with _table_kept(self.frame, self.table, None if scored else folder) as known:
            selection, facts, max_score = chosen(
                known,
                choosing,
                budget=Budget.parse(self.budget),
                method=self.method,
                rules=scored.facts if scored else rules_of(self._scorers),
                vectors=lambda: vectors_of(scored.folder) if scored else None,
                said=lambda: said_by_target(scored.folder, choosing.by) if scored else None,
                pins=lists["pin"],
                bans=lists["ban"],
            )
            kept = selection.kept
            _write_selection(selection, folder, known=None if scored else known)
        facts |= {"pinned": int(kept["pinned"].sum())} if lists["pin"] else {}
        facts |= {"banned": len(_distinct(lists["ban"]))} if lists["ban"] else {}
        paths = [folder / "selected.parquet"]
        pool = scored.links["pool"] if scored else self.loaded.folder if self.loaded else None
        if pool is not None:
            paths = _write_chosen(pool, selection, folder)
        if scored:
            given = asdict(choosing) | {"max_score": max_score} | {each: tuple(lists[each]) for each in lists}
            options = {"budget": self.budget, **unusual(given, asdict(Selecting()))}
            given = {"ids": kept["id"], "paths": paths, "facts": facts, "license": choosing.license}
            card = selection_card(scored, rows.load_pool(scored.links["pool"]), options=options, **given)
            write_text(paths[0].parent / CARD, card)
        if pool is not None and choosing.export:
            trained = _trained(scored, self.model)
            facts["exported"] = _export(pool, kept["id"].to_list(), folder, choosing.export, *trained)
        return Finished(facts=facts | {"written": [str(path.relative_to(folder)) for path in paths]})


@contextmanager
def _table_kept(frame: pl.LazyFrame, table: Path, folder: Path | None) -> Iterator[pl.LazyFrame]:
    """Give the scores, those of a table of losses from where they are written: they are there when the block has ended."""
    with _reading(table):
        if folder is None:
            yield frame
            return
        with writing_frames(folder / "scores.parquet") as file:
            _write(frame, file)
            yield file.written()


def _write_selection(selection: Selection, folder: Path, *, known: pl.LazyFrame | None) -> None:
    """Write which rows are kept and dropped; of a table also the chosen rows of it, as picked."""
    write_frame(selection.kept, folder / "kept.parquet")
    with writing_frames(folder / "dropped.parquet") as file:
        _write(selection.dropped.lazy(), file)
    if known is not None:
        kept = selection.kept
        ours = known.join(kept.lazy(), on="id", how="semi").collect()
        write_frame(
            kept.select("id").join(ours, on="id", how="left", maintain_order="left"),
            folder / "selected.parquet",
        )


def _write_chosen(pool_folder: Path, selection: Selection, folder: Path) -> list[Path]:
    """Write the chosen rows, and the ledger of the dropped ones; return where the rows are."""
    pool = rows.load_pool(pool_folder)
    paths = rows.write_rows(pool, selection.kept["id"].to_list(), folder / "selected")
    judged = pl.concat([selection.kept["id"], selection.dropped["id"]]).to_frame()
    others = pool.ledger.filter(pl.col("reason").is_null()).join(judged.lazy(), on="id", how="anti")
    absent = in_memory(others.select("id", reason=pl.lit(NOT_SCORED)), engine="streaming")
    rows.write_dropped(pool, pl.concat([selection.dropped, absent]), folder / DROPPED)
    return paths


def _check_fits(
    scores: str, choosing: Selecting, *, losses: bool, pool: str | None, model: str | None
) -> None:
    if Path(scores).is_dir():
        if losses:
            raise UsageError(f"{scores} holds scores already: --before and --after are for a table of losses")
        if pool or model:
            raise UsageError(f"{scores} knows its rows and its model: --pool and --model are for a table")
    elif choosing.export and not (pool and model):
        raise UsageError(
            "--export writes conversations, and a table has none",
            hint="name the rows and the model to train: --pool FOLDER --model NAME; or choose from the output of "
            "`learnable score`",
        )
    elif choosing.license:
        raise UsageError("--license is for the card of chosen rows, and a table of losses has none of them")


def _listed(paths: Sequence[str]) -> dict[str, list[str]]:
    """Return the ids in files by the names of the files; of files with the same name, together."""
    listed: dict[str, list[str]] = {}
    for path in paths:
        listed.setdefault(Path(path).name, []).extend(read_ids(path))
    return listed


def _distinct(listed: Mapping[str, Sequence[str]]) -> list[str]:
    return sorted({id for ids in listed.values() for id in ids})


def _trained(scored: Outcome | None, model: str | None) -> tuple[ModelRef, int]:
    """Return the model that an export trains, and its longest example: what scored the rows, or what was named."""
    if scored is None:
        ref = ModelRef(name=model or "")
        return ref, length_limit(ref, None)
    ref = ModelRef(name=scored.facts["model"], chat_template=scored.facts.get("chat template"))
    return ref, scored.facts["max_length"]


def _export(
    pool: Path, ids: list[str], folder: Path, trainer: Trainer, ref: ModelRef, max_length: int
) -> list[str]:
    template = ref.chat_template
    if template is not None:  # given instead of the model's own; the trainer gets its text
        found = models.loading.load_tokenizer(ref).chat_template
        template = str(found["default"] if isinstance(found, Mapping) else found)
    here = ref.name == "starter" or Path(ref.name).expanduser().exists()
    to = Destination(
        # What other trainers load: a hub id as it is, else the folder of its weights.
        model=str(models.locate(ModelRef(name=ref.name)).resolve()) if here else ref.name,
        max_length=max_length,
        render=lambda examples: models.Renderer.of(ref).render(
            examples, max_length=max_length, skip_refused=True
        ),
        size=models.source.size_of(ModelRef(name=ref.name)),
        chat_template=template,
    )
    paths = write_export(pool, ids, folder / trainer, trainer=trainer, to=to)
    return [str(path.relative_to(folder)) for path in paths]


def _table(path: Path, before: str | None, after: str | None, *, named: bool) -> pl.LazyFrame:
    """Score losses that were computed elsewhere; what no score needs stays on disk.

    A column ``id`` is used when there is one, else rows are numbered; ``source`` and ``tokens`` likewise if present.
    """
    if not path.is_file():
        raise DataError(
            f"there is no file or folder {path}",
            hint="give the output of `learnable score`, or a table of losses",
        )
    if path.suffix not in TABLES:
        raise DataError(f"{path}: unknown kind of table", hint=f"known kinds: {', '.join(TABLES)}")
    table = TABLES[path.suffix](path)
    with _reading(path):
        schema = table.collect_schema()
        if named and "id" not in schema:
            raise DataError(
                f"{path} has no column 'id'",
                hint="it names rows of the pool: their ids are in its examples.parquet",
            )
        columns = {"loss_before": before, "loss_after": after}
        made = {name: _losses(path, schema, column) for name, column in columns.items() if column is not None}
        made |= {
            "id": pl.col("id").cast(pl.String)
            if "id" in schema
            else pl.int_range(pl.len()).cast(pl.String).str.zfill(12),
            "source": pl.col("source").cast(pl.String) if "source" in schema else pl.lit(path.stem),
        }
        scorers = {name: build("scorer", name, SCORERS) for name in SCORERS}
        usable = {name: method for name, method in scorers.items() if {*schema, *made} >= set(method.needs)}
        needs = {need for method in usable.values() for need in method.needs} - set(made)
        frame = table.select(*sorted(needs), **made).collect()
    if frame["id"].null_count() or frame["id"].n_unique() != frame.height:
        raise DataError(
            f"{path}: the column 'id' is not unique",
            hint="give each row an id of its own, or drop the column",
        )
    _check_losses(path, frame, {name: column for name, column in columns.items() if column is not None})
    scores = [pl.Series(name, method(frame), dtype=pl.Float32) for name, method in usable.items()]
    ours = frame.select(*made).with_columns(scores)
    rest = table.drop(ours.columns, strict=False)
    return pl.concat([rest, ours.lazy()], how="horizontal").select(*dict.fromkeys([*schema, *ours.columns]))


def _check_losses(path: Path, frame: pl.DataFrame, columns: Mapping[str, str]) -> None:
    """Refuse losses below 0, and say which are missing and whether before and after look swapped."""
    for name, column in columns.items():
        losses = frame[name].fill_nan(None)
        if below := int((losses < BELOW).sum()):
            raise DataError(
                f"{path}: {below:,} of {frame.height:,} losses in the column {column!r} are below 0",
                hint="a loss is a negative log-likelihood; of log-likelihoods change the sign",
            )
        if absent := losses.null_count():
            say(
                f"warning: {path}: {absent:,} of {frame.height:,} rows have no loss in the column {column!r}, "
                "and no score that needs it"
            )
    if len(columns) < 2:
        return
    both = frame.select(*columns).fill_nan(None).drop_nulls()
    before, after = both["loss_before"].to_numpy(), both["loss_after"].to_numpy()
    if both.height and after.mean() > before.mean():
        say(
            f"warning: {path}: the losses rose in {int((after > before).sum()):,} of {both.height:,} rows, from "
            f"{before.mean():.3f} to {after.mean():.3f} on the mean; are --before {columns['loss_before']} and --after "
            f"{columns['loss_after']} swapped?"
        )


def _losses(path: Path, schema: pl.Schema, column: str) -> pl.Expr:
    if column not in schema or not schema[column].is_numeric():
        numeric = [known for known, kind in schema.items() if kind.is_numeric()]
        raise DataError(
            f"{path} has no column of numbers called {column!r}", hint=did_you_mean(column, numeric)
        )
    return pl.col(column).cast(pl.Float32).fill_null(float("nan"))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(
            f"cannot read {path}: {str(error).splitlines()[0]}",
            hint=f"is it a whole {path.suffix} file, one row per example?",
        ) from error


def _write(frame: pl.LazyFrame, file: FrameWriter) -> None:
    """Write a table some rows at a time, so that it is never there as a whole in the form it is written in."""
    for part in frame.collect_batches(chunk_size=ROWS):
        file.add(part)
    if file.schema is None:  # there are no rows
        file.add(frame.collect_schema().to_frame())
