"""``learnable report``: a selection in, one HTML page out."""

import time
from dataclasses import asdict

import polars as pl

from learnable import data as rows
from learnable.atomic import replacing
from learnable.reporting import Facts, render, warnings_of
from learnable.reporting import Step as CostRow
from learnable.steps import Outcome, Step
from learnable.verbs.inputs import finished
from learnable.verbs.options import Output


def report(
    selection: str, *, title: str = "selection", command: str | None = None, output: Output = "report"
) -> Outcome:
    """Write one HTML page about a selection; it opens offline.

    Args:
        selection: Folder that `learnable select` wrote.
        title: Heading of the page.
        command: Command to show as the one that repeats the run.
        output: Folder to write.
    """
    started = time.monotonic()
    chosen = finished(selection, "select")
    step = Step(
        verb="report", parameters={"title": title, "command": command}, inputs={"selection": chosen.identity}
    )
    folder = step.folder(output)
    links = {"selection": chosen.folder}
    if done := step.begin(folder, links=links):
        return done
    facts = gather(chosen, title=title, command=command or f"learnable report {selection}")
    with replacing(folder / "report.html") as part:
        part.write_text(render(facts), encoding="utf-8")
    shown = {"report": str(folder / "report.html"), "warnings": warnings_of(facts)}
    return step.finish(folder, facts=shown, started=started, links=links)


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
