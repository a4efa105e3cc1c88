"""The card of a selection: what the chosen rows are, where they came from and how they were chosen.

It is a Hugging Face data-set card, so that ``datasets.load_dataset`` loads the folder it lies in.
"""

import glob
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from learnable.data.csv_files import style_of
from learnable.data.sources import locate, read_records
from learnable.visible import visible

CARD = "README.md"
LICENSE_COLUMNS = ("license", "licence")
SIZES = {
    10**exponent: name for exponent, name in enumerate(("1K", "10K", "100K", "1M", "10M", "100M", "1B"), 3)
}
"""Names of the hub for numbers of rows, by the number that they end before."""


@dataclass(frozen=True, kw_only=True)
class CardInput:
    """A file that rows came from.

    Args:
        name: Its name, without a folder.
        format: Of its rows.
        rows: How many it has.
        unusable: Rows that could not be read.
        repeated: Rows that repeat another, or were set aside.
        chosen: Rows that are in the selection.
        digest: Hash of its content.
    """

    name: str
    format: str
    rows: int
    unusable: int
    repeated: int
    chosen: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class CardOutput:
    """A file of chosen rows.

    Args:
        name: Its name in the folder of the card.
        kind: How it is read, such as ``jsonl``.
        rows: How many it has.
        columns: Names that appear in its rows.
        separator: What stands between the fields of a CSV file.
        licenses: How many rows name which licence.
    """

    name: str
    kind: str
    rows: int
    columns: frozenset[str]
    separator: str = ","
    licenses: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card says; texts are Markdown, except for names of files and commands.

    Args:
        inputs: Where rows came from.
        outputs: Files of chosen rows.
        license: As the user gave it; None takes what the rows say.
        pool: Examples that were chosen from.
        chosen: How rows were chosen, by label.
        scored: How scores were measured, by label.
        figures: Numbers of the pool and of the selection, by label; None where one is not known.
        cautions: What to distrust in this selection, beyond what holds for all.
        commands: Command lines that repeat it.
        version: Of learnable.
    """

    inputs: Sequence[CardInput]
    outputs: Sequence[CardOutput]
    license: str | None
    pool: int
    chosen: Mapping[str, str]
    scored: Mapping[str, str]
    figures: Mapping[str, tuple[str | None, str | None]]
    cautions: Sequence[str]
    commands: Sequence[str]
    version: str


def read_output(path: Path) -> CardOutput:
    """Return what a card says of a file of chosen rows.

    Raises:
        DataError: If it cannot be read.
    """
    ((kind, where, *_),) = locate(str(path))
    columns: set[str] = set()
    licenses: Counter[str] = Counter()
    rows = 0
    for record in read_records(kind, where):
        row = record.value or {}
        rows += 1
        columns.update(row)
        given = next((row[name] for name in LICENSE_COLUMNS if isinstance(row.get(name), str)), "")
        if given.strip():
            licenses[given.strip()] += 1
    separator = style_of(where).delimiter if kind == "csv" else ","
    return CardOutput(
        name=path.name,
        kind=kind,
        rows=rows,
        columns=frozenset(columns),
        separator=separator,
        licenses=licenses,
    )


def card(about: Card) -> str:
    """Return the card as Markdown, with a head in YAML."""
    head = yaml.safe_dump(_head(about), sort_keys=False, allow_unicode=True, width=110)
    rows = sum(output.rows for output in about.outputs)
    sections = [
        f"---\n{head}---",
        f"# {rows:,} of {about.pool:,} examples, chosen for fine-tuning",
        f"Rows for supervised fine-tuning, chosen from a larger pool by learnable {about.version}. "
        "Each is as it came: nothing in it was changed.",
        _loading(about.outputs),
        "## Where the rows came from",
        _inputs(about.inputs),
        _license_note(about),
        "## How they were chosen",
        _list(about.chosen),
        "## What the scores were measured with",
        _list(about.scored),
        "## Figures",
        _figures(about.figures),
        "## What to distrust",
        "\n".join(f"- {text}" for text in (*_ALWAYS, *about.cautions)),
        "## How to repeat it",
        "Names of files without their folders; put them where the commands find them.",
        _fenced("\n".join(about.commands)),
    ]
    return visible("\n\n".join(sections)) + "\n"


_ALWAYS = (
    "A score says how a model's loss behaves on an answer. It says nothing of whether the answer is true, safe or fair, "
    "and no row was checked for personal data.",
    "Scores belong to this model, its chat template and these settings. Another model would choose other rows.",
    "Whether a model learns more from these rows than from a random draw of the same size is not known until both are "
    "trained on and evaluated.",
)


def _head(about: Card) -> dict[str, Any]:
    rows = sum(output.rows for output in about.outputs)
    licenses = _licenses(about)
    return {
        **({"license": licenses[0] if len(licenses) == 1 else licenses} if licenses else {}),
        "task_categories": ["text-generation"],
        "size_categories": [_size(rows)],
        "tags": ["learnable", "data-selection", "sft"],
        "configs": _configs(about.outputs),
    }


def _licenses(about: Card) -> list[str]:
    """Return the licences of all rows; none where that of some rows is not known."""
    if about.license is not None:
        return [about.license]
    if any(sum(output.licenses.values()) < output.rows for output in about.outputs):
        return []
    return sorted({name for output in about.outputs for name in output.licenses})


def _license_note(about: Card) -> str:
    if about.license is not None:
        return f"License: {code(about.license)}, as given by who chose the rows."
    counted: Counter[str] = Counter()
    for output in about.outputs:
        counted.update(output.licenses)
    if not counted:
        return "License: not given. Ask those who made the rows before you pass them on."
    told = ", ".join(f"{code(name)} ({count:,} rows)" for name, count in sorted(counted.items()))
    rest = sum(output.rows for output in about.outputs) - sum(counted.values())
    return f"License, as the rows name it: {told}{f'; not given for {rest:,} rows' if rest else ''}."


def _size(rows: int) -> str:
    ends = sorted(SIZES)
    place = next((number for number, end in enumerate(ends) if rows < end), None)
    if place is None:
        return f"n>{SIZES[ends[-1]]}"
    return f"n<{SIZES[ends[0]]}" if place == 0 else f"{SIZES[ends[place - 1]]}<n<{SIZES[ends[place]]}"


_READERS = {
    "jsonl": "json",
    "json": "json",
    "csv": "csv",
    "parquet": "parquet",
    "arrow": "arrow",
    "datasets": "arrow",
}
"""What ``datasets`` calls the reader of each kind."""


def _loadable(outputs: Sequence[CardOutput]) -> list[CardOutput]:
    """Return the files of the reader that has most rows: ``load_dataset`` takes one reader for a folder."""
    rows: Counter[str] = Counter()
    for output in outputs:
        rows[_READERS[output.kind]] += output.rows
    (most, _), *_ = rows.most_common(1)
    return [output for output in outputs if _READERS[output.kind] == most]


def _configs(outputs: Sequence[CardOutput]) -> list[dict[str, Any]]:
    """Return what ``load_dataset`` reads: files with the same columns are one configuration."""
    groups: dict[tuple[str, frozenset[str]], list[CardOutput]] = {}
    for output in _loadable(outputs):
        groups.setdefault((output.separator, output.columns), []).append(output)
    configs = []
    for (separator, _), members in groups.items():
        files = [{"split": "train", "path": [_pattern(output) for output in members]}]
        name = "default" if len(groups) == 1 else _NOT_IN_NAMES.sub("-", members[0].name)
        configs.append(
            {"config_name": name, "data_files": files, **({"sep": separator} if separator != "," else {})}
        )
    return configs


_NOT_IN_NAMES = re.compile(r"[<>:/\\|?*]")
"""Of a configuration, as ``datasets`` has it."""


def _pattern(output: CardOutput) -> str:
    return glob.escape(output.name) + ("/*.arrow" if output.kind == "datasets" else "")


def _loading(outputs: Sequence[CardOutput]) -> str:
    names = [config["config_name"] for config in _configs(outputs)]
    if len(names) == 1:
        said = ['`datasets.load_dataset("path/of/this/folder")` loads them.']
    else:
        said = [
            "The files have different columns, so that each kind of them is a configuration of its own: "
            '`datasets.load_dataset("path/of/this/folder", NAME)` loads one, where NAME is one of '
            f"{', '.join(map(code, names))}."
        ]
    included = _loadable(outputs)
    said += [
        f"{code(output.name)} is not among them, as it is of another kind: "
        f'`datasets.load_dataset("{_READERS[output.kind]}", data_files=...)` loads it.'
        for output in outputs
        if output not in included
    ]
    return "\n".join(said)


def _inputs(inputs: Sequence[CardInput]) -> str:
    head = ("file", "format", "rows", "unusable", "repeated or set aside", "chosen", "content digest")
    lines = [
        (
            code(each.name),
            each.format,
            *(f"{number:,}" for number in (each.rows, each.unusable, each.repeated, each.chosen)),
            code(each.digest),
        )
        for each in inputs
    ]
    return _table(head, lines)


def _figures(figures: Mapping[str, tuple[str | None, str | None]]) -> str:
    lines = [
        (name, *("not known" if value is None else value for value in pair)) for name, pair in figures.items()
    ]
    return _table(("", "pool", "selection"), lines)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _list(facts: Mapping[str, str]) -> str:
    return "\n".join(f"- {label}: {text}" for label, text in facts.items())


def _fenced(text: str) -> str:
    """Return lines of a shell as a block in Markdown, which no backticks in them end."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{text}\n{fence}"


def code(text: str) -> str:
    """Return a text as code in Markdown, in one line and fit for a table; no backtick ends it."""
    plain = " ".join(text.split()).replace("`", "'").replace("|", "\\|")
    return f"`{plain}`"
