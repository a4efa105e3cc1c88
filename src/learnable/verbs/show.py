"""``learnable show``: what the model will see, which tokens count, and what it loses and learns on each."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import polars as pl
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from learnable import data as rows
from learnable.errors import DataError, UsageError
from learnable.reporting.tokens import By, Piece, TokenView, runs, scale, step
from learnable.store import Store
from learnable.types import Example, Loading, ModelRef, Reading
from learnable.verbs.inputs import length_limit, reference_identity, reference_models
from learnable.verbs.options import Flat
from learnable.verbs.token_losses import TokenLosses

if TYPE_CHECKING:
    from learnable.model import Renderer

STYLES = {"masked": "dim", "scored": "black on green", "cut": "red strike"}
NAMES = {"masked": "masked", "scored": "scored", "cut": "truncated"}
MARKS = {"masked": ("", ""), "scored": ("⟦", "⟧"), "cut": ("✂⟨", "⟩")}

# Text and background together, from grey to a strong colour: dark and light terminals show the same, and on both the
# higher step stands out more.
LOSS_STYLES = (
    "default",
    "#000000 on #c2ab92",
    "#000000 on #d6a05c",
    "#000000 on #e5862b",
    "#ffffff on #c2410c",
    "#ffffff on #9f1239",
)
LEARNED_STYLES = (
    "default",
    "#000000 on #8fbcc2",
    "#000000 on #56a8bd",
    "#ffffff on #0e7490",
    "#ffffff on #1e40af",
)
TITLES: dict[By, str] = {
    "before": "loss before, in nats",
    "after": "loss after, in nats",
    "learned": "learned, before minus after; below 0 it got worse",
}
TOKEN_CELLS = 24


def show(
    data: list[str],
    *,
    model: str = "starter",
    reference: str | None = None,
    losses: bool = False,
    n: int = 3,
    id: str | None = None,
    loading: Annotated[Loading, Flat] = Loading(),
    reading: Annotated[Reading, Flat] = Reading(),
    max_length: int | None = None,
    store: str = "runs/store",
) -> None:
    """Print examples as the model sees them: which tokens are scored, or what the model loses and learns on each.

    Without `--losses` or `--reference` it needs the tokenizer only. Where colours cannot be shown, scored tokens stand
    in ⟦ ⟧ and cut-off ones in ✂⟨ ⟩, and losses in a table with a line for each token.

    Args:
        data: Files, or a folder that `learnable load` wrote.
        model: Folder, hub id, GGUF file, or `starter`.
        reference: Folder that `learnable train` wrote, or a fine-tuned model or LoRA adapter of your own: show the loss
            of each token before and after, and what was learned.
        losses: Show the loss of each token under the model.
        n: How many examples.
        id: Show the examples whose id begins with this instead of the first ones.
        loading: How to load the model.
        reading: How to read rows.
        max_length: Longest example in tokens; 2,048 or the model's own limit when not given.
        store: Folder of measurements; what is in it is never measured twice.
    """
    ref = ModelRef(name=model, **asdict(loading))
    longest = length_limit(ref, max_length)
    wanted = _wanted(data, reading, id=id, n=n)
    # Plain when piped, and where colours were turned off: nothing may hang on a colour that nobody sees.
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    coloured = console.is_terminal and console.color_system is not None and not console.no_color
    if losses or reference is not None:
        measured = _measured(ref, reference, loading, wanted, longest, Store(Path(store)))
        _print_losses(console, wanted, measured, coloured=coloured)
        return
    from learnable.model import Renderer

    renderer = Renderer.of(ref)
    legend = Text.assemble(*((f" {NAMES[kind]} ", style) for kind, style in STYLES.items()))
    console.print(legend if coloured else "⟦scored⟧ ✂⟨truncated⟩", "tokens; the rest is masked\n")
    for example in wanted:
        _print(console, renderer, example, longest, coloured=coloured)


def _wanted(data: list[str], reading: Reading, *, id: str | None, n: int) -> list[Example]:
    """Return the first n examples, or those whose id begins so.

    Raises:
        UsageError: If n is below 1.
        DataError: If there are none.
    """
    if n < 1:
        raise UsageError(f"n must be at least 1, got {n}")
    pool = rows.read(
        data, format=reading.format, on_error=reading.on_error, source_column=reading.source_column
    )
    chosen = pool.examples if id is None else pool.examples.filter(pl.col("id").str.starts_with(id))
    wanted = list(replace(pool, examples=chosen.head(n)).iter_examples())
    if not wanted and id is not None:
        raise DataError(
            f"no example has an id that begins with {id!r}",
            hint="ids stand in scores.parquet and dropped.jsonl",
        )
    return wanted


def _measured(
    ref: ModelRef,
    reference: str | None,
    loading: Loading,
    examples: Sequence[Example],
    max_length: int,
    store: Store,
) -> list[TokenView]:
    from learnable.model.source import identify

    references = None
    if reference is not None:
        reference_identity(reference, loading, identify(ref))  # says so where it belongs to another base
        references = reference_models(reference, loading)
    return TokenLosses(ref, references, max_length=max_length, store=store).views(examples)


def _print(
    console: Console, renderer: "Renderer", example: Example, max_length: int, *, coloured: bool
) -> None:
    (whole,) = renderer.render([example], max_length=sys.maxsize)
    kinds = [
        "cut" if i >= max_length else "scored" if counts else "masked" for i, counts in enumerate(whole.mask)
    ]
    scored, cut = kinds.count("scored"), kinds.count("cut")
    console.print(
        Text(
            f"── {example.id[:12]} from {example.source}: {len(kinds)} tokens, {scored} scored", style="bold"
        )
        + Text(f", {cut} cut off at {max_length}" if cut else "")
    )
    text = Text()
    for kind, run in groupby(range(len(kinds)), key=lambda position: kinds[position]):
        piece = renderer.decode(whole.ids[list(run)])
        opening, closing = ("", "") if coloured else MARKS[kind]
        text.append(f"{opening}{piece}{closing}", style=STYLES[kind])
    console.print(text)
    console.print()


# ---------------------------------------------------------------- losses


def _print_losses(
    console: Console, examples: Sequence[Example], views: Sequence[TokenView], *, coloured: bool
) -> None:
    for example, view in zip(examples, views, strict=True):
        shown: list[By] = ["before", "after", "learned"] if view.compares else ["before"]
        console.print(Text(f"── {_heading(example, view)}", style="bold"))
        if not coloured:
            console.print(Text(_table(view, shown)))
            continue
        for by in shown:
            console.print(Text(TITLES[by], style="bold"))
            console.print(_legend(by))
            console.print(_coloured(view, by, whole=by == shown[0]))
            console.print()


def _heading(example: Example, view: TokenView) -> str:
    scored = sum(piece.tokens for piece in view.scored)
    cut = sum(piece.tokens for piece in view.pieces if piece.kind == "cut")
    parts = [f"{example.id[:12]} from {example.source}: {scored} scored tokens"]
    if cut:
        parts.append(f"{cut} cut off")
    if (before := view.mean("before")) is not None:
        after = view.mean("after")
        parts.append(f"loss {before:.3f}{'' if after is None else f' → {after:.3f}'} nats per token")
    return ", ".join(parts)


def _style(number: int, by: By) -> str:
    if by == "learned" and number >= 0:
        return LEARNED_STYLES[number]
    return LOSS_STYLES[abs(number)] + (" underline" if number < 0 else "")


def _legend(by: By) -> Text:
    legend = Text()
    for number, words in scale(by):
        legend.append(f" {words} ", style=_style(number, by)).append(" ")
    return legend


def _coloured(view: TokenView, by: By, *, whole: bool) -> Text:
    """Return an example with its scored tokens coloured; where ``whole`` is False, without the text between answers."""
    text = Text()
    for kind, run in runs(view.pieces):
        if kind != "scored":
            between = "".join(piece.text for piece in run)
            text.append(between if whole else " … " if text else "", style=STYLES[kind])
            continue
        for piece in run:
            # A line end has no background of its own, and is often where a model is surest or most surprised.
            text.append(piece.text.replace("\n", "↵\n"), style=_style(step(piece.nats(by), by), by))
    text.rstrip()
    if not whole and text.plain.endswith(" …"):
        text.right_crop(2)
    return text


def _table(view: TokenView, shown: Sequence[By]) -> str:
    """Return a line for each scored token: as a JSON string, then its figures, which stand last for tools."""
    names = [json.dumps(piece.text, ensure_ascii=False) for piece in view.scored]
    width = max([len("token"), *(cell_len(name) for name in names if cell_len(name) <= TOKEN_CELLS)])
    lines = [_line("token", shown, width)]
    for name, piece in zip(names, view.scored, strict=True):
        lines.append(_line(name, [_number(piece, by) for by in shown], width))
    return "\n".join([*lines, ""])


def _number(piece: Piece, by: By) -> str:
    nats = piece.nats(by)
    return "-" if nats is None else f"{nats:.3f}"


def _line(name: str, cells: Sequence[str], width: int) -> str:
    return name + " " * max(0, width - cell_len(name)) + "".join(f"  {cell:>7}" for cell in cells)
