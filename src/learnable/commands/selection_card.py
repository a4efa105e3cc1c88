"""The card of a selection: what the chosen rows are, where they came from and how they were chosen.

It is a Hugging Face data-set card, so that ``datasets.load_dataset`` loads the folder it lies in.
"""

import glob
import json
import re
import shlex
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
import yaml

from learnable.data import names_of
from learnable.data.csv_files import style_of
from learnable.data.sources import locate, read_records
from learnable.errors import StoreError
from learnable.objects.given import finished
from learnable.runs.records import DONE, Outcome, read_json
from learnable.scorers import SCORERS
from learnable.selectors import SELECTORS
from learnable.settings import Reading, Reference
from learnable.types import Pool
from learnable.visible import visible

CARD = "README.md"
LICENSE_COLUMNS = ("license", "licence")
SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B")
"""Names of the hub for numbers of rows, from a thousand on."""
READERS = {
    "jsonl": "json",
    "json": "json",
    "csv": "csv",
    "parquet": "parquet",
    "arrow": "arrow",
    "datasets": "arrow",
}
"""What ``datasets`` calls the reader of each kind."""
LENGTHS_ALIKE = (0.8, 1.25)
"""Mean length of the selection over that of the pool within which choosing was not choosing by length."""
LABELS = {
    "per-source": "Share of each source",
    "per-cluster": "Share of each cluster of similar examples",
    "clusters": "Clusters",
    "max-similarity": "Near-duplicates above this cosine similarity left out",
    "where": "Condition",
    "min-loss-before": "Loss before, at least, in nats per token",
    "max-loss-after": "Loss after, at most, in nats per token",
    "min-score": "Score, at least",
    "max-score": "Score, at most",
    "pin": "Chosen whatever their score, by",
    "ban": "Never chosen, by",
}


@dataclass(frozen=True, kw_only=True)
class CardFile:
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

    @classmethod
    def read(cls, path: Path) -> "CardFile":
        """Look through a file.

        Raises:
            DataError: If it cannot be read.
        """
        ((kind, where, *_),) = locate(str(path))
        columns, licenses, rows = set[str](), Counter[str](), 0
        for record in read_records(kind, where):
            row = record.value or {}
            rows += 1
            columns.update(row)
            given = next((row[name] for name in LICENSE_COLUMNS if isinstance(row.get(name), str)), "")
            licenses.update(filter(None, [given.strip()]))
        separator = style_of(where).delimiter if kind == "csv" else ","
        return cls(
            name=path.name,
            kind=kind,
            rows=rows,
            columns=frozenset(columns),
            separator=separator,
            licenses=licenses,
        )


def selection_card(
    scored: Outcome,
    pool: Pool,
    *,
    ids: pl.Series,
    paths: Sequence[Path],
    facts: Mapping[str, Any],
    options: Mapping[str, Any],
    license: str | None,
) -> str:
    """Return the card of a selection, without a path of this machine.

    Args:
        scored: What was chosen from.
        pool: What was scored; its conversations are not needed.
        ids: Of the chosen examples, String (k,).
        paths: Files of the chosen rows.
        facts: Of the selection.
        options: Of `learnable select` that are not what they are by default, by the name of the flag; files without
            their folders.
        license: As the user gave it; None takes what the rows say.
    """
    trained, missing = _reference(scored)
    return card(
        [CardFile.read(path) for path in paths],
        license=license,
        inputs=_inputs(pool, ids),
        pool=facts["pool"],
        chosen=_chosen(facts, options),
        scored=_scored(scored, trained, missing),
        figures=_figures(facts),
        cautions=_cautions(scored, trained, facts),
        commands=_commands(scored, pool, trained, options),
        version=version("learnable"),
    )


