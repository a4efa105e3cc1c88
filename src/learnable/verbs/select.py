"""``learnable select``: scores in, chosen rows out."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import polars as pl

from learnable import data as rows
from learnable.atomic import write_frame
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

READERS: Mapping[str, Callable[[Path], pl.DataFrame]] = {
    ".parquet": pl.read_parquet,
    ".csv": pl.read_csv,
    ".jsonl": pl.read_ndjson,
}


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
    frame = (
        pl.read_parquet(scored.folder / "scores.parquet") if scored else _table(Path(scores), before, after)
    )
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
    write_frame(selection.kept, folder / "kept.parquet")
    write_frame(selection.dropped, folder / "dropped.parquet")
    if scored:
        pool = rows.load_pool(scored.links["pool"])
        paths = rows.write_rows(pool, selection.kept["id"].to_list(), folder / "selected")
        rows.write_dropped(pool, selection.dropped, folder / "dropped.jsonl")
    else:
        paths = [folder / "selected.parquet"]
        chosen = selection.kept.select("id").join(frame, on="id", how="left", maintain_order="left")
        write_frame(chosen, paths[0])
        write_frame(frame, folder / "scores.parquet")
    facts = _facts(frame, selection.kept, asked, by) | {"lowest": lowest}
    facts["written"] = [str(path.relative_to(folder)) for path in paths]
    return step.finish(folder, facts=facts, started=started, links=links)


def _facts(frame: pl.DataFrame, kept: pl.DataFrame, budget: Budget, by: str) -> dict[str, Any]:
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


def _mean(scores: pl.Series) -> float | None:
    mean = scores.cast(pl.Float64).fill_nan(None).mean()
    return float(mean) if isinstance(mean, float) else None


def _table(path: Path, before: str | None, after: str | None) -> pl.DataFrame:
    """Read losses that were computed elsewhere, and score them.

    A column ``id`` is used when there is one, else rows are numbered; ``source`` and ``tokens`` likewise if present.
    """
    if not path.is_file():
        raise DataError(
            f"there is no file or folder {path}",
            hint="give the output of `learnable score`, or a table of losses",
        )
    if path.suffix not in READERS:
        raise DataError(f"{path}: unknown kind of table", hint=f"known kinds: {', '.join(READERS)}")
    try:
        frame = READERS[path.suffix](path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(
            f"cannot read {path}: {str(error).splitlines()[0]}",
            hint=f"is it a whole {path.suffix} file, one row per example?",
        ) from error
    renamed = {"loss_before": before, "loss_after": after}
    for name, column in renamed.items():
        if column is None:
            continue
        if column not in frame.columns or not frame[column].dtype.is_numeric():
            numeric = [known for known, kind in frame.schema.items() if kind.is_numeric()]
            raise DataError(
                f"{path} has no column of numbers called {column!r}", hint=did_you_mean(column, numeric)
            )
        frame = frame.with_columns(pl.col(column).cast(pl.Float32).fill_null(float("nan")).alias(name))
    identity = (
        pl.col("id").cast(pl.String)
        if "id" in frame.columns
        else pl.int_range(pl.len()).cast(pl.String).str.zfill(12)
    )
    source = pl.col("source").cast(pl.String) if "source" in frame.columns else pl.lit(path.stem)
    frame = frame.with_columns(id=identity, source=source)
    if frame["id"].null_count() or frame["id"].n_unique() != frame.height:
        raise DataError(
            f"{path}: the column 'id' is not unique",
            hint="give each row an id of its own, or drop the column",
        )
    known = {name: build("scorer", name, SCORERS) for name in SCORERS}
    usable = {name: scorer for name, scorer in known.items() if set(scorer.needs) <= set(frame.columns)}
    return frame.with_columns(
        pl.Series(name, scorer(frame), dtype=pl.Float32) for name, scorer in usable.items()
    )
