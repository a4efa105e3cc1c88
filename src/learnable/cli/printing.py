"""Results on standard output: tables and facts for people, or one JSON document for programs."""

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from textwrap import fill, indent
from typing import Any

import polars as pl
from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from learnable.cli.listing import Details, Entry, Tables
from learnable.commands.doctor import Diagnosis
from learnable.commands.explore import Page
from learnable.commands.show import ExampleView, Shown
from learnable.runs.price import Price
from learnable.runs.records import Outcome
from learnable.visible import visible

NARROW = 76
FILES_SAID = 8
"""Columns of a terminal under which a table of four columns becomes a list."""


def show(result: Any) -> None:
    """Print what a command returned, for people."""
    if isinstance(result, Tables):
        _show_tables(result)
    elif isinstance(result, Details):
        _show_details(result)
    elif isinstance(result, Diagnosis):
        for line in result.lines():
            _console().print(line, markup=False)
    elif isinstance(result, Shown):
        result.print_to(_console())
    elif isinstance(result, Page):
        _show_facts(_console(), {"url": result.url})
    elif isinstance(result, Mapping) and _is_run(result):
        _show_run(result)
    elif isinstance(result, Mapping):
        _show_facts(_console(), result)
    elif isinstance(result, Outcome):
        _show_outcome(result)


def document(result: Any) -> dict[str, Any]:
    """Return what a command returned as an object of JSON types; NaN and infinity become null."""
    if isinstance(result, Tables):
        return {kind: _plain(entries) for kind, entries in result.kinds.items()}
    if isinstance(result, Diagnosis):
        return {"healthy": result.healthy, **_plain(result)}
    if isinstance(result, Shown):
        return {**_plain(result), "examples": [_example(example) for example in result.examples]}
    if isinstance(result, Page):
        return {"url": result.url}
    if isinstance(result, Mapping) and _is_run(result):
        return {"steps": _plain(result)}
    return {} if result is None else dict(_plain(result))


def _is_run(result: Mapping[str, Any]) -> bool:
    return bool(result) and all(isinstance(each, Outcome) for each in result.values())


def _example(example: ExampleView) -> dict[str, Any]:
    """Return one example of `show`, its losses in nats: of the example per scored token, of a piece summed."""
    seen = _plain(example)
    pieces = [
        piece | {"learned": _plain(each.learned)}
        for piece, each in zip(seen.pop("pieces"), example.pieces, strict=True)
    ]
    means = {"loss_before": _plain(example.mean("before")), "loss_after": _plain(example.mean("after"))}
    return {**seen, **means, "pieces": pieces}


def _outcome(outcome: Outcome) -> dict[str, Any]:
    planned = "would run" in outcome.facts
    shown: dict[str, Any] = {"command": outcome.verb, "ran": outcome.ran, "facts": _plain(outcome.facts)}
    if planned:
        return shown | {"price": _plain(outcome.price)}
    shown |= {"folder": str(outcome.folder), "identity": outcome.identity, "inputs": dict(outcome.inputs)}
    shown |= {"links": _plain(outcome.links), "cost": _plain(outcome.cost)}
    table = outcome.folder / "table.parquet"
    if outcome.verb in _CONTESTS and table.is_file():
        shown["table"] = _plain(pl.read_parquet(table).to_dicts())
    return shown


def _plain(value: Any) -> Any:
    """Return a value as JSON types."""
    if isinstance(value, Outcome):
        return _outcome(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, Iterable) and not isinstance(value, os.PathLike):
        return [_plain(each) for each in value]
    return str(value)


def write_json(result: Any, *, text: str = "") -> None:
    """Print one JSON document, with a line end.

    Args:
        result: What a command returned.
        text: What it printed itself, which goes into the document.
    """
    said = document(result) | ({"text": text} if text else {})
    # A page is served after its document: who started it reads one line, and does not wait for the end of the output.
    indent = None if isinstance(result, Page) else 2
    sys.stdout.write(json.dumps(said, ensure_ascii=False, allow_nan=False, indent=indent) + "\n")


class _RowConsole(Console):
    """Prints lines in which text of rows may stand: what a terminal would obey in them is made visible."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print like ``Console``."""
        super().print(*(visible(each) if isinstance(each, str) else each for each in objects), **options)


def _console() -> Console:
    return _RowConsole(soft_wrap=True, highlight=False)


def _show_tables(tables: Tables) -> None:
    """Print a table of each kind; where it would not fit, or is piped, in a form that stays readable."""
    console = Console(highlight=False)
    for kind, entries in tables.kinds.items():
        console.print(Text(kind, style="bold"))
        if not console.is_terminal:
            console = Console(highlight=False, width=10_000)  # one line for each, for grep
        if console.is_terminal and console.width < NARROW:
            for entry in entries:
                _show_stacked(console, entry)
        else:
            console.print(_table(entries, one_line=not console.is_terminal))
        console.print()
    console.print(Text("more about one of them: learnable list NAME"))


