"""Options that several commands and recipes have in common: what each is for is said here, once."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from cyclopts import Parameter

from learnable.experiments import Init

Flat = Parameter(name="*", consume_multiple=True)
"""The fields of a dataclass as options of their own."""

Short = Parameter(alias="-o")

Several = Parameter(consume_multiple=True, show_default=False)
"""Several values after one flag."""

Listed = Parameter(consume_multiple=True, show_default=" ".join)
"""The same of a list that has a default."""

_FILES = "Files (.jsonl, .json, .csv, .parquet ...), folders and patterns of them"
Files = Annotated[Sequence[str], Listed, Parameter(help=f"{_FILES}, or hub ids.")]
FilesOrStarter = Annotated[Sequence[str], Listed, Parameter(help=f"{_FILES}, hub ids, or `starter`.")]
Data = Annotated[list[str], Parameter(help="Files, or a folder that `learnable load` wrote.")]
ModelName = Annotated[str, Parameter(help="Folder, hub id, GGUF file, or `starter`.")]
MaxLength = Annotated[
    int | None,
    Parameter(help="Longest example in tokens; 2,048 or the model's own limit when not given."),
]
NewRow = Annotated[
    Init,
    Parameter(
        help="How the row of a new token begins: random, mean (of all rows), or description (mean of its meaning's)."
    ),
]
StoreFolder = Annotated[str, Parameter(help="Folder of measurements; what is in it is never measured twice.")]
DryRun = Annotated[bool, Parameter(help="Say what would run, and run nothing.")]
Confidence = Annotated[float, Parameter(help="Of all intervals of an evaluation together.")]
ScorerNames = Annotated[
    Sequence[str], Listed, Parameter(help="Names of scorers (see `learnable list scorers`).")
]
TargetColumns = Annotated[
    str | None,
    Parameter(help="Its columns, as `--columns`, where neither these nor usual names hold for it."),
]
Output = Annotated[str, Short, Parameter(help="Folder to write.")]


def unusual(given: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are not what they are by default."""
    return {name: given[name] for name, value in usual.items() if given.get(name, value) != value}


def words_of(options: Mapping[str, Any]) -> list[str]:
    """Return options as they are typed."""
    return [word for name, value in options.items() for word in typed(f"--{name.replace('_', '-')}", value)]


def typed(flag: str, value: Any) -> list[str]:
    """Return an option as it is typed."""
    texts = [str(each) for each in value] if isinstance(value, (list, tuple)) else [str(value)]
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if any(text.startswith("-") for text in texts):
        return [f"{flag}={text}" for text in texts]
    return [flag, *texts]
