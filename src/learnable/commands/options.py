"""What several commands have in common on the command line."""

from typing import Annotated, Any

from cyclopts import Parameter

Flat = Parameter(name="*")
"""The fields of a dataclass as options of their own."""

Output = Annotated[str, Parameter(alias="-o")]

Several = Parameter(consume_multiple=True, show_default=False)
"""Several values after one flag."""

Listed = Parameter(consume_multiple=True, show_default=" ".join)
"""The same of a list that has a default."""


def typed(flag: str, value: Any) -> list[str]:
    """Return an option as it is typed."""
    texts = [str(each) for each in value] if isinstance(value, (list, tuple)) else [str(value)]
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if any(text.startswith("-") for text in texts):
        return [f"{flag}={text}" for text in texts]
    return [flag, *texts]