def card(files: Sequence[CardFile], *, license: str | None, commands: Sequence[str], **parts: Any) -> str:
    """Return a card as Markdown, with a head in YAML.

    Args:
        files: Of chosen rows.
        license: As the user gave it; None takes what the rows say.
        commands: Command lines that repeat it.
        parts: What else the template shows; texts are Markdown, except for names of files.
    """
    rows, configs, lines = sum(file.rows for file in files), _configs(files), "\n".join(commands)
    licenses = _licenses(files) if license is None else [license]
    head = {
        **({"license": licenses[0] if len(licenses) == 1 else licenses} if licenses else {}),
        "task_categories": ["text-generation"],
        "size_categories": [_size(rows)],
        "tags": ["learnable", "data-selection", "sft"],
        "configs": configs,
    }
    # No backticks within the commands may end their block.
    longest = max(map(len, re.findall("`+", lines)), default=0)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["code"] = code
    text = environment.get_template("selection_card.md.j2").render(
        parts,
        head=yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=110),
        rows=rows,
        loading=_loading(files, [config["config_name"] for config in configs]),
        license=_license_note(files, license),
        commands=lines,
        fence="`" * max(3, longest + 1),
    )
    return visible(text)


def code(text: str) -> str:
    """Return a text as code in Markdown, in one line and fit for a table; no backtick ends it."""
    plain = " ".join(text.split()).replace("`", "'").replace("|", "\\|")
    return f"`{plain}`"


def _licenses(files: Sequence[CardFile]) -> list[str]:
    """Return the licences of all rows; none where that of some rows is not known."""
    if any(sum(file.licenses.values()) < file.rows for file in files):
        return []
    return sorted({name for file in files for name in file.licenses})


def _license_note(files: Sequence[CardFile], given: str | None) -> str:
    if given is not None:
        return f"License: {code(given)}, as given by who chose the rows."
    counted = sum((Counter(file.licenses) for file in files), Counter[str]())
    if not counted:
        return "License: not given. Ask those who made the rows before you pass them on."
    told = ", ".join(f"{code(name)} ({count:,} rows)" for name, count in sorted(counted.items()))
    rest = sum(file.rows for file in files) - counted.total()
    return f"License, as the rows name it: {told}{f'; not given for {rest:,} rows' if rest else ''}."


def _size(rows: int) -> str:
    place = bisect_right([10**exponent for exponent in range(3, 3 + len(SIZES))], rows)
    if place == len(SIZES):
        return f"n>{SIZES[-1]}"
    return f"n<{SIZES[0]}" if place == 0 else f"{SIZES[place - 1]}<n<{SIZES[place]}"


def _loadable(files: Sequence[CardFile]) -> list[CardFile]:
    """Return the files of the reader that has most rows: ``load_dataset`` takes one reader for a folder."""
    rows: Counter[str] = Counter()
    for file in files:
        rows[READERS[file.kind]] += file.rows
    (most, _), *_ = rows.most_common(1)
    return [file for file in files if READERS[file.kind] == most]


def _configs(files: Sequence[CardFile]) -> list[dict[str, Any]]:
    """Return what ``load_dataset`` reads: files with the same columns are one configuration."""
    groups: dict[tuple[str, frozenset[str]], list[CardFile]] = {}
    for file in _loadable(files):
        groups.setdefault((file.separator, file.columns), []).append(file)
    configs = []
    for (separator, _), members in groups.items():
        inside = ["/*.arrow" if file.kind == "datasets" else "" for file in members]
        paths = [glob.escape(file.name) + end for file, end in zip(members, inside, strict=True)]
        # These characters are none of a configuration's name, as ``datasets`` has it.
        name = "default" if len(groups) == 1 else re.sub(r"[<>:/\\|?*]", "-", members[0].name)
        config = {"config_name": name, "data_files": [{"split": "train", "path": paths}]}
        configs.append(config | ({"sep": separator} if separator != "," else {}))
    return configs


