"""What several commands have in common on the command line."""

from typing import Annotated

from cyclopts import Parameter

Flat = Parameter(name="*")
"""The fields of a dataclass as options of their own."""

Output = Annotated[str, Parameter(alias="-o")]

Several = Parameter(consume_multiple=True)
"""Several values after one flag."""
