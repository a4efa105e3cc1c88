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
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jinja2
import polars as pl
import yaml

from learnable.commands.options import unusual, words_of
from learnable.data import names_of
from learnable.data.csv_files import style_of
from learnable.data.sources import locate, read_records
from learnable.errors import StoreError
from learnable.objects.given import finished
from learnable.pools import Pool, in_memory
from learnable.runs.records import Outcome, parameters_of
from learnable.scorers import SCORERS
from learnable.selectors import SELECTORS
from learnable.settings import Reading, Reference
from learnable.visible import visible

CARD = "README.md"
LICENSE_COLUMNS = ("license", "licence")
SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B")
"""Names of the hub for numbers of rows, from a thousand on."""
LENGTHS_ALIKE = (0.8, 1.25)
"""Mean length of the selection over that of the pool within which choosing was not choosing by length."""


class CardFile(NamedTuple):
    """A file of chosen rows: its ``columns`` appear in some row, and ``licenses`` are named by so many rows."""

    name: str
    kind: str
    rows: int
    columns: frozenset[str]
    separator: str = ","
    licenses: Mapping[str, int] = MappingProxyType({})

    @property
    def reader(self) -> str:
        """What ``datasets`` calls the reader of this kind."""
        return {"jsonl": "json", "datasets": "arrow"}.get(self.kind, self.kind)