def _loading(files: Sequence[CardFile], names: Sequence[str]) -> str:
    said = ['`datasets.load_dataset("path/of/this/folder")` loads them.']
    if len(names) > 1:
        said = [
            "The files have different columns, so that each kind of them is a configuration of its own: "
            '`datasets.load_dataset("path/of/this/folder", NAME)` loads one, where NAME is one of '
            f"{', '.join(map(code, names))}."
        ]
    included = _loadable(files)
    said += [
        f"{code(file.name)} is not among them, as it is of another kind: "
        f'`datasets.load_dataset("{READERS[file.kind]}", data_files=...)` loads it.'
        for file in files
        if file not in included
    ]
    return "\n".join(said)


def _reference(scored: Outcome) -> tuple[Outcome | None, str]:
    """Return the step that trained the reference, and what is said where there is none."""
    if "reference" not in scored.links:
        return None, "given, not trained here" if "reference" in scored.inputs else "none"
    try:
        return finished(scored.links["reference"], "train"), ""
    except StoreError:
        return None, "its folder is not there any more"


def _inputs(pool: Pool, ids: pl.Series) -> list[dict[str, Any]]:
    usable, known = pl.col("reason").is_null(), pl.col("id").is_not_null()
    counted = pool.rows.group_by("file").agg(
        rows=pl.len(),
        unusable=(~known).sum(),
        repeated=(known & ~usable).sum(),
        chosen=(usable & pl.col("id").is_in(ids.implode())).sum(),
    )
    of = {row["file"]: row for row in counted.iter_rows(named=True)}
    none = {"rows": 0, "unusable": 0, "repeated": 0, "chosen": 0}
    return [
        {**of.get(number, none), "name": name, "format": file.format, "digest": file.digest}
        for number, (file, name) in enumerate(zip(pool.files, names_of(pool.files), strict=True))
    ]


def _chosen(facts: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, str]:
    by, selector = str(facts["by"]), str(options.get("selector", "top_k"))
    told = {
        "Score": f"{code(by)}, {'lowest' if facts['lowest'] else 'highest'} first{_first_line(SCORERS.get(by))}",
        "Budget": f"{facts['budget']}: {facts['kept']:,} of {facts['pool']:,} examples",
        "Selector": f"{code(selector)}{_first_line(SELECTORS.get(selector))}",
    }
    for name, label in LABELS.items():
        if name in options:
            values = options[name] if isinstance(options[name], list) else [options[name]]
            told[label] = ", ".join(code(str(value)) for value in values)
    told |= {f"Rows {name}": f"{facts[name]:,}" for name in ("pinned", "banned") if name in facts}
    return told | {"Seed": str(options.get("seed", 0))}


def _first_line(method: Any) -> str:
    line = str(getattr(method, "__doc__", None) or "").splitlines()[:1]
    return f" ({line[0].rstrip('.')})" if line else ""


def _scored(scored: Outcome, trained: Outcome | None, missing: str) -> dict[str, str]:
    facts, measured = scored.facts, {"dtype": "Computed in", "max_length": "Longest example in tokens"}
    told = {"Model": code(_plain(facts["model"]))} if "model" in facts else {}
    told |= {label: code(str(facts[name])) for name, label in measured.items() if name in facts}
    if trained is None:
        return told | {"Reference": missing}
    shown = {name: value for name, value in trained.facts.items() if name not in ("base", "model")}
    if "model" in trained.facts:
        shown["model"] = _plain(trained.facts["model"])
    return told | {"Reference": ", ".join(f"{name} {value}" for name, value in shown.items())}


def _figures(facts: Mapping[str, Any]) -> dict[str, list[str]]:
    figures: dict[str, tuple[Sequence[float | None], str]] = {
        "examples": ((facts["pool"], facts["kept"]), ","),
        "tokens, prompt and response": ((facts["pool_tokens"], facts["kept_tokens"]), ","),
        "mean tokens of an example": (_mean_lengths(facts), ".1f"),
        f"mean {code(str(facts['by']))}": ((facts["mean_pool"], facts["mean_kept"]), ".4g"),
    }
    return {
        name: ["not known" if number is None else format(number, form) for number in pair]
        for name, (pair, form) in figures.items()
    }


