"""Which rows of a pool look wrong: checks of texts and of what was measured, one order, a page, a file of bans."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import polars as pl

from learnable import data as rows
from learnable.checks import CHECKS, Check, Checked, Suspect, suspects_of
from learnable.commands.inputs import is_made
from learnable.commands.options import DryRun, Flat, Output, Several
from learnable.data.decontamination import EvaluationIndex, evaluation_rows
from learnable.data.records import place
from learnable.errors import UsageError, did_you_mean
from learnable.objects.given import finished
from learnable.pages.suspects import SuspectFacts, render_suspects
from learnable.pools import Pool
from learnable.runs.files import write_frame, write_json_lines, write_text
from learnable.runs.identity import fingerprint, source_of
from learnable.runs.progress import say
from learnable.runs.records import Outcome
from learnable.runs.step import Finished, Step, run

BANS, RANKING, PAGE = "bans.txt", "ranking.parquet", "report.html"


@dataclass(frozen=True, kw_only=True)
class Checking:
    """Which checks are made, and from which suspicion on a row is banned.

    Args:
        checks: Names of checks; all that can be made when not given. Those that measure need a model, and `evaluation` needs
            files to avoid.
        skip: Names of checks to leave out.
        sure: Suspicion from which on a row is in bans.txt, and marked to be dropped on the page, before anyone has looked.
        shown: Most suspects on the page; the tables have all.
    """

    checks: Annotated[Sequence[str], Several] = ()
    skip: Annotated[Sequence[str], Several] = ()
    sure: float = 0.9
    shown: int = 300

    def __post_init__(self) -> None:
        for name in (*self.checks, *self.skip):
            if name not in CHECKS:
                raise UsageError(f"there is no check {name!r}", hint=did_you_mean(name, CHECKS))
        if not 0 < self.sure <= 1:
            raise UsageError(f"sure is above 0 and at most 1, got {self.sure}")
        if self.shown < 1:
            raise UsageError(f"shown must be at least 1, got {self.shown}")

    def chosen(self, *, measured: bool, avoids: bool) -> dict[str, Check]:
        """Return the checks that are to be made, with a model to measure with (``measured``) and evaluation files or without.

        Raises:
            UsageError: If a check was named that lacks what it needs, or none is left.
        """
        found = {}
        for name in self.checks or CHECKS:
            check = CHECKS[name]
            lacks = "a model" if check.needs and not measured else ""
            lacks = lacks or ("evaluation files" if check.needs_evaluation and not avoids else "")
            if lacks and name in self.checks:
                hint = "add --model M" if check.needs else "add --avoid FILE"
                raise UsageError(f"the check {name} needs {lacks}", hint=hint)
            if not lacks and name not in self.skip:
                found[name] = check
        if not found:
            raise UsageError("no check is left", hint="name others, or skip fewer")
        return found


def suspects(
    pool: str,
    *,
    scores: str | None = None,
    avoid: Sequence[str] = (),
    checking: Annotated[Checking, Flat] = Checking(),
    command: str = "",
    dry_run: DryRun = False,
    output: Output = "suspects",
) -> Outcome:
    """Rank the rows of a pool that look wrong, each with its reasons, and write a page, tables and a file of bans.

    Checks that measure need ``scores`` with losses before and after; in the files to ``avoid`` no row may stand.
    """
    checks = checking.chosen(measured=scores is not None, avoids=bool(avoid))
    if dry_run and not all(is_made(each) for each in (pool, scores) if each is not None):
        return Outcome.planned(
            "suspects", Path(output), [f"no pass: {', '.join(checks)}, after {scores or pool}"]
        )
    loaded = finished(pool, "load")
    scored = None if scores is None else finished(scores, "score")
    step = Step(
        verb="suspects",
        parameters={
            "checks": list(checks),
            "sure": checking.sure,
            "shown": checking.shown,
            "command": command,
        },
        inputs={"pool": loaded.identity}
        | ({"scores": scored.identity} if scored else {})
        | ({"evaluation": fingerprint(rows.evaluation_digests(avoid))} if avoid else {}),
        sources={name: source_of(check.look) for name, check in checks.items()}
        | {"order": source_of(suspects_of)},
        links={"pool": loaded.folder} | ({"scores": scored.folder} if scored else {}),
        says=[f"no pass: {', '.join(checks)}"],
        work=partial(_work, loaded, scored, avoid, checking, checks, command),
    )
    return run(step, output, dry_run=dry_run)


def _work(
    loaded: Outcome,
    scored: Outcome | None,
    avoid: Sequence[str],
    checking: Checking,
    checks: Mapping[str, Check],
    command: str,
    folder: Path,
) -> Finished:
    pool = rows.load_pool(loaded.folder)
    checked = Checked(
        examples=list(pool.iter_examples()),
        measured=pl.DataFrame() if scored is None else _measured(scored, pool),
        evaluation=EvaluationIndex(evaluation_rows(avoid, columns={})) if avoid else None,
    )
    found = suspects_of(checked, checks)
    sure = [each for each in found if each.suspicion >= checking.sure]
    places = _places(pool)
    lines = [_line(rank, each, checked, places) for rank, each in enumerate(found, start=1)]
    write_json_lines(folder / "suspects.jsonl", lines)
    write_frame(pl.DataFrame(lines, schema=LINE), folder / "suspects.parquet")
    write_frame(_ranking(found, checked), folder / RANKING)
    write_text(folder / BANS, "".join(f"{checked.rows[each.row].id}\n" for each in sure))
    facts = SuspectFacts(
        checked=checked,
        checks=checks,
        left_out=[name for name in CHECKS if name not in checks],
        found=found,
        sure=checking.sure,
        shown=checking.shown,
        places=places,
        model=None if scored is None else str(scored.facts["model"]),
        ranking=str(folder / RANKING),
        pool=str(loaded.folder),
        command=command,
        fingerprint=folder.name,
    )
    write_text(folder / PAGE, render_suspects(facts))
    if scored is None:
        say("only texts were read: with --model M also what does not fit, is unlikely, or has no end")
    return Finished(
        facts={
            "rows": len(checked.rows),
            "suspects": len(found),
            "sure": len(sure),
            "by check": {name: sum(name in each.reasons for each in found) for name in checks},
            "next": facts.next_command(str(folder / BANS)),
        }
    )


LINE: dict[str, Any] = {
    "rank": pl.Int64,
    "id": pl.String,
    "place": pl.String,
    "source": pl.String,
    "suspicion": pl.Float64,
    "checks": pl.List(pl.String),
    "reasons": pl.List(pl.String),
    "like": pl.String,
    "like_place": pl.String,
    "question": pl.String,
    "answer": pl.String,
}
"""Columns of the suspects; ``like`` is the id of the row that one collides with."""


def _line(rank: int, suspect: Suspect, checked: Checked, places: Mapping[str, str]) -> dict[str, Any]:
    row = checked.rows[suspect.row]
    like = None if suspect.other is None else checked.rows[suspect.other].id
    return {
        "rank": rank,
        "id": row.id,
        "place": places[row.id],
        "source": row.source,
        "suspicion": round(suspect.suspicion, 4),
        "checks": list(suspect.reasons),
        "reasons": [f"{name}: {each.why}" for name, each in suspect.reasons.items()],
        "like": like,
        "like_place": None if like is None else places[like],
        "question": row.question,
        "answer": row.answer,
    }


def _ranking(found: Sequence[Suspect], checked: Checked) -> pl.DataFrame:
    """Return ``id``, ``source`` and ``suspicion`` of all rows, for `learnable select`; 0 where nothing was found."""
    known = {each.row: each.suspicion for each in found}
    lines = [(row.id, row.source, known.get(number, 0.0)) for number, row in enumerate(checked.rows)]
    return pl.DataFrame(
        lines, schema={"id": pl.String, "source": pl.String, "suspicion": pl.Float64}, orient="row"
    )


def _places(pool: Pool) -> dict[str, str]:
    """Return where each example stands: its file, and its line or row."""
    names = rows.names_of(pool.files)
    first = pool.rows.filter(pl.col("reason").is_null()).select("id", "file", "row", "line")
    return {id: place(names[file], row=row, line=line) for id, file, row, line in first.iter_rows()}


def _measured(scored: Outcome, pool: Pool) -> pl.DataFrame:
    """Return the scores in the order of the pool."""
    frame = pl.read_parquet(scored.folder / "scores.parquet")
    return pool.examples.select("id").join(frame, on="id", how="left", maintain_order="left")
