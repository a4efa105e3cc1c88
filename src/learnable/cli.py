"""The ``learnable`` command: verbs to commands, results to standard output, errors to one line and a hint."""

import os
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import polars as pl
from cyclopts import App, CycloptsError, Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from learnable import __version__, recipe, verbs
from learnable.comparing import ALIASES, WITHOUT_BUDGET
from learnable.data import FORMATS
from learnable.diversifying import DIVERSIFIERS
from learnable.errors import LearnableError, UsageError, did_you_mean
from learnable.evaluating import EVALUATORS
from learnable.mixing import MIXTURES
from learnable.scorers import SCORERS
from learnable.selectors import SELECTORS
from learnable.steps import Outcome
from learnable.types import Budget

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130

app = App(
    name="learnable",
    help="Choose the fine-tuning data that your language model can learn. Start with: learnable run lobass",
    version=__version__,
    help_format="markdown",
    default_parameter=Parameter(negative_iterable=()),
    suppress_keyboard_interrupt=False,
)
for verb in (
    verbs.load,
    verbs.show,
    verbs.diversify,
    verbs.train,
    verbs.score,
    verbs.select,
    verbs.evaluate,
    verbs.compare,
    verbs.teach,
    verbs.report,
):
    app.command(verb)


@app.command
def run(
    name: Annotated[str, Parameter(name="recipe")],
    *settings: str,
    dry_run: bool = False,
    output: Annotated[str, Parameter(alias="-o")] = "runs",
) -> dict[str, Outcome]:
    """Run a recipe: all its steps, skipping what is done.

    A second run of the same command does nothing; an interrupted one goes on where it was. Examples:

    `learnable run lobass`

    `learnable run lobass data=my.jsonl model=Qwen/Qwen3-0.6B budget=6%`

    `learnable run lobass data=a.jsonl data=b.parquet budget.tokens=2000000 reference.folds=2 select.per_source=equal`

    Args:
        name: Name of a recipe (see `learnable list`), or a YAML file such as a run's recipe.yaml.
        settings: Parameters as name=value; dots go into nested ones; a name given again makes a list.
        dry_run: Say what would run and what it costs, and run nothing.
        output: Folder of all runs.
    """
    chosen = recipe.override(recipe.find(name), settings)
    return recipe.run(chosen, root=Path(output), dry_run=dry_run)


@app.command(name="list")
def listing() -> None:
    """List recipes with their parameters, and all methods by name."""
    console = Console(soft_wrap=True, highlight=False)
    for each in recipe.shipped().values():
        console.print(f"recipe {each.name}: {each.about}")
        for name, value in each.parameters.items():
            console.print(f"    {name} = {value}")
    tables: dict[str, Mapping[str, Any]] = {
        "scorers": SCORERS,
        "selectors": SELECTORS,
        "diversifiers": DIVERSIFIERS,
        "evaluators": EVALUATORS,
    }
    for title, table in tables.items():
        console.print(f"\n{title}")
        for name, method in table.items():
            console.print(f"    {name}: {_about(method)}", markup=False)
    console.print("\nmethods of a comparison: a scorer or a selector, and")
    for name in (*ALIASES, *WITHOUT_BUDGET):
        console.print(f"    {name}")
    console.print("\nways to train on a task")
    for name, (_, about) in MIXTURES.items():
        console.print(f"    {name}: {about}", markup=False)
    console.print(f"\nformats\n    {', '.join(FORMATS)}")


def _about(method: Any) -> str:
    """Return the first line of a method's docstring, and what it needs."""
    notes = []
    if hasattr(method, "needs"):
        notes.append(f"needs {', '.join(method.needs)}")
    if not getattr(method, "higher_is_better", True) and hasattr(method, "needs"):
        notes.append("the lowest are kept")
    if getattr(method, "needs_generator", True) is False:
        notes.append("rules alone")
    if getattr(method, "needs_vectors", False):
        notes.append("needs vectors")
    if hasattr(method, "unit"):
        notes.append(method.unit)
    return (method.__doc__ or "").splitlines()[0] + (f" [{'; '.join(notes)}]" if notes else "")


def main() -> None:
    """Run the command line and exit with its code."""
    sys.path.append(
        ""
    )  # module:attribute finds code in the folder one works in, but never before what is installed
    sys.exit(call(sys.argv[1:]))


