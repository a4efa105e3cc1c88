"""``learnable show``: what the model will see, which tokens count, and what it loses and learns on each."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import Annotated, Literal

import polars as pl
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from learnable import data as rows
from learnable.commands.inputs import look_up
from learnable.commands.options import Data, Flat, MaxLength, ModelName, StoreFolder
from learnable.deferred import models
from learnable.errors import DataError, UsageError
from learnable.objects.given import compared_with, length_limit, pinned, say_left_out
from learnable.objects.passes import Passes
from learnable.pages.tokens import By, Kind, Piece, TokenView, runs, scale, step
from learnable.runs.store import Store
from learnable.settings import Loading, Reading
from learnable.types import Example, ModelRef, Rendered
from learnable.visible import visible

STYLES = {"masked": "dim", "scored": "black on green", "cut": "red strike"}
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


@dataclass(frozen=True, kw_only=True)
class ExampleView(TokenView):
    """One example as the model sees it; its pieces are single tokens where losses were asked for, else runs of a kind.

    Of a preference pair each ``side`` is one, with the id of the pair. ``tokens`` are those of the whole conversation, ``cut_tokens`` those beyond the length limit, and
    ``response_tokens`` those within it that the loss counts.
    """

    source: str
    tokens: int
    response_tokens: int
    cut_tokens: int
    side: Literal["chosen", "rejected"] | None = None

    @property
    def counts(self) -> str:
        """How many tokens it has, in words."""
        side = f"{self.side} " if self.side else ""
        return f"{side}{self.tokens} tokens, {self.response_tokens} scored"


@dataclass(frozen=True, kw_only=True, repr=False)
class Shown:
    """What `show` shows; its text form is what the command prints where there are no colours."""

    model: str
    reference: str | None
    losses: bool
    max_length: int
    examples: tuple[ExampleView, ...]

    def __repr__(self) -> str:
        text = StringIO()
        self.print_to(
            Console(file=text, highlight=False, soft_wrap=True, force_terminal=False, color_system=None)
        )
        return text.getvalue()

    def print_to(self, console: Console) -> None:
        """Print it for people."""
        # Plain when piped, and where colours were turned off: nothing may hang on a colour that nobody sees.
        coloured = console.is_terminal and console.color_system is not None and not console.no_color
        if self.losses:
            for example in self.examples:
                _print_losses(console, example, coloured=coloured)
            return
        legend = Text.assemble(
            *((f" {'truncated' if kind == 'cut' else kind} ", style) for kind, style in STYLES.items())
        )
        console.print(legend if coloured else "⟦scored⟧ ✂⟨truncated⟩", "tokens; the rest is masked\n")
        views = iter(self.examples)
        for example in views:
            sides = (example, next(views)) if example.side else (example,)
            _print(console, sides, self.max_length, coloured=coloured)


def show(
    data: Data,
    *,
    model: ModelName = "starter",
    reference: str | None = None,
    losses: bool = False,
    n: int = 3,
    id: str | None = None,
    loading: Annotated[Loading, Flat] = Loading(),
    reading: Annotated[Reading, Flat] = Reading(),
    max_length: MaxLength = None,
    store: StoreFolder = "runs/store",
) -> Shown:
    """Print examples as the model sees them: which tokens are scored, or what the model loses and learns on each.

    Of preference pairs both answers are shown, side by side.

    Without `--losses` or `--reference` it needs the tokenizer only. Where colours cannot be shown, scored tokens stand
    in ⟦ ⟧ and cut-off ones in ✂⟨ ⟩, and losses in a table with a line for each token.

    Args:
        reference: Folder that `learnable train` wrote, or a fine-tuned model or LoRA adapter of your own: show the loss
            of each token before and after, and what was learned.
        losses: Show the loss of each token under the model.
        n: How many examples or pairs.
        id: Show those whose id begins with this instead of the first ones.

    Returns:
        The examples in pieces. In Python nothing is printed; ``print`` it, or leave it last in a notebook's cell.
    """
    ref = ModelRef(name=model, **asdict(loading))
    longest = length_limit(ref, max_length)
    look_up(reference, loading, reference=True)
    named = _wanted(data, reading, id=id, n=n)
    wanted = [example for _, _, example in named]
    measured = losses or reference is not None
    if measured:
        ref = pinned(ref)
        references = None if reference is None else compared_with(reference, ref).models
        passes = Passes(ref, references, max_length=longest, store=Store(Path(store)))
        whole = passes.renderer.render(wanted, max_length=sys.maxsize)
        pieces = [view.pieces for view in passes.views(wanted)]
    else:
        renderer = models.Renderer.of(ref)
        whole = renderer.render(wanted, max_length=sys.maxsize)
        pieces = [_runs(renderer, each, longest) for each in whole]
    say_left_out(models.answers.left_out(whole))
    views = tuple(
        ExampleView(
            id=own,
            side=side,
            source=example.source,
            tokens=len(seen.ids),
            response_tokens=int(seen.mask[:longest].sum()),
            cut_tokens=max(0, len(seen.ids) - longest),
            pieces=parts,
        )
        for (own, side, example), seen, parts in zip(named, whole, pieces, strict=True)
    )
    return Shown(model=model, reference=reference, losses=measured, max_length=longest, examples=views)


_Named = tuple[str, Literal["chosen", "rejected"] | None, Example]


def _wanted(data: list[str], reading: Reading, *, id: str | None, n: int) -> list[_Named]:
    """Return the first n examples, or both sides of pairs, or those whose id begins so, with their ids."""
    if n < 1:
        raise UsageError(f"n must be at least 1, got {n}")
    pool = rows.read(data, **asdict(reading))
    found = pool.conversations
    chosen = found if id is None else found.filter(pl.col("id").str.starts_with(id))
    pool = replace(pool, conversations=chosen.head(n).collect().lazy())
    wanted: list[_Named]
    if pool.holds_pairs:
        sides = [(pair.id, *rows.answers_of(pair)) for pair in rows.pairs_of(pool)]
        wanted = [each for own, one, two in sides for each in ((own, "chosen", one), (own, "rejected", two))]
    else:
        wanted = [(example.id, None, example) for example in pool.iter_examples()]
    if not wanted and id is not None:
        raise DataError(
            f"no example has an id that begins with {id!r}",
            hint="ids stand in scores.parquet and dropped.jsonl",
        )
    return wanted


def _runs(renderer: "models.Renderer", whole: Rendered, max_length: int) -> tuple[Piece, ...]:
    """Return an example as runs of tokens of one kind."""
    kinds: list[Kind] = ["scored" if counts else "masked" for counts in whole.mask[:max_length]]
    kinds += ["cut"] * (len(whole.ids) - len(kinds))
    pieces = []
    for kind, run in groupby(range(len(kinds)), key=lambda at: kinds[at]):
        tokens = list(run)
        pieces.append(Piece(text=renderer.decode(whole.ids[tokens]), kind=kind, tokens=len(tokens)))
    return tuple(pieces)


def _print(console: Console, sides: Sequence[ExampleView], max_length: int, *, coloured: bool) -> None:
    """Print an example; or a pair, whose sides stand side by side under the beginning that they share."""
    counts = [
        f"{each.counts}{f', {each.cut_tokens} cut off at {max_length}' if each.cut_tokens else ''}"
        for each in sides
    ]
    first = sides[0]
    console.print(Text(f"── {first.id[:12]} from {visible(first.source)}: {'; '.join(counts)}", style="bold"))
    if len(sides) == 1:
        console.print(_marked(first.pieces, coloured=coloured))
    else:
        # What is not scored before both answers: their prompt.
        beginning = int(len({each.pieces[:1] for each in sides}) == 1)
        console.print(_marked(first.pieces[:beginning], coloured=coloured))
        table = Table(*(str(each.side) for each in sides), box=box.SIMPLE_HEAD)
        table.add_row(*(_marked(each.pieces[beginning:], coloured=coloured) for each in sides))
        console.print(table, soft_wrap=False)
    console.print()


def _marked(pieces: Sequence[Piece], *, coloured: bool) -> Text:
    text = Text()
    for piece in pieces:
        opening, closing = ("", "") if coloured else MARKS[piece.kind]
        text.append(f"{opening}{visible(piece.text)}{closing}", style=STYLES[piece.kind])
    return text


def _print_losses(console: Console, example: ExampleView, *, coloured: bool) -> None:
    side = f" {example.side}" if example.side else ""
    said = [
        f"{example.id[:12]}{side} from {visible(example.source)}: {example.response_tokens} scored tokens"
    ]
    if example.cut_tokens:
        said.append(f"{example.cut_tokens} cut off")
    if (before := example.mean("before")) is not None:
        after = example.mean("after")
        said.append(f"loss {before:.3f}{'' if after is None else f' → {after:.3f}'} nats per token")
    console.print(Text(f"── {', '.join(said)}", style="bold"))
    shown: list[By] = ["before", "after", "learned"] if example.compares else ["before"]
    if not coloured:
        console.print(Text(_table(example, shown)))
        return
    for by in shown:
        legend = Text()
        for number, words in scale(by):
            legend.append(f" {words} ", style=_style(number, by)).append(" ")
        console.print(Text(TITLES[by], style="bold"))
        console.print(legend)
        console.print(_coloured(example, by, whole=by == shown[0]))
        console.print()


def _style(number: int, by: By) -> str:
    if by == "learned" and number >= 0:
        return LEARNED_STYLES[number]
    return LOSS_STYLES[abs(number)] + (" underline" if number < 0 else "")


def _coloured(view: TokenView, by: By, *, whole: bool) -> Text:
    """Return an example with its scored tokens coloured; where ``whole`` is False, without the text between answers."""
    text = Text()
    for kind, run in runs(view.pieces):
        if kind != "scored":
            between = visible("".join(piece.text for piece in run))
            text.append(between if whole else " … " if text else "", style=STYLES[kind])
            continue
        for piece in run:
            # A line end has no background of its own, and is often where a model is surest or most surprised.
            text.append(visible(piece.text).replace("\n", "↵\n"), style=_style(step(piece.nats(by), by), by))
    text.rstrip()
    if not whole and text.plain.endswith(" …"):
        text.right_crop(2)
    return text


def _table(view: TokenView, shown: Sequence[By]) -> str:
    """Return a line for each scored token: as a JSON string, then its figures, which stand last for tools."""
    lines: list[tuple[str, list[str]]] = [("token", list(shown))]
    for piece in view.scored:
        nats = [piece.nats(by) for by in shown]
        name = visible(json.dumps(piece.text, ensure_ascii=False))
        lines.append((name, ["-" if each is None else f"{each:.3f}" for each in nats]))
    width = max(cell_len(name) for name, _ in lines if cell_len(name) <= TOKEN_CELLS)
    return "".join(
        name + " " * max(0, width - cell_len(name)) + "".join(f"  {cell:>7}" for cell in cells) + "\n"
        for name, cells in lines
    )
