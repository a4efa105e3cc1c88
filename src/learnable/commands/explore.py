"""``learnable explore``: a run in, a page to look through its examples out."""

import os
import secrets
import socket
import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable import data as rows
from learnable import explorer as exploring
from learnable.deferred import models
from learnable.errors import StoreError, UsageError
from learnable.explorer import Sheet
from learnable.objects.given import finished
from learnable.objects.results import vectors_of
from learnable.runs.progress import say
from learnable.runs.records import DONE, Outcome, read_outcome

KINDS = ("select", "compare", "score")
"""What there is to look at; of a run's steps the first kind that is there."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page at an address that is ours already, and not served yet; without its ``secret`` nothing is given out."""

    url: str
    secret: str
    sheet: Sheet
    listening: socket.socket
    browser: bool

    def serve(self) -> None:
        """Serve the page until Ctrl-C; what there is to say goes to standard error."""
        host, port = self.listening.getsockname()[:2]
        if host not in exploring.LOOPBACK:
            say(
                f"whoever reaches {host} and knows the url can read these examples; they go there unencrypted"
            )
        if self.browser:
            _open(self.url, port)
        say(f"{self.sheet.title}: serving until Ctrl-C")
        exploring.serve(self.sheet, self.listening, secret=self.secret)


def explore(
    run: str,
    *,
    map: Literal["loss", "model", "wordllama"] | None = None,
    export: str | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    browser: bool = True,
) -> Page | dict[str, str]:
    """Open a web page to look through the examples of a run: charts, filters, search, full texts, download.

    Args:
        run: Folder of a run (its newest selection, else comparison, else scores), or of one of these.
        map: Where similar examples lie close together: by `model` vectors (`learnable score --vectors model`) or by
            `wordllama` (word vectors, computed here). When not given, by the vectors that were measured with the
            scores; `loss` for the losses alone.
        export: Write the page as a folder that any web server of files can show, instead of serving it.
        host: Address to listen on; only this machine reaches the page unless another one is given.
        port: Port to listen on; 5055, or any free one where that is taken, when not given.
        browser: Open the page in a browser.

    Returns:
        The page: in Python, ``explore(...).serve()`` serves it until Ctrl-C. Of an export, its ``folder``.
    """
    exploring.needs_explorer()
    given = _given(Path(run))
    sheet = _sheet(given, map)
    if export is not None:
        exploring.export(sheet, Path(export))
        return {"folder": export}
    listening = exploring.listen(host, port)
    secret = secrets.token_urlsafe(24)
    url = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/{secret}/"
    return Page(url=url, secret=secret, sheet=sheet, listening=listening, browser=browser)


def _open(url: str, port: int) -> None:
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        # A browser in text mode would take the terminal.
        say(f"no screen here; from yours: ssh -L {port}:127.0.0.1:{port} THIS-MACHINE, then open the url")
    elif not webbrowser.open(url):
        say("no browser found: open the url yourself")


def _given(folder: Path) -> Outcome:
    steps = sorted(folder.glob(f"*/{DONE}"), key=lambda path: path.stat().st_mtime)
    if (folder / DONE).is_file() or not steps:
        return finished(folder, *KINDS)
    outcomes = [read_outcome(step.parent) for step in steps]
    for kind in KINDS:
        if found := [outcome for outcome in outcomes if outcome.verb == kind]:
            of = f", the newest of {len(found)} such folders" if len(found) > 1 else ""
            say(f"exploring {found[-1].folder}{of}")
            return found[-1]
    raise StoreError(
        f"{folder} holds no selection, comparison or scores",
        hint="give a run with one of them, or the output of `learnable select`, `learnable compare` or `learnable score`",
    )


def _sheet(given: Outcome, kind: str | None) -> Sheet:
    scored, facts, parts = given, given.facts, dict[str, Any]()
    about, lowest = [f"Folder `{given.folder}`."], list(facts.get("lowest first", []))
    if given.verb == "select":
        if "scores" in given.links:
            scored = finished(given.links["scores"], "score")
        parts = {name: pl.read_parquet(given.folder / f"{name}.parquet") for name in ("kept", "dropped")}
        parts["by"], lowest = str(facts["by"]), [str(facts["by"])] if facts["lowest"] else []
        title = f"{facts['kept']:,} of {facts['pool']:,} examples chosen by {facts['by']}"
        about.append(f"Budget {facts['budget']}.")
    elif given.verb == "compare":
        parts["selections"] = pl.read_parquet(given.folder / "selections.parquet")
        title = f"{facts['pool']:,} examples, {len(facts['methods'])} methods compared"
    else:
        title = f"{facts['examples']:,} examples scored"
    if "model" in scored.facts:
        about.append(f"Losses of `{scored.facts['model']}`, in nats per token.")
    pool = rows.readable(rows.load_pool(scored.links["pool"]).examples) if "pool" in scored.links else None
    sheet = exploring.sheet_of(
        pl.read_parquet(scored.folder / "scores.parquet"),
        title=title,
        about=" ".join(about),
        lowest=lowest,
        examples=pool,
        **parts,
    )
    vectors, of = _vectors(scored, pool, kind)
    return sheet if vectors is None else exploring.with_map(sheet, vectors, of=of)


def _vectors(
    scored: Outcome, pool: pl.DataFrame | None, kind: str | None
) -> tuple[NDArray[np.float32] | None, str]:
    """Return a vector for each example and what it is of; None where no map is asked for or possible."""
    measured = str(scored.facts.get("vectors", "none"))
    if kind == "loss" or (kind is None and measured == "none"):
        return None, ""
    if kind in (None, measured):
        return vectors_of(scored.folder), measured
    if kind == "model":
        raise UsageError(
            f"{scored.folder} holds no vectors of the model",
            hint="measure them: learnable score ... --vectors model; or take --map wordllama",
        )
    if pool is None:
        raise UsageError(
            f"a map of word vectors needs the texts, and {scored.folder} knows losses only",
            hint="leave --map out",
        )
    texts = pl.col("messages").list.eval(pl.element().struct.field("content").fill_null("")).list.join("\n")
    return models.StaticEmbedder().embed_texts(pool.select(texts).to_series().to_list()), "wordllama"
