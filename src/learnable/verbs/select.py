"""``learnable select``: scores in, chosen rows out."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import polars as pl

from learnable import data as rows
from learnable.atomic import replacing, write_frame
from learnable.errors import DataError, UsageError, did_you_mean
from learnable.fingerprint import file_digest, fingerprint
from learnable.progress import say
from learnable.registry import build
from learnable.scorers import SCORERS
from learnable.selectors import SELECTORS, PerSource, Thresholds, choose, count_asked
from learnable.steps import Outcome, Step
from learnable.types import Budget
from learnable.verbs.inputs import finished
from learnable.verbs.options import Flat, Output
from learnable.verbs.score import rules_of, vectors_of

TABLES: Mapping[str, Callable[[Path], pl.LazyFrame]] = {
    ".parquet": pl.scan_parquet,
    ".csv": pl.scan_csv,
    ".jsonl": pl.scan_ndjson,
}
ROWS = 1 << 18
"""Rows of a table that are written at a time."""


def select(
    scores: str,
    *,
    budget: str = "6%",
    by: str = "learnability",
    selector: str = "top_k",
    per_source: PerSource = "none",
    per_cluster: PerSource = "none",
    clusters: int = 100,
    max_similarity: float | None = None,
    where: str | None = None,
    thresholds: Annotated[Thresholds, Flat] = Thresholds(),
    lowest: bool = False,
    before: str | None = None,
    after: str | None = None,
    seed: int = 0,
    output: Output = "selection",
) -> Outcome:
    """Choose examples within a budget, and write the chosen rows exactly as they came.

    Args:
        scores: Folder that `learnable score` wrote, or a table of losses (.parquet, .csv, .jsonl) computed elsewhere.
        budget: 6% (of the examples), 500 (examples), or 50000tokens (prompt and response); also as --budget.fraction,
            --budget.examples or --budget.tokens.
        by: Score to choose by.
        selector: Method (see `learnable list`).
        per_source: Share of each source: none (all compete), equal, or proportional to its size.
        per_cluster: The same for clusters of similar examples; needs vectors (`learnable score --vectors model`).
        clusters: How many clusters.
        max_similarity: Drop near-duplicates first: what is more alike than this (cosine, such as 0.95) to an example
            with a better score; needs vectors.
        where: Condition in SQL over the score columns, such as "loss_before > 0.5 AND tokens < 800".
        thresholds: The three conditions of the first LoBaSS paper.
        lowest: Choose the lowest scores.
        before: For a table of losses: column with the loss before fine-tuning.
        after: For a table of losses: column with the loss after fine-tuning.
        seed: For methods that draw.
        output: Folder to write.
    """
    started = time.monotonic()
    asked = Budget.parse(budget)
    scored = finished(scores, "score") if Path(scores).is_dir() else None
    if scored and (before or after):
        raise UsageError(f"{scores} holds scores already: --before and --after are for a table of losses")
    table = scored.folder / "scores.parquet" if scored else Path(scores)
    frame = pl.scan_parquet(table) if scored else _table(table, before, after)
    parameters: dict[str, Any] = {"budget": str(asked), "by": by, "per_source": per_source, "where": where}
    parameters |= {"per_cluster": per_cluster, "clusters": clusters, "max_similarity": max_similarity}
    parameters |= {"lowest": lowest, "seed": seed, "before": before, "after": after, **asdict(thresholds)}
    method = build("selector", selector, SELECTORS)
    parameters["selector"] = f"{selector} {fingerprint(method)}"
    inputs = {"scores": scored.identity if scored else file_digest(Path(scores))}
    step = Step(verb="select", parameters=parameters, inputs=inputs)
    folder = step.folder(output)
    links = {"scores": scored.folder} if scored else {}
    if done := step.begin(folder, links=links):
        return done
    rules = scored.facts if scored else rules_of({name: known() for name, known in SCORERS.items()})
    if by in rules["lowest first"]:
        lowest = not lowest
    if thresholds.max_score is None and by in rules.get("max score", {}):
        thresholds = replace(thresholds, max_score=rules["max score"][by])
        say(f"{by} above {thresholds.max_score:g} is left out, as in its paper; --max-score inf keeps it")
    alike = per_cluster != "none" or max_similarity is not None or getattr(method, "needs_vectors", False)
    vectors = vectors_of(scored.folder) if scored and alike else None
    with ExitStack() as stack:
        stack.enter_context(_reading(table))
        if not scored:
            part = stack.enter_context(replacing(folder / "scores.parquet"))
            _write(frame, part)
            frame = pl.scan_parquet(part)
        selection = choose(
            frame,
            by=by,
            budget=asked,
            selector=method,
            lowest=lowest,
            per_source=per_source,
            per_cluster=per_cluster,
            clusters=clusters,
            vectors=vectors,
            max_similarity=max_similarity,
            where=where,
            thresholds=thresholds,
            seed=seed,
        )
        facts = _facts(frame, selection.kept, asked, by) | {"lowest": lowest}
        write_frame(selection.kept, folder / "kept.parquet")
        with replacing(folder / "dropped.parquet") as part:
            _write(selection.dropped.lazy(), part)
        if not scored:
            paths = [folder / "selected.parquet"]
            write_frame(_rows_of(frame, selection.kept), paths[0])
    if scored:
        pool = rows.load_pool(scored.links["pool"], conversations=False)
        paths = rows.write_rows(pool, selection.kept["id"].to_list(), folder / "selected")
        rows.write_dropped(pool, selection.dropped, folder / "dropped.jsonl")
    facts["written"] = [str(path.relative_to(folder)) for path in paths]
    return step.finish(folder, facts=facts, started=started, links=links)


def _facts(scores: pl.LazyFrame, kept: pl.DataFrame, budget: Budget, by: str) -> dict[str, Any]:
    known = {"id", "tokens", by}
    frame = scores.select(name for name in scores.collect_schema() if name in known).collect()
    chosen = frame.join(kept.select("id"), on="id", how="semi")
    tokens = int(chosen["tokens"].sum()) if "tokens" in frame.columns else None
    asked = count_asked(budget, frame.height)
    reached = tokens if budget.tokens is not None else chosen.height
    few = reached is not None and reached < asked * (0.95 if budget.tokens is not None else 1)
    unit = "tokens" if budget.tokens is not None else "examples"
    return {
        "budget": str(budget),
        "by": by,
        "pool": frame.height,
        "kept": chosen.height,
        "kept_tokens": tokens,
        "pool_tokens": int(frame["tokens"].sum()) if tokens is not None else None,
        "mean_kept": _mean(chosen[by]),
        "mean_pool": _mean(frame[by]),
        "shortfall": f"only {reached:,} of {asked:,} {unit} qualify or fit. Loosen where or the thresholds, or lower the budget."
        if few
        else None,
    }


def _rows_of(table: pl.LazyFrame, kept: pl.DataFrame) -> pl.DataFrame:
    """Return the chosen rows of a table in the order picked; the others are passed over as they are read."""
    chosen = table.join(kept.lazy(), on="id", how="semi").collect()
    return kept.select("id").join(chosen, on="id", how="left", maintain_order="left")


def _mean(scores: pl.Series) -> float | None:
    mean = scores.cast(pl.Float64).fill_nan(None).mean()
    return float(mean) if isinstance(mean, float) else None


def _table(path: Path, before: str | None, after: str | None) -> pl.LazyFrame:
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
        made = {name: _losses(path, schema, column) for name, column in _given(before, after).items()}
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
    scores = [pl.Series(name, method(frame), dtype=pl.Float32) for name, method in usable.items()]
    ours = frame.select(*made).with_columns(scores)
    rest = table.drop(ours.columns, strict=False)
    return pl.concat([rest, ours.lazy()], how="horizontal").select(*dict.fromkeys([*schema, *ours.columns]))


def _given(before: str | None, after: str | None) -> dict[str, str]:
    named = {"loss_before": before, "loss_after": after}
    return {name: column for name, column in named.items() if column is not None}


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


def _write(frame: pl.LazyFrame, path: Path) -> None:
    """Write a table some rows at a time, so that it is never there as a whole in the form it is written in."""
    import pyarrow.parquet

    oldest = pl.CompatLevel.oldest()
    schema = frame.collect_schema().to_frame().to_arrow(compat_level=oldest).schema
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for part in frame.collect_batches(chunk_size=ROWS):
            writer.write_table(part.to_arrow(compat_level=oldest))
