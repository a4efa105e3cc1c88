"""Results on standard output: tables and facts for people, or one JSON document for programs."""

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import fill, indent
from typing import Any

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from learnable.cli.listing import Entry, Tables
from learnable.commands.doctor import Diagnosis
from learnable.commands.explore import Page
from learnable.commands.select import DROPPED
from learnable.commands.show import ExampleView, Shown
from learnable.runs.price import Price
from learnable.runs.records import Outcome
from learnable.visible import visible

NARROW = 76
"""Columns of a terminal under which a table of four columns becomes a list."""
WHOLE_NAME = 24
"""Most characters of names in the first column of a table that are never broken; longer ones are, where they must."""
FILES_SAID = 8
"""Paths that are printed each; of more, the folder that they are in."""
SOURCES_SAID = 12
"""Sources whose shares are printed; of more, the file that they are in."""
WRITTEN = ("written", "exported")
"""Facts of a selection that are printed as paths from here."""
SUSPECTS = {"suspects": "suspects.jsonl", "bans": "bans.txt", "report": "report.html"}
"""What `run clean` wrote, by its name in what is printed."""
CONTESTS = ("compare", "prefer", "teach")
"""Commands whose result is a table, of methods in the first two, of arms in the last; so has every trial of a recipe."""


def _is_contest(outcome: Outcome) -> bool:
    return outcome.verb in CONTESTS or "trial" in outcome.facts


