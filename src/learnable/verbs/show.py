"""``learnable show``: what the model will see, and which tokens count."""

import sys
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from rich.text import Text

from learnable import data as rows
from learnable.errors import DataError
from learnable.types import Example, Loading, ModelRef, Reading
from learnable.verbs.inputs import length_limit
from learnable.verbs.options import Flat

if TYPE_CHECKING:
    from learnable.model import Renderer

STYLES = {"masked": "dim", "scored": "black on green", "truncated": "red strike"}
MARKS = {"masked": ("", ""), "scored": ("⟦", "⟧"), "truncated": ("✂⟨", "⟩")}


def show(
    data: list[str],
    *,
    model: str = "starter",
    n: int = 3,
    id: str | None = None,
    loading: Annotated[Loading, Flat] = Loading(),
    reading: Annotated[Reading, Flat] = Reading(),
    max_length: int | None = None,
) -> None:
    """Print examples as the model sees them: tokens that are scored, masked, or cut off.

    Needs the tokenizer only. Where colours cannot be shown, scored tokens stand in ⟦ ⟧ and cut-off ones in ✂⟨ ⟩.

    Args:
        data: Files, or a folder that `learnable load` wrote.
        model: Folder, hub id, GGUF file, or `starter`.
        n: How many examples.
        id: Show the examples whose id begins with this instead of the first ones.
        loading: How to load the tokenizer.
        reading: How to read rows.
        max_length: Longest example in tokens; 2,048 or the model's own limit when not given.
    """
    from learnable.model import Renderer

    ref = ModelRef(name=model, **asdict(loading))
    longest = length_limit(ref, max_length)
    pool = rows.read(
        data, format=reading.format, on_error=reading.on_error, source_column=reading.source_column
    )
    wanted = [example for example in pool.iter_examples() if id is None or example.id.startswith(id)][:n]
    if not wanted:
        raise DataError(
            f"no example has an id that begins with {id!r}",
            hint="ids stand in scores.parquet and dropped.jsonl",
        )
    renderer = Renderer.of(ref)
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    legend = Text.assemble(*((f" {name} ", style) for name, style in STYLES.items()))
    console.print(legend if console.is_terminal else "⟦scored⟧ ✂⟨truncated⟩", "tokens; the rest is masked\n")
    for example in wanted:
        _print(console, renderer, example, longest)


def _print(console: Console, renderer: "Renderer", example: Example, max_length: int) -> None:
    (whole,) = renderer.render([example], max_length=sys.maxsize)
    kinds = [
        "truncated" if i >= max_length else "scored" if counts else "masked"
        for i, counts in enumerate(whole.mask)
    ]
    scored, cut = kinds.count("scored"), kinds.count("truncated")
    console.print(
        Text(
            f"── {example.id[:12]} from {example.source}: {len(kinds)} tokens, {scored} scored", style="bold"
        )
        + Text(f", {cut} cut off at {max_length}" if cut else "")
    )
    text = Text()
    for kind, run in groupby(range(len(kinds)), key=lambda position: kinds[position]):
        piece = renderer.decode(whole.ids[list(run)])
        opening, closing = ("", "") if console.is_terminal else MARKS[kind]
        text.append(f"{opening}{piece}{closing}", style=STYLES[kind])
    console.print(text)
    console.print()