def _mean_lengths(facts: Mapping[str, Any]) -> tuple[float | None, float | None]:
    if facts["pool_tokens"] is None:
        return None, None
    return facts["pool_tokens"] / facts["pool"], facts["kept_tokens"] / max(facts["kept"], 1)


def _cautions(scored: Outcome, trained: Outcome | None, facts: Mapping[str, Any]) -> list[str]:
    said = []
    before, after = _mean_lengths(facts)
    if before and after is not None and not LENGTHS_ALIKE[0] <= after / before <= LENGTHS_ALIKE[1]:
        said.append(
            f"Chosen examples have {after:.0f} tokens in the mean, those of the pool {before:.0f}: "
            "the choice is in part one of length."
        )
    if trained is not None and trained.facts.get("kind") == "trained" and not trained.facts.get("folds"):
        said.append(
            "The reference was trained on the examples that it scores, so that the loss after also says what it "
            "memorized."
        )
    if truncated := scored.facts.get("truncated"):
        said.append(
            f"{truncated:,} examples of the pool were cut to the longest length before they were scored."
        )
    if undefined := scored.facts.get("undefined"):
        said.append(f"{undefined:,} examples of the pool have no score; they are chosen only where pinned.")
    if facts.get("pinned"):
        said.append(f"{facts['pinned']:,} rows were chosen by hand, whatever their score.")
    if facts["shortfall"]:
        said.append(f"The budget was not reached: {facts['shortfall']}")
    return said


def _commands(scored: Outcome, pool: Pool, trained: Outcome | None, options: Mapping[str, Any]) -> list[str]:
    # As they were given, but for the folders of this machine.
    whole = {file.path for file in pool.files if file.kind in ("hub", "starter")}
    loaded = _parameters(scored.links["pool"])
    typed = [str(value) for name, value in loaded.items() if name.startswith("data ")]
    names = [given if given in whole else Path(given).name for given in typed]
    lines = [_line("load", names, _unusual(loaded, asdict(Reading()) | {"holdout": 0.0}), "pool")]
    facts = scored.facts
    score: dict[str, Any] = {"model": _plain(facts["model"])} if "model" in facts else {}
    score |= {name: facts[name] for name in ("dtype", "max_length") if name in facts}
    if trained is not None:
        tuning = {"reference.model": _plain(trained.facts["model"])} if "model" in trained.facts else {}
        if not tuning:
            tuning = _unusual(_parameters(trained.folder), json.loads(json.dumps(asdict(Reference()))))
        lines.append(_line("train", ["pool"], score | tuning, "reference"))
        score["reference"] = "reference"
    elif "reference" in scored.inputs:
        score["reference"] = "REFERENCE"
    if "scorers" in facts:
        score["scorers"] = list(facts["scorers"])
    if facts.get("vectors", "none") != "none":
        score["vectors"] = facts["vectors"]
    lines.append(_line("score", ["pool"], score, "scores"))
    return [*lines, _line("select", ["scores"], options, "selection")]


def _unusual(given: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are not what they are by default."""
    return {name: given[name] for name, value in usual.items() if given.get(name, value) != value}


def _parameters(folder: Path) -> dict[str, Any]:
    return dict(read_json(folder / DONE).get("parameters", {}))


def _line(verb: str, given: Sequence[str], options: Mapping[str, Any], output: str) -> str:
    words = ["learnable", verb, *given]
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join([*words, "-o", output])


def _plain(name: str) -> str:
    """Return the name of a model without the folder that it lies in; a hub id stays as it is."""
    path = Path(name).expanduser()
    return path.name if path.is_absolute() or path.exists() else name