class _RowConsole(Console):
    """Prints lines in which text of rows may stand: what a terminal would obey in them is made visible."""

    def __init__(self) -> None:
        super().__init__(soft_wrap=True, highlight=False)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print like ``Console``, but for markup, which nothing here has."""
        shown = (visible(each) if isinstance(each, str) else each for each in objects)
        super().print(*shown, **({"markup": False} | options))


def show(result: Any) -> None:
    """Print what a command returned, for people."""
    console = _RowConsole()
    if isinstance(result, Tables):
        _show_tables(result)
    elif isinstance(result, list):
        _show_details(result)
    elif isinstance(result, Diagnosis):
        for line in result.lines():
            console.print(line)
    elif isinstance(result, Shown):
        result.print_to(console)
    elif isinstance(result, Page):
        _show_facts(console, {"url": result.url})
    elif isinstance(result, Mapping) and _is_run(result):
        _show_run(console, result)
    elif isinstance(result, Mapping):
        _show_facts(console, result)
    elif isinstance(result, Outcome):
        _show_outcome(console, result)


def document(result: Any) -> dict[str, Any]:
    """Return what a command returned as an object of JSON types; NaN and infinity become null."""
    if isinstance(result, Tables):
        return dict(_plain(result.kinds))
    if isinstance(result, list):
        return {"entries": _plain(result)}
    if isinstance(result, Diagnosis):
        return {"healthy": result.healthy, **_plain(result)}
    if isinstance(result, Page):
        return {"url": result.url}
    if isinstance(result, Shown):
        return dict(_plain(result)) | {"examples": [_example(each) for each in result.examples]}
    if isinstance(result, Outcome):
        return _outcome(result)
    if isinstance(result, Mapping) and _is_run(result):
        return {"steps": {name: _outcome(each) for name, each in result.items()}}
    return {} if result is None else dict(_plain(result))


def _is_run(result: Mapping[str, Any]) -> bool:
    return bool(result) and all(isinstance(each, Outcome) for each in result.values())


def _example(example: ExampleView) -> dict[str, Any]:
    """Return one example of `show`, its losses in nats: of the example per scored token, of a piece summed."""
    seen = _plain(example)
    both = zip(seen.pop("pieces"), example.pieces, strict=True)
    pieces = [piece | {"learned": _plain(each.learned)} for piece, each in both]
    means = {"loss_before": _plain(example.mean("before")), "loss_after": _plain(example.mean("after"))}
    return {**seen, **means, "pieces": pieces}


def _outcome(outcome: Outcome) -> dict[str, Any]:
    shown: dict[str, Any] = {"command": outcome.verb, "ran": outcome.ran, "facts": _plain(outcome.facts)}
    if "would run" in outcome.facts:
        return shown | {"price": _plain(outcome.price)}
    shown |= {"folder": str(outcome.folder), "identity": outcome.identity, "inputs": dict(outcome.inputs)}
    shown |= {"links": _plain(outcome.links), "cost": _plain(outcome.cost)}
    table = outcome.folder / "table.parquet"
    if _is_contest(outcome) and table.is_file():
        shown["table"] = _plain(pl.read_parquet(table).to_dicts())
    return shown


def _plain(value: Any) -> Any:
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value, inf_nan_mode="null", fallback=str)


def write_json(result: Any, *, text: str = "") -> None:
    """Print one JSON document with a line end: what a command returned, and the text that it printed itself."""
    said = document(result) | ({"text": text} if text else {})
    # A page is served after its document: who started it reads one line, and does not wait for the end of the output.
    spaces = None if isinstance(result, Page) else 2
    sys.stdout.write(json.dumps(said, ensure_ascii=False, allow_nan=False, indent=spaces) + "\n")


def _show_tables(tables: Tables) -> None:
    """Print a table of each kind; where it would not fit, or is piped, in a form that stays readable."""
    console = Console(highlight=False)
    piped = not console.is_terminal
    for kind, entries in tables.kinds.items():
        console.print(Text(kind, style="bold"))
        if piped:
            console = Console(highlight=False, width=10_000)  # one line for each, for grep
        if piped or console.width >= NARROW:
            console.print(_overview(entries, one_line=piped))
        else:
            for entry in entries:
                console.print(Text(entry.name, style="bold"))
                needs = [f"needs: {', '.join(entry.needs)}"] if entry.needs else []
                for text in filter(None, (entry.about, *needs, f"costs: {entry.costs}")):
                    _print_indented(console, text, 2)
        console.print()
    console.print(Text("more about one of them: learnable list NAME"))


def _overview(entries: Sequence[Entry], *, one_line: bool) -> Table:
    table = Table(
        box=None if one_line else box.SIMPLE_HEAD, pad_edge=False, show_edge=False, expand=not one_line
    )
    table.add_column("name", no_wrap=True, style="bold")
    for column, ratio in (("what it does", 3), ("needs", 2), ("costs", 2)):
        table.add_column(column, no_wrap=one_line, overflow="fold", ratio=None if one_line else ratio)
    for entry in entries:
        table.add_row(*map(Text, (entry.name, entry.about, ", ".join(entry.needs) or "-", entry.costs)))
    return table


def _show_details(entries: Sequence[Entry]) -> None:
    """Print all about one name: what it does, needs and costs, how it is written, and its settings."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=100)
    for entry in entries:
        article = "an" if entry.kind[0] in "aeiou" else "a"
        console.print(Text.assemble((entry.name, "bold"), f", {article} {entry.kind}"))
        more = entry.more if entry.more.startswith(entry.about) else f"{entry.about}\n\n{entry.more}".strip()
        console.print(Text(f"\n{more}\n"))
        for name in ("needs", "costs", "usage", "source"):
            value = getattr(entry, name)
            if value:
                _print_indented(
                    console, f"{name}: {value if isinstance(value, str) else ', '.join(value)}", 0
                )
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


def _show_outcome(console: Console, outcome: Outcome) -> None:
    if "would run" in outcome.facts:
        _show_facts(console, outcome.facts)
        return
    if _is_contest(outcome):
        _show_contest(console, outcome)
        console.print(f"write its page: learnable report {outcome.folder}")
        return
    if not outcome.ran:
        console.print("was done already")
    _show_facts(console, {name: value for name, value in outcome.facts.items() if name not in WRITTEN})
    for line in _selected(outcome) if outcome.verb == "select" else ():
        console.print(line)
    console.print(f"folder: {outcome.folder}")
    if outcome.verb == "load" and "pairs" not in outcome.facts:
        console.print(f"go on with it: learnable score {outcome.folder} --model M")


