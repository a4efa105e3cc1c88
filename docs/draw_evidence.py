"""Draws the pictures of evidence.md from what stands in the tables of benchmarks/README.md.

    python docs/draw_evidence.py

A figure that changes there changes here when this runs again; a table or column that is gone is an error.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt

HERE = Path(__file__).parent
BENCHMARKS = HERE.parent / "benchmarks" / "README.md"
NUMBER = r"([+-]?\d+(?:\.\d+)?)"
INTERVAL = re.compile(rf"{NUMBER} \({NUMBER} to {NUMBER}\)")
SHADES = {"better": "#276749", "worse": "#c2410c", "not told apart": "#59626d"}
Row = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One table, drawn as a dot and an interval for each line.

    Args:
        title: Stands above it.
        section: The heading of the section that holds the table.
        after: Words that stand before the table, where the section has several.
        label: Column that names a line.
        value: Column with a value and its interval.
        axis: What the value is, in words.
        keep: A cell that the lines drawn have; all lines when empty. The untuned model is never drawn: it is far from all.
        lower_is_better: Whether a value below the reference is good.
        reference: Where no difference is.
    """

    title: str
    section: str
    after: str = ""
    label: str
    value: str
    axis: str
    keep: str = ""
    lower_is_better: bool = True
    reference: float = 0.0

    def lines(self, text: str) -> list[dict[str, Any]]:
        """Return what is drawn."""
        found = []
        for row in table(text, self.section, self.after, having=(self.label, self.value)):
            match = INTERVAL.search(row[self.value])
            if (
                match
                and (not self.keep or self.keep in row.values())
                and not row[self.label].startswith("untuned")
            ):
                value, low, high = map(float, match.groups())
                down, up = high < self.reference, low > self.reference
                seen = "not told apart"
                if down or up:
                    seen = "better" if down == self.lower_is_better else "worse"
                name = row[self.label].strip("*` ").partition("@store=")[0]
                found.append({"line": name, "value": value, "low": low, "high": high, "seen": seen})
        if not found:
            raise SystemExit(f"{self.section}: no line of {self.value!r} has an interval")
        return found


def table(text: str, section: str, after: str, *, having: Sequence[str]) -> list[Row]:
    """Return the first table of a section behind some words that has these columns, a mapping for each line."""
    parts = re.split(r"^#+ ", text, flags=re.MULTILINE)
    body = next((part for part in parts if part.startswith(section + "\n")), None)
    if body is None or after not in body:
        raise SystemExit(f"there is no section {section!r} with {after!r}")
    for block in re.findall(r"(?:^\|.*\n)+", body[body.index(after) :], flags=re.MULTILINE):
        head, _, *rows = [
            [cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.splitlines()
        ]
        if set(having) <= set(head):
            return [dict(zip(head, row, strict=False)) for row in rows]
    raise SystemExit(f"{section}: no table has {' and '.join(having)}")


def drawn(panel: Panel, text: str) -> Any:
    """Return the chart of a panel."""
    lines = panel.lines(text)
    base = alt.Chart(alt.InlineData(values=lines), title=alt.TitleParams(panel.title, anchor="start"))
    y = alt.Y("line:N", sort=[line["line"] for line in lines], title=None, axis=alt.Axis(labelLimit=260))
    color = alt.Color(
        "seen:N",
        scale=alt.Scale(domain=list(SHADES), range=list(SHADES.values())),
        legend=alt.Legend(title=None, orient="top"),
    )
    zero = (
        alt.Chart(alt.InlineData(values=[{"at": panel.reference}]))
        .mark_rule(color="#94a3b8")
        .encode(x="at:Q")
    )
    x = alt.X(
        "value:Q",
        title=panel.axis,
        scale=alt.Scale(zero=False),
        axis=alt.Axis(tickCount=5, labelOverlap="greedy"),
    )
    rules = base.mark_rule(strokeWidth=2).encode(y=y, x="low:Q", x2="high:Q", color=color)
    return alt.layer(
        zero, rules, base.mark_point(filled=True, size=60, opacity=1).encode(y=y, x=x, color=color)
    ).properties(width=300, height=alt.Step(20))


def picture(name: str, panels: Sequence[Panel], *, columns: int = 2) -> None:
    """Write one picture of several panels."""
    text = BENCHMARKS.read_text(encoding="utf-8")
    chart = alt.concat(*(drawn(panel, text) for panel in panels), columns=columns)
    chart = chart.configure_view(stroke=None).configure(
        background="#fdfdfc",
        font="Helvetica, Arial, sans-serif",
        padding={"left": 40, "right": 30, "top": 8, "bottom": 8},
    )
    chart.save(HERE / "images" / f"evidence-{name}.svg")


NATS = "nats per token, against a random draw"
TARGETS = "Which rows help a task?"
PICTURES: dict[str, tuple[Panel, ...]] = {
    "target": tuple(
        Panel(
            title=title,
            section=TARGETS,
            after=f"**{name}**",
            label="method",
            value="against random",
            axis=NATS,
        )
        for name, title in (
            ("tldr", "shell commands"),
            ("gsm8k", "sums in words"),
            ("codegen", "programs"),
            ("arc", "multiple choice, no source of its kind"),
        )
    ),
    "scratch": (
        Panel(
            title="40 % of the rows, from scratch",
            section="PDS from scratch",
            label="rows",
            value="against random",
            axis=NATS,
        ),
    ),
    "suspects": tuple(
        Panel(
            title=f"finds answers that are {kind}",
            section="Usable information",
            label="score",
            value=kind,
            axis="area under the curve against clean rows",
            lower_is_better=False,
            reference=0.5,
        )
        for kind in ("shuffled", "cut")
    ),
    "noise": tuple(
        Panel(
            title=f"15 % of a pool half of which is noise, equal {counted}",
            section=f"Half of the pool is noise, equal {counted}",
            label="method",
            value="difference to random",
            axis=NATS,
        )
        for counted in ("tokens", "response tokens")
    ),
    "pool": (
        Panel(
            title="15 % of a pool without a task",
            section="Evidence: does choosing help?",
            after="**heldout:heldout.jsonl**",
            label="method",
            value="difference to random",
            axis=NATS,
        ),
    ),
    "wording": (
        Panel(
            title="right format in unseen wordings",
            section="DELIA: the task, or the template?",
            after="128, unseen wording`",
            label="arm",
            value="difference to common tuning",
            axis="share of answers, against common tuning",
            lower_is_better=False,
        ),
    ),
    "mixture": (
        Panel(
            title="mean of six sources, from scratch",
            section="Mixtures of sources",
            after="**From scratch**",
            label="mixture",
            value="against natural",
            axis="nats per token, against natural shares",
            keep="mean of the sources",
        ),
    ),
}


if __name__ == "__main__":
    for each, parts in PICTURES.items():
        picture(each, parts)