def _table(entries: Sequence[Entry], *, one_line: bool) -> Table:
    table = Table(box=None if one_line else box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.expand = not one_line
    table.add_column("name", no_wrap=True, style="bold")
    for column, ratio in (("what it does", 3), ("needs", 2), ("costs", 2)):
        table.add_column(column, no_wrap=one_line, overflow="fold", ratio=None if one_line else ratio)
    for entry in entries:
        table.add_row(*map(Text, (entry.name, entry.about, ", ".join(entry.needs) or "-", entry.costs)))
    return table


def _show_stacked(console: Console, entry: Entry) -> None:
    console.print(Text(entry.name, style="bold"))
    for text in (
        entry.about,
        f"needs: {', '.join(entry.needs)}" if entry.needs else "",
        f"costs: {entry.costs}",
    ):
        if text:
            _print_indented(console, text, 2)


def _show_details(details: Details) -> None:
    """Print all about one name: what it does, needs and costs, how it is written, and its settings."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=100)
    for entry in details.entries:
        console.print(
            Text.assemble((entry.name, "bold"), f", a{'n' * (entry.kind[0] in 'aeiou')} {entry.kind}")
        )
        more = entry.more if entry.more.startswith(entry.about) else f"{entry.about}\n\n{entry.more}".strip()
        console.print(Text(f"\n{more}\n"))
        facts = {"needs": ", ".join(entry.needs), "costs": entry.costs, "usage": entry.usage}
        for name, value in (facts | {"source": entry.source}).items():
            if value:
                _print_indented(console, f"{name}: {value}", 0)
        if entry.settings:
            console.print(Text("\nsettings", style="bold"))
        for setting in entry.settings:
            shown = "none" if setting.default is None else json.dumps(setting.default, ensure_ascii=False)
            takes = f" ({setting.takes})" if setting.takes else ""
            console.print(Text.assemble("  ", (setting.name, "bold"), f" = {shown}{takes}"))
            if setting.about:
                _print_indented(console, setting.about, 6)
        console.print()


def _print_indented(console: Console, text: str, spaces: int) -> None:
    """Print a paragraph without blanks at the ends of its lines, which would be copied with it."""
    console.print(Text(indent(fill(text, console.width - spaces), " " * spaces)))


def _show_outcome(outcome: Outcome) -> None:
    planned = "would run" in outcome.facts
    if outcome.verb in _CONTESTS and not planned:
        _CONTESTS[outcome.verb](outcome)
        return
    console = _console()
    if not outcome.ran and not planned:
        console.print("was done already")
    _show_facts(console, outcome.facts)
    if not planned:
        console.print(f"folder: {outcome.folder}", markup=False)


def _show_facts(console: Console, facts: Mapping[str, Any]) -> None:
    for name, value in facts.items():
        if name == "warnings":
            for warning in value:
                console.print(f"warning: {warning}", markup=False)
        elif value not in (None, [], "") and value is not False:
            console.print(f"{name}: {_shown(value)}", markup=False)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return (
        f"{value:,}"
        if isinstance(value, int) and not isinstance(value, bool)
        else f"{value:.4g}"
        if isinstance(value, float)
        else str(value)
    )


def _show_comparison(outcome: Outcome, warnings: Sequence[str] = ()) -> None:
    """Print the table of a comparison: each method's value and its difference to a random draw, in words."""
    console, facts = _console(), outcome.facts
    _show_contest(console, outcome, who="method", baseline="random", first="budget_tokens")
    console.print(
        f"{facts['trainings']} trainings, {facts['seeds']} seeds each; intervals hold for all methods of an evaluation "
        f"together ({facts['confidence']:.0%})",
        markup=False,
    )
    if facts["in both"] and not warnings:
        console.print(
            f"warning: {facts['in both']:,} evaluation items stand in the pool too: see overlap.parquet"
        )
    console.print(f"folder: {outcome.folder}", markup=False)


def _show_lesson(outcome: Outcome, warnings: Sequence[str] = ()) -> None:
    """Print the table of a lesson: each arm's value and its difference to the baseline, in words."""
    console, facts = _console(), outcome.facts
    _show_contest(console, outcome, who="arm", baseline=facts["baseline"])
    arms = pl.read_parquet(outcome.folder / "arms.parquet")
    console.print(
        f"{arms.filter(pl.col('tokens') > 0).height} trainings, {facts['seeds']} of each arm; intervals hold for all arms "
        f"of an evaluation together ({facts['confidence']:.0%})",
        markup=False,
    )
    for note in [] if warnings else facts["notes"]:
        console.print(f"note: {note}", markup=False)
    console.print(f"model: {outcome.folder / 'model'} ({facts['kept model']}, seed 0)", markup=False)
    console.print(f"folder: {outcome.folder}", markup=False)


def _show_contest(
    console: Console, outcome: Outcome, *, who: str, baseline: str, first: str | None = None
) -> None:
    """Print a table for each evaluation: who came to what, and its difference to the baseline.

    Args:
        console: Where to.
        outcome: Its folder holds ``table.parquet``.
        who: Column of those that are compared.
        baseline: What the difference is to.
        first: Column to sort by before the value.
    """
    if not outcome.ran:
        console.print("was done already")
    table = pl.read_parquet(outcome.folder / "table.parquet")
    for part in table.partition_by("evaluation", maintain_order=True):
        higher = bool(part["higher_is_better"][0])
        better = "higher" if higher else "lower"
        items = max(part["items"])
        shown = Table(
            title=Text(f"{part['evaluation'][0]} ({part['unit'][0]}, {better} is better, {items:,} items)"),
            title_justify="left",
        )
        for column in (who, "tokens", "value", f"difference to {baseline}", "verdict"):
            justify: JustifyMethod = "left" if column in (who, "verdict") else "right"
            shown.add_column(Text(column), justify=justify, overflow="fold")
        order = {**({first: False} if first else {}), "value": higher}
        for row in part.sort(*order, descending=list(order.values()), nulls_last=True).iter_rows(named=True):
            against = "" if row["difference"] is None else f"{row['difference']:+.4f}"
            if against and math.isfinite(row["low"]):
                against += f" ({row['low']:+.4f} to {row['high']:+.4f})"
            shown.add_row(
                Text(row[who]),
                f"{row['tokens']:,.0f}",
                f"{row['value']:.4f}",
                against,
                row["verdict"] or "",
            )
        console.print(shown)


_CONTESTS = {"compare": _show_comparison, "teach": _show_lesson}


def _show_run(outcomes: Mapping[str, Outcome]) -> None:
    prices = [outcome.price for outcome in outcomes.values() if outcome.price is not None]
    if prices:
        _show_facts(_console(), {"altogether": sum(prices, Price()).words or "no pass"})
    else:
        _show_results(outcomes)


def _show_results(outcomes: Mapping[str, Outcome]) -> None:
    by_verb = {outcome.verb: outcome for outcome in outcomes.values()}
    contest = next((verb for verb in _CONTESTS if verb in by_verb), None)
    if contest and "report" in by_verb:
        console, reported = _console(), by_verb["report"].facts
        _CONTESTS[contest](by_verb[contest], reported["warnings"])
        for warning in reported["warnings"]:
            console.print(f"warning: {warning}", markup=False)
        console.print(f"report: {reported['report']}", markup=False)
        return
    if "select" in by_verb and "report" in by_verb:
        if not any(outcome.ran for outcome in outcomes.values()):
            _console().print("nothing to do: every step was done already")
        _show_selection(by_verb)


def _show_selection(by_verb: Mapping[str, Outcome]) -> None:
    console = _console()
    chosen = by_verb["select"].facts
    table = Table(title=f"{chosen['by']}, budget {chosen['budget']}", title_justify="left")
    for column in ("", "examples", "tokens", f"mean {chosen['by']}"):
        table.add_column(column, justify="left" if not column else "right", overflow="fold")
    for label, count, tokens, mean in (
        ("pool", "pool", "pool_tokens", "mean_pool"),
        ("selection", "kept", "kept_tokens", "mean_kept"),
    ):
        shown = "undefined" if chosen[mean] is None else f"{chosen[mean]:.4f}"
        table.add_row(
            label, f"{chosen[count]:,}", "" if chosen[tokens] is None else f"{chosen[tokens]:,}", shown
        )
    console.print(table)
    for warning in by_verb["report"].facts["warnings"]:
        console.print(f"warning: {warning}", markup=False)
    folder = by_verb["select"].folder
    for written in _few(chosen["written"]):
        console.print(f"selected rows: {folder / written}", markup=False)
    for written in chosen.get("exported", ()):
        console.print(f"exported: {folder / written}", markup=False)
    console.print(f"report: {by_verb['report'].facts['report']}", markup=False)
    console.print(f"look around: learnable explore {folder}", markup=False)


def _few(paths: Sequence[str]) -> Sequence[str]:
    """Return paths to print: each of a few, of many the folder that they are in."""
    if len(paths) <= FILES_SAID:
        return paths
    return [f"{Path(paths[0]).parent} ({len(paths):,} files)"]