def _show_facts(console: Console, facts: Mapping[str, Any]) -> None:
    for name, value in facts.items():
        if name == "warnings":
            for warning in value:
                console.print(f"warning: {warning}")
        elif value not in (None, [], {}, "") and value is not False:
            console.print(f"{name}: {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _show_contest(console: Console, outcome: Outcome, *, warned: bool = False) -> None:
    """Print the table of a comparison, a lesson or a recipe's arms, and what must be known to read it, where no page warns of it."""
    facts, arms = outcome.facts, outcome.verb not in ("compare", "prefer")
    merged = outcome.verb == "run merge"
    who, baseline = "arm" if arms else "method", facts.get("baseline", "random")
    if not outcome.ran:
        console.print("was done already")
    if outcome.verb == "run ado":
        _show_mixtures(console, outcome.folder / "mixtures.parquet")
    table = pl.read_parquet(outcome.folder / "table.parquet")
    for part in table.partition_by("evaluation", maintain_order=True):
        higher, items = bool(part["higher_is_better"][0]), max(part["items"])
        better = f"{'higher' if higher else 'lower'} is better"
        order = part.sort("budget_tokens", "value", descending=[False, higher], nulls_last=True)
        _print_table(
            console,
            f"{part['evaluation'][0]} ({part['unit'][0]}, {better}, {items:,} items)",
            (who, "tokens", "value", f"difference to {baseline}", "verdict"),
            [
                (
                    row[who],
                    f"{row['tokens']:,.0f}",
                    _number(row["value"]),
                    _difference(row),
                    row["verdict"] or "",
                )
                for row in order.iter_rows(named=True)
            ],
        )
    sure = f"of an evaluation together ({facts['confidence']:.0%})"
    for finding in facts.get("findings", ()):
        console.print(finding)
    notes = [f"note: {note}" for note in facts.get("notes", ())]
    if merged:
        console.print(
            f"{facts['trainings']} trainings in {facts['orders']} orders; intervals hold for all arms {sure}"
        )
        for name in (name for name in facts if name.startswith("slope")):
            console.print(f"{name}: {facts[name]}")
    elif arms:
        trainings = pl.read_parquet(outcome.folder / "arms.parquet").filter(pl.col("tokens") > 0).height
        console.print(
            f"{trainings} trainings, {facts['seeds']} of each arm; intervals hold for all arms {sure}"
        )
    else:
        both = f"{facts['in both']:,} evaluation items stand in the pool too"
        notes += [f"warning: {both}: see overlap.parquet"] if facts["in both"] else []
        seeds = f"{facts['seeds']} seed{'' if facts['seeds'] == 1 else 's'} each"
        console.print(f"{facts['trainings']} trainings, {seeds}; intervals hold for all methods {sure}")
    for note in [] if warned else notes:
        console.print(note)
    if arms:
        console.print(f"model: {outcome.folder / 'model'} ({facts['kept model']}, seed 0)")
    console.print(f"folder: {outcome.folder}")


def _show_mixtures(console: Console, file: Path) -> None:
    """Print the share of the tokens that each mixture gave to the largest sources."""
    if not file.is_file():  # a run of an earlier version
        return
    mixtures = pl.read_parquet(file)
    rows = [(source, *(f"{share:.1%}" for share in own)) for source, *own in mixtures.iter_rows()]
    title = "share of the tokens by source (means over steps and seeds)"
    _print_table(console, title, mixtures.columns, rows[:SOURCES_SAID])
    if more := len(rows) - min(len(rows), SOURCES_SAID):
        console.print(f"and {more:,} more: {file}")


def _number(value: float | None) -> str:
    """Return a value of a table; nothing where nothing could be graded."""
    return "" if value is None or math.isnan(value) else f"{value:.4f}"


def _difference(row: Mapping[str, Any]) -> str:
    if not _number(row["difference"]):
        return ""
    bounds = f" ({row['low']:+.4f} to {row['high']:+.4f})" if math.isfinite(row["low"]) else ""
    return f"{row['difference']:+.4f}{bounds}"


def _print_table(console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table of numbers, with words in its first column and its last, if that is the verdict."""
    table = Table(title=Text(title), title_justify="left")
    lines = list(rows)
    whole = max((len(line[0]) for line in lines), default=0) <= WHOLE_NAME
    for place, column in enumerate(columns):
        words, kept = place == 0 or column == "verdict", place == 0 and whole
        table.add_column(Text(column), justify="left" if words else "right", overflow="fold", no_wrap=kept)
    for line in lines:
        table.add_row(*map(Text, line))
    console.print(table)


def _show_run(console: Console, outcomes: Mapping[str, Outcome]) -> None:
    prices = [outcome.price for outcome in outcomes.values() if outcome.price is not None]
    if prices:
        _show_facts(console, {"altogether": sum(prices, Price()).words or "no pass"})
        return
    by_verb = {outcome.verb: outcome for outcome in outcomes.values()}
    contest = next((each for each in outcomes.values() if _is_contest(each)), None)
    outcome = contest or by_verb.get("select")
    if outcome is None or "report" not in by_verb:
        _show_figures(console, by_verb)
        return
    reported = by_verb["report"].facts
    if contest:
        _show_contest(console, outcome, warned=bool(reported["warnings"]))
    else:
        if not any(each.ran for each in outcomes.values()):
            console.print("nothing to do: every step was done already")
        _print_selection(console, outcome.facts)
    for warning in reported["warnings"]:
        console.print(f"warning: {warning}")
    chosen = by_verb.get("select")
    for line in _selected(chosen) if chosen is not None else ():
        console.print(line)
    for name, each in outcomes.items():
        if each.verb == "report":
            console.print(f"{name}: {each.facts['report']}")
    if chosen is not None:
        console.print(f"look around: learnable explore {chosen.folder}")


def _show_figures(console: Console, by_verb: Mapping[str, Outcome]) -> None:
    """Print what a recipe came to whose figures are too few for a page."""
    if "run rft" in by_verb:
        _show_outcome(console, by_verb["run rft"])
    if "suspects" in by_verb:
        found = by_verb["suspects"]
        facts = found.facts
        title = (
            f"{facts['suspects']:,} of {facts['rows']:,} rows look wrong; {facts['sure']:,} are in bans.txt"
        )
        lines = [(name, f"{number:,}") for name, number in facts["by check"].items()]
        _print_table(console, title, ("check", "suspects"), lines)
        for name, file in SUSPECTS.items():
            console.print(f"{name}: {found.folder / file}")
        if facts["sure"]:
            console.print(f"write all other rows: {facts['next']}")
        if again := by_verb["load"].facts["duplicates"]:
            where = by_verb["load"].folder / "rows.parquet"
            console.print(
                f"{again:,} more {'row repeats' if again == 1 else 'rows repeat'} another to the letter: {where}"
            )


def _selected(outcome: Outcome) -> Iterator[str]:
    written = outcome.facts["written"]
    if len(written) > FILES_SAID:
        written = [f"{Path(written[0]).parent} ({len(written):,} files)"]
    yield from (f"selected rows: {outcome.folder / path}" for path in written)
    if (dropped := outcome.folder / DROPPED).is_file():
        yield f"rows left out, each with its reason: {dropped}"
    yield from (f"exported: {outcome.folder / path}" for path in outcome.facts.get("exported", ()))


def _print_selection(console: Console, facts: Mapping[str, Any]) -> None:
    rows = []
    for label, count, tokens, mean in (
        ("pool", "pool", "pool_tokens", "mean_pool"),
        ("selection", "kept", "kept_tokens", "mean_kept"),
    ):
        counted = "" if facts[tokens] is None else f"{facts[tokens]:,}"
        shown = "undefined" if facts[mean] is None else f"{facts[mean]:.4f}"
        rows.append((label, f"{facts[count]:,}", counted, shown))
    columns = ("", "examples", "tokens", f"mean {facts.get('mean_of', facts['by'])}")
    _print_table(console, f"{facts['by']}, budget {facts['budget']}", columns, rows)
