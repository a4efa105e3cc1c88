"""``learnable report``: a selection or a comparison in, one HTML page out."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from learnable import data as rows
from learnable.atomic import replacing
from learnable.errors import StoreError
from learnable.reporting import (
    ComparisonFacts,
    Facts,
    comparison_warnings_of,
    render,
    render_comparison,
    warnings_of,
)
from learnable.reporting import Step as CostRow
from learnable.steps import Outcome, Step, read_outcome
from learnable.verbs.inputs import finished
from learnable.verbs.options import Output

KINDS = {"select": "selection", "compare": "comparison"}


def report(
    selection: str, *, title: str | None = None, command: str | None = None, output: Output = "report"
) -> Outcome:
    """Write one HTML page about a selection or a comparison; it opens offline.

    Args:
        selection: Folder that `learnable select` or `learnable compare` wrote.
        title: Heading of the page; `selection` or `comparison` when not given.
        command: Command to show as the one that repeats the run.
        output: Folder to write.
    """
    started = time.monotonic()
    given = _given(selection)
    kind = KINDS[given.verb]
    title = title or kind
    step = Step(verb="report", parameters={"title": title, "command": command}, inputs={kind: given.identity})
    folder = step.folder(output)
    links = {kind: given.folder}
    if done := step.begin(folder, links=links):
        return done
    command = command or f"learnable report {selection}"
    if kind == "selection":
        facts = gather(given, title=title, command=command)
        page, warnings = render(facts), warnings_of(facts)
    else:
        compared = gather_comparison(given, title=title, command=command)
        page, warnings = render_comparison(compared), comparison_warnings_of(compared)
    with replacing(folder / "report.html") as part:
        part.write_text(page, encoding="utf-8")
    shown = {"report": str(folder / "report.html"), "warnings": warnings}
    return step.finish(folder, facts=shown, started=started, links=links)


def _given(folder: str) -> Outcome:
    """Return what is to be reported.

    Raises:
        StoreError: If the folder holds neither a selection nor a comparison.
    """
    if not Path(folder).is_dir():
        raise StoreError(
            f"there is no folder {folder}",
            hint="give the output of `learnable select` or `learnable compare`",
        )
    outcome = read_outcome(Path(folder))
    if outcome.verb not in KINDS:
        raise StoreError(
            f"{folder} is the output of `learnable {outcome.verb}`",
            hint="give one of `learnable select` or `learnable compare`",
        )
    return outcome


def gather(chosen: Outcome, *, title: str, command: str) -> Facts:
    """Collect what a report says from the folders that led to a selection."""
    scored = finished(chosen.links["scores"], "score") if "scores" in chosen.links else None
    scores = pl.read_parquet((scored or chosen).folder / "scores.parquet")
    steps, reference = [chosen], {"kind": "columns"}
    pool, files, model, scorers = None, [], "not known: the losses were given", [str(chosen.facts["by"])]
    if scored:
        pool = rows.load_pool(scored.links["pool"])
        files = [rows.base_name(file.kind, file.path) for file in pool.files]
        model, scorers = f"{scored.facts['model']} ({scored.facts['dtype']})", list(scored.facts["scorers"])
        steps.insert(0, scored)
        reference = {"kind": "given"}
        if "reference" in scored.links:
            trained = finished(scored.links["reference"], "train")
            reference = dict(trained.facts)
            steps.insert(0, trained)
        steps.insert(0, finished(scored.links["pool"], "load"))
    return Facts(
        title=title,
        command=command,
        model=model,
        reference=reference,
        by=str(chosen.facts["by"]),
        higher_is_better=not chosen.facts["lowest"],
        budget=str(chosen.facts["budget"]),
        examples=pool.examples if pool else None,
        rows=pool.rows if pool else None,
        files=files,
        scores=scores,
        scorers=scorers,
        kept=pl.read_parquet(chosen.folder / "kept.parquet"),
        dropped=pl.read_parquet(chosen.folder / "dropped.parquet"),
        steps=[CostRow(name=step.verb, **asdict(step.cost)) for step in steps],
        shortfall=chosen.facts["shortfall"],
    )


def gather_comparison(compared: Outcome, *, title: str, command: str) -> ComparisonFacts:
    """Collect what a report says about a comparison from its folder and its pool."""
    names = ("table", "results", "arms", "selections", "scores", "overlap")
    frames = {name: pl.read_parquet(compared.folder / f"{name}.parquet") for name in names}
    pool = rows.load_pool(finished(compared.links["pool"], "load").folder)
    return ComparisonFacts(
        title=title,
        command=command,
        model=str(compared.facts["model"]),
        confidence=float(compared.facts["confidence"]),
        settings=_shared(compared.facts.get("tuning", {})),
        methods=compared.facts["methods"],
        examples=pool.examples,
        tokens=compared.cost.tokens,
        seconds=compared.cost.seconds,
        **frames,
    )


def _shared(tuning: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that all trainings share: not the seed, and not steps that followed from the budget."""
    return {name: value for name, value in tuning.items() if name != "seed" and value is not None}