def call(words: Sequence[str]) -> int:
    """Run one command line and return its exit code: 0 done, 1 our error, 2 usage."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    # PEFT 0.21 asks transformers 5.23 for a property under its old name.
    warnings.filterwarnings(
        "ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning
    )
    words, debug = [word for word in words if word != "--debug"], "--debug" in words
    try:
        result = app(_joined(words), exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        return _fail(
            UsageError(str(error), hint="learnable --help, or learnable COMMAND --help"), debug=debug
        )
    except LearnableError as error:
        return _fail(error, debug=debug)
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on from here\n")
        return INTERRUPTED
    _show(result)
    return DONE


def _joined(words: Sequence[str]) -> list[str]:
    """Return the words with ``--budget.tokens 500`` as ``--budget 500tokens``, the form recipes write nested."""
    joined: list[str] = []
    rest = list(words)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        kind = flag.removeprefix("--budget.")
        if flag == kind or (not equals and not rest):
            joined.append(f"{flag}{equals}{value}")
            continue
        joined += ["--budget", _budget(kind, value if equals else rest.pop(0))]
        while rest and rest[0][:1].isdigit():  # several budgets after one flag
            joined += ["--budget", _budget(kind, rest.pop(0))]
    return joined


def _budget(kind: str, value: str) -> str:
    numbers = {"tokens": int, "examples": int, "fraction": float}
    if kind not in numbers:
        raise UsageError(f"budget has no setting {kind!r}", hint=did_you_mean(kind, numbers))
    try:
        return str(Budget(**{kind: numbers[kind](value)}))
    except ValueError as error:
        raise UsageError(
            f"--budget.{kind} {value}: {error}", hint="for example --budget.tokens 50000"
        ) from error


def _fail(error: LearnableError, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    else:
        sys.stderr.write(f"error: {error}\n")
    return MISUSED if isinstance(error, UsageError) else FAILED


def _show(result: Any) -> None:
    if isinstance(result, dict):
        _show_run(result)
    elif isinstance(result, Outcome) and result.verb in _CONTESTS and "would run" not in result.facts:
        _CONTESTS[result.verb](result)
    elif isinstance(result, Outcome):
        console = Console(soft_wrap=True, highlight=False)
        planned = "would run" in result.facts
        if not result.ran and not planned:
            console.print("was done already")
        for name, value in result.facts.items():
            if value not in (None, [], ""):
                console.print(f"{name}: {_shown(value)}", markup=False)
        if not planned:
            console.print(f"folder: {result.folder}", markup=False)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return (
        f"{value:,}"
        if isinstance(value, int) and value is not True
        else f"{value:.4g}"
        if isinstance(value, float)
        else str(value)
    )


def _show_comparison(outcome: Outcome, warnings: Sequence[str] = ()) -> None:
    """Print the table of a comparison: each method's value and its difference to a random draw, in words."""
    console, facts = Console(soft_wrap=True, highlight=False), outcome.facts
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
    console, facts = Console(soft_wrap=True, highlight=False), outcome.facts
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
            shown.add_column(Text(column), justify="left" if column in (who, "verdict") else "right")
        order = {**({first: False} if first else {}), "value": higher}
        for row in part.sort(*order, descending=list(order.values()), nulls_last=True).iter_rows(named=True):
            against = (
                ""
                if row["difference"] is None
                else f"{row['difference']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})"
            )
            shown.add_row(
                Text(row[who]),
                f"{row['tokens']:,.0f}",
                f"{row['value']:.4f}",
                against,
                row["verdict"] or "",
            )
        console.print(shown)


_CONTESTS = {"compare": _show_comparison, "teach": _show_lesson}


def _show_run(outcomes: dict[str, Outcome]) -> None:
    by_verb = {outcome.verb: outcome for outcome in outcomes.values()}
    contest = next((verb for verb in _CONTESTS if verb in by_verb), None)
    if contest and "report" in by_verb:
        console, reported = Console(soft_wrap=True, highlight=False), by_verb["report"].facts
        _CONTESTS[contest](by_verb[contest], reported["warnings"])
        for warning in reported["warnings"]:
            console.print(f"warning: {warning}", markup=False)
        console.print(f"report: {reported['report']}", markup=False)
        return
    if "select" not in by_verb or "report" not in by_verb:
        return
    console = Console(soft_wrap=True, highlight=False)
    if not any(outcome.ran for outcome in outcomes.values()):
        console.print("nothing to do: every step was done already")
    chosen = by_verb["select"].facts
    table = Table(title=f"{chosen['by']}, budget {chosen['budget']}", title_justify="left")
    for column in ("", "examples", "tokens", f"mean {chosen['by']}"):
        table.add_column(column, justify="left" if not column else "right")
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
    for written in chosen["written"]:
        console.print(f"selected rows: {by_verb['select'].folder / written}", markup=False)
    console.print(f"report: {by_verb['report'].facts['report']}", markup=False)
