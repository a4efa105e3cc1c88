"""What several commands have in common on the command line."""

from typing import Annotated

from cyclopts import Parameter

Flat = Parameter(name="*")
"""The fields of a dataclass as options of their own."""

Output = Annotated[str, Parameter(alias="-o")]

Several = Parameter(consume_multiple=True, show_default=False)
"""Several values after one flag."""

Listed = Parameter(consume_multiple=True, show_default=" ".join)
"""The same of a list that has a default."""
