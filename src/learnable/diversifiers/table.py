"""Diversifiers by name. To add one, write it in a file of its own and give it a line here."""

import re
from collections.abc import Callable, Mapping

from learnable.diversifiers.constraints import Constraints
from learnable.diversifiers.facts import Facts
from learnable.diversifiers.hints import Hints
from learnable.diversifiers.kinds import Diversifier
from learnable.diversifiers.paraphrase import Paraphrase
from learnable.diversifiers.self_sample import SelfAnswer, SelfSample
from learnable.errors import UsageError
from learnable.evaluators.table import built, parse

DIVERSIFIERS: Mapping[str, Callable[..., Diversifier]] = {
    "paraphrase": Paraphrase,
    "self_sample": SelfSample,
    "self_answer": SelfAnswer,
    "facts": Facts,
    "constraints": Constraints,
    "hints": Hints,
}


def build_diversifier(written: str) -> tuple[str, Diversifier]:
    """Return the name of a method and the method, of ``NAME[@key=value,...]``; NAME may be ``module:attribute``."""
    # An evaluator's parser, which would speak of evaluators and paths.
    specification = parse(written) if re.match(r"\w", written) else None
    if specification is None or specification.path is not None:
        raise UsageError(
            f"cannot read the method {written!r}",
            hint=f"write NAME@key=value,key=value; known: {', '.join(sorted(DIVERSIFIERS))}",
        )
    return specification.name, built("method", specification, DIVERSIFIERS)