def _read(path: Path) -> CardFile:
    (source,) = locate(str(path))
    columns, licenses, rows = set[str](), Counter[str](), 0
    for record in read_records(source):
        row = record.value or {}
        rows += 1
        columns.update(row)
        given = next((row[name] for name in LICENSE_COLUMNS if isinstance(row.get(name), str)), "")
        licenses.update(filter(None, [given.strip()]))
    separator = style_of(source.path)[0] if source.kind == "csv" else ","
    return CardFile(path.name, source.kind, rows, frozenset(columns), separator, licenses)


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

    ``ids`` are those of the chosen examples, and ``paths`` the files of their rows; of the pool, no conversation is
    needed. ``options`` are those of `learnable select` that are not what they are by default, files without their
    folders. Without a license, what the rows say is taken.
    """
    trained = None
    missing = "given, not trained here" if "reference" in scored.inputs else "none"
    if "reference" in scored.links:
        try:
            trained = finished(scored.links["reference"], "train")
        except StoreError:
            missing = "its folder is not there any more"
    of_scores, of_training = _named(scored.facts), _named(trained.facts) if trained else {}
    shown = ", ".join(f"{name} {value}" for name, value in of_training.items() if name != "base")
    return card(
        [_read(path) for path in paths],
        license=license,
        commands=_commands(scored, pool, trained, options),
        inputs=_inputs(pool, ids),
        facts=facts,
        options=options,
        scored=of_scores,
        trained=of_training,
        reference=shown or missing,
    )


def card(
    files: Sequence[CardFile],
    *,
    license: str | None,
    commands: Sequence[str],
    facts: Mapping[str, Any],
    **parts: Any,
) -> str:
    """Return a card as Markdown, with a head in YAML; ``parts`` are what else the template shows."""
    rows, licenses, readers = sum(file.rows for file in files), Counter[str](), Counter[str]()
    for file in files:
        licenses.update(file.licenses)
        readers[file.reader] += file.rows
    (most, _), *_ = readers.most_common(1)  # load_dataset takes one reader for a folder
    configs = _configs([file for file in files if file.reader == most])
    named = [license] if license is not None else sorted(licenses) if licenses.total() == rows else []
    head = {
        **({"license": named[0] if len(named) == 1 else named} if named else {}),
        "task_categories": ["text-generation"],
        "size_categories": [_size(rows)],
        "tags": ["learnable", "data-selection", "sft"],
        "configs": configs,
    }
    lines = "\n".join(commands)
    text = _template().render(
        parts,
        head=yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=110),
        rows=rows,
        names=[config["config_name"] for config in configs],
        others=[file for file in files if file.reader != most],
        license=license,
        licenses=licenses,
        facts=facts,
        scorer=_first_line(SCORERS.get(facts["by"])),
        selector=_first_line(SELECTORS.get(facts["selector"])),
        alike=LENGTHS_ALIKE,
        commands=lines,
        # No backticks within the commands may end their block.
        fence="`" * max(3, 1 + max(map(len, re.findall("`+", lines)), default=0)),
        version=version("learnable"),
    )
    return visible(text)


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code": code, "number": "{:,}".format}
    return environment.get_template("selection_card.md.j2")


def code(text: Any) -> str:
    """Return a text as code in Markdown, in one line and fit for a table; no backtick ends it."""
    plain = " ".join(str(text).split()).replace("`", "'").replace("|", "\\|")
    return f"`{plain}`"


def _first_line(method: Any) -> str:
    line = str(getattr(method, "__doc__", None) or "").splitlines()[:1]
    return f" ({line[0].rstrip('.')})" if line else ""


def _size(rows: int) -> str:
    place = bisect_right([10**exponent for exponent in range(3, 3 + len(SIZES))], rows)
    if place == len(SIZES):
        return f"n>{SIZES[-1]}"
    return f"n<{SIZES[0]}" if place == 0 else f"{SIZES[place - 1]}<n<{SIZES[place]}"


def _configs(files: Sequence[CardFile]) -> list[dict[str, Any]]:
    """Return what ``load_dataset`` reads: files with the same columns are one configuration."""
    groups: dict[tuple[str, frozenset[str]], list[CardFile]] = {}
    for file in files:
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


def _inputs(pool: Pool, ids: pl.Series) -> list[dict[str, Any]]:
    usable, known = pl.col("reason").is_null(), pl.col("id").is_not_null()
    chosen = pl.LazyFrame({"id": ids}).with_columns(chosen=True)
    ledger = pool.ledger.join(chosen, on="id", how="left")
    counted = ledger.group_by("file").agg(
        rows=pl.len(),
        unusable=(~known).sum(),
        repeated=(known & ~usable).sum(),
        chosen=(usable & pl.col("chosen")).sum(),
    )
    of = {row["file"]: row for row in in_memory(counted, engine="streaming").iter_rows(named=True)}
    none = {"rows": 0, "unusable": 0, "repeated": 0, "chosen": 0}
    return [
        {**of.get(number, none), "name": name, "format": file.format, "digest": file.digest}
        for number, (file, name) in enumerate(zip(pool.files, names_of(pool.files), strict=True))
    ]


def _commands(scored: Outcome, pool: Pool, trained: Outcome | None, options: Mapping[str, Any]) -> list[str]:
    # As they were given, but for the folders of this machine.
    whole = {file.path for file in pool.files if file.kind in ("hub", "starter")}
    loaded = parameters_of(scored.links["pool"])
    typed = [str(value) for name, value in loaded.items() if name.startswith("data ")]
    names = [given if given in whole else Path(given).name for given in typed]
    lines = [_line("load", names, unusual(loaded, asdict(Reading()) | {"holdout": 0.0}), "pool")]
    facts = _named(scored.facts)
    score: dict[str, Any] = {name: facts[name] for name in ("model", "dtype", "max_length") if name in facts}
    if trained is not None:
        tuning = {"reference.model": _named(trained.facts)["model"]} if "model" in trained.facts else {}
        if not tuning:
            tuning = unusual(parameters_of(trained.folder), json.loads(json.dumps(asdict(Reference()))))
        lines.append(_line("train", ["pool"], score | tuning, "reference"))
        score["reference"] = "reference"
    elif "reference" in scored.inputs:
        score["reference"] = "REFERENCE"
    score |= {name: facts[name] for name in ("scorers", "vectors") if facts.get(name, "none") != "none"}
    lines.append(_line("score", ["pool"], score, "scores"))
    return [*lines, _line("select", ["scores"], options, "selection")]


def _line(verb: str, given: Sequence[str], options: Mapping[str, Any], output: str) -> str:
    return shlex.join(["learnable", verb, *given, *words_of(options), "-o", output])


def _named(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts with the name of a model without the folder that it lies in; a hub id stays as it is."""
    if "model" not in facts:
        return dict(facts)
    path = Path(facts["model"]).expanduser()
    return {**facts, "model": path.name if path.is_absolute() or path.exists() else facts["model"]}
