"""What the card of a selection says, collected from the steps that led to it."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from learnable import data as rows
from learnable.data.card import Card, CardInput, card, code, read_output
from learnable.errors import StoreError
from learnable.objects.given import finished
from learnable.runs.records import DONE, Outcome, read_json
from learnable.scorers import SCORERS
from learnable.selectors import SELECTORS
from learnable.settings import Reading, Reference
from learnable.types import Pool

LENGTHS_ALIKE = (0.8, 1.25)
"""Mean length of the selection over that of the pool within which choosing was not choosing by length."""


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
        license: As the user gave it.
    """
    trained, missing = _reference(scored)
    return card(
        Card(
            inputs=_inputs(pool, ids),
            outputs=[read_output(path) for path in paths],
            license=license,
            pool=facts["pool"],
            chosen=_chosen(facts, options),
            scored=_scored(scored, trained, missing),
            figures=_figures(facts),
            cautions=_cautions(scored, trained, facts),
            commands=_commands(scored, pool, trained, options),
            version=version("learnable"),
        )
    )


def _reference(scored: Outcome) -> tuple[Outcome | None, str]:
    """Return the step that trained the reference, and what is said where there is none."""
    if "reference" not in scored.links:
        return None, "given, not trained here" if "reference" in scored.inputs else "none"
    try:
        return finished(scored.links["reference"], "train"), ""
    except StoreError:
        return None, "its folder is not there any more"


def _inputs(pool: Pool, ids: pl.Series) -> list[CardInput]:
    usable, known = pl.col("reason").is_null(), pl.col("id").is_not_null()
    counted = pool.rows.group_by("file").agg(
        rows=pl.len(),
        unusable=(~known).sum(),
        repeated=(known & ~usable).sum(),
        chosen=(usable & pl.col("id").is_in(ids.implode())).sum(),
    )
    of = {row["file"]: row for row in counted.iter_rows(named=True)}
    counts = ("rows", "unusable", "repeated", "chosen")
    return [
        CardInput(
            name=name,
            format=file.format,
            digest=file.digest,
            **{name: int(of[number][name]) if number in of else 0 for name in counts},
        )
        for number, (file, name) in enumerate(zip(pool.files, rows.names_of(pool.files), strict=True))
    ]


def _chosen(facts: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, str]:
    by, selector = str(facts["by"]), str(options.get("selector", "top_k"))
    told = {
        "Score": f"{code(by)}, {'lowest' if facts['lowest'] else 'highest'} first{_first_line(SCORERS.get(by))}",
        "Budget": f"{facts['budget']}: {facts['kept']:,} of {facts['pool']:,} examples",
        "Selector": f"{code(selector)}{_first_line(SELECTORS.get(selector))}",
    }
    for name, label in _LABELS.items():
        if name in options:
            value = options[name]
            told[label] = ", ".join(
                code(str(each)) for each in (value if isinstance(value, list) else [value])
            )
    for name in ("pinned", "banned"):
        if name in facts:
            told[f"Rows {name}"] = f"{facts[name]:,}"
    return told | {"Seed": str(options.get("seed", 0))}


_LABELS = {
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


def _first_line(method: Any) -> str:
    line = str(getattr(method, "__doc__", None) or "").splitlines()[:1]
    return f" ({line[0].rstrip('.')})" if line else ""


def _scored(scored: Outcome, trained: Outcome | None, missing: str) -> dict[str, str]:
    facts = scored.facts
    told = {"Model": code(_plain(facts["model"]))} if "model" in facts else {}
    told |= {label: code(str(facts[name])) for name, label in _MEASURED.items() if name in facts}
    if trained is None:
        return told | {"Reference": missing}
    shown = {name: value for name, value in trained.facts.items() if name not in ("base", "model")}
    if "model" in trained.facts:
        shown["model"] = _plain(trained.facts["model"])
    return told | {"Reference": ", ".join(f"{name} {value}" for name, value in shown.items())}


_MEASURED = {"dtype": "Computed in", "max_length": "Longest example in tokens"}


def _figures(facts: Mapping[str, Any]) -> dict[str, tuple[str | None, str | None]]:
    def pair(of_pool: float | None, of_kept: float | None, form: str) -> tuple[str | None, str | None]:
        return (
            None if of_pool is None else format(of_pool, form),
            None if of_kept is None else format(of_kept, form),
        )

    before, after = _mean_lengths(facts)
    return {
        "examples": pair(facts["pool"], facts["kept"], ","),
        "tokens, prompt and response": pair(facts["pool_tokens"], facts["kept_tokens"], ","),
        "mean tokens of an example": pair(before, after, ".1f"),
        f"mean {code(str(facts['by']))}": pair(facts["mean_pool"], facts["mean_kept"], ".4g"),
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
    loaded = _parameters(scored.links["pool"])
    usual: dict[str, Any] = {**asdict(Reading()), "holdout": 0.0}
    given = {_flag(name): loaded[name] for name in usual if loaded.get(name, usual[name]) != usual[name]}
    # As they were given, but for the folders of this machine.
    whole = {file.path for file in pool.files if file.kind in ("hub", "starter")}
    typed = [str(value) for name, value in loaded.items() if name.startswith("data ")]
    names = [given if given in whole else Path(given).name for given in typed]
    lines = [_line("load", names, given, "pool")]
    shared = {name: scored.facts[name] for name in ("dtype", "max_length") if name in scored.facts}
    shared = {_flag(name): value for name, value in shared.items()}
    model = {"model": _plain(scored.facts["model"])} if "model" in scored.facts else {}
    score: dict[str, Any] = {**model, **shared}
    if trained is not None:
        lines.append(_line("train", ["pool"], {**model, **shared, **_tuning(trained)}, "reference"))
        score["reference"] = "reference"
    elif "reference" in scored.inputs:
        score["reference"] = "REFERENCE"
    if "scorers" in scored.facts:
        score["scorers"] = list(scored.facts["scorers"])
    if scored.facts.get("vectors", "none") != "none":
        score["vectors"] = scored.facts["vectors"]
    lines.append(_line("score", ["pool"], score, "scores"))
    lines.append(_line("select", ["scores"], options, "selection"))
    return lines


def _tuning(trained: Outcome) -> dict[str, Any]:
    """Return the options of a training that are not what they are by default."""
    if "model" in trained.facts:
        return {"reference.model": _plain(trained.facts["model"])}
    known, usual = _parameters(trained.folder), json.loads(json.dumps(asdict(Reference())))
    names = [field.name for field in fields(Reference)]
    return {_flag(name): known[name] for name in names if known.get(name, usual[name]) != usual[name]}


def _parameters(folder: Path) -> dict[str, Any]:
    return dict(read_json(folder / DONE).get("parameters", {}))


def _line(verb: str, given: Sequence[str], options: Mapping[str, Any], output: str) -> str:
    words = ["learnable", verb, *given]
    for name, value in options.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join([*words, "-o", output])


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _plain(name: str) -> str:
    """Return the name of a model without the folder that it lies in; a hub id stays as it is."""
    path = Path(name).expanduser()
    return path.name if path.is_absolute() or path.exists() else name
