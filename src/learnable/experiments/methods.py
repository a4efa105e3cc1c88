"""``NAME[@key=value,...][/SELECTOR]``: how a way to choose is written, the selections that it makes, and their arms."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.errors import SelectionError, UsageError, did_you_mean
from learnable.experiments.arms import UNTUNED, Arm
from learnable.experiments.table import FULL
from learnable.measures import Role, roles_of
from learnable.runs.identity import fingerprint, source_of
from learnable.scorers import SCORERS
from learnable.selectors import SELECTORS, Choosing, PerSource, choose
from learnable.settings import LATER, Reference, Tuning
from learnable.spec import build, settings_in, settings_of, typed
from learnable.types import Budget, ModelRef, Rendered, Scorer

Kind = Literal["chosen", "column", "full", "untuned"]
ALIASES: Mapping[str, tuple[str, bool]] = {"longest": ("length", False), "shortest": ("length", True)}
"""Names that users know, with the score and whether its lowest values are kept."""
RANDOM = "random"
WITHOUT_BUDGET = (FULL, UNTUNED)
SCORELESS = (RANDOM, "k_center", "facility_location")
"""Selectors that need no score."""
NEUTRAL = "length"
"""Score for selectors that take none: it only tells which examples have a response."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to choose a budget of examples; from ``lowest`` on, the fields are those of ``Choosing``.

    Args:
        label: As it was written; names the method everywhere.
        kind: ``chosen`` by a score and a selector, given as a ``column`` of booleans, the ``full`` pool, or the
            ``untuned`` model.
        score: Scorer, or the column.
        selector: Name in the table of selectors.
        lowest: Keep low values of the score.
        reference: How the reference of the score is trained.
        min_score: Leave out scores under this.
        max_score: Leave out scores above this, instead of the scorer's own limit.
    """

    label: str
    kind: Kind = "chosen"
    score: str = NEUTRAL
    selector: str = "top_k"
    lowest: bool = False
    reference: Reference = field(default_factory=Reference)
    per_source: PerSource = "none"
    per_cluster: PerSource = "none"
    clusters: int = 100
    max_similarity: float | None = None
    where: str | None = None
    min_score: float | None = field(default=None, metadata=LATER)
    max_score: float | None = None

    @property
    def scorer(self) -> Scorer | None:
        """The scorer, None for a method without one."""
        return build("scorer", self.score, SCORERS) if self.kind == "chosen" else None

    @property
    def source(self) -> str:
        """What its scorer and its selector do."""
        return fingerprint([source_of(self.scorer), source_of(build("selector", self.selector, SELECTORS))])

    @property
    def takes_score(self) -> bool:
        """Whether it prefers some scores to others; a random draw and k-center do not."""
        return self.kind == "chosen" and self.selector not in SCORELESS

    @property
    def roles(self) -> set[Role]:
        """What its score measures the pool under."""
        return roles_of(self.scorer.needs) if self.scorer is not None else set()

    @property
    def needs_reference(self) -> bool:
        """Whether its score compares with a fine-tuned model."""
        return "reference" in self.roles

    @property
    def needs_vectors(self) -> bool:
        """Whether it looks at how alike examples are."""
        asked = self.per_cluster != "none" or self.max_similarity is not None
        selector = build("selector", self.selector, SELECTORS)
        looks = getattr(selector, "needs_vectors", False) and not self.by_target
        return self.kind == "chosen" and (asked or looks)

    @property
    def by_target(self) -> bool:
        """Whether it looks at what each row of a target says of each example."""
        selector = build("selector", self.selector, SELECTORS)
        return self.kind == "chosen" and getattr(selector, "by_target", False)

    @property
    def draws(self) -> bool:
        """Whether its choice depends on the seed, so that every seed makes a selection of its own."""
        drawn = self.selector.startswith(("random", "gumbel_top_k")) or self.selector not in SELECTORS
        return self.kind == "column" or drawn or self.per_cluster != "none"

    def select(
        self,
        scores: pl.DataFrame,
        *,
        tokens: int,
        vectors: NDArray[np.float32] | None = None,
        seed: int = 0,
    ) -> list[str]:
        """Return the ids that this method chooses, in the order picked.

        Args:
            scores: n rows with ``id``, ``source``, ``tokens``, ``undefined`` and the columns that are asked for.
            tokens: Budget, prompt and response; not used by the full pool. A published selection (a column) that is
                above it is cut down at random.
            vectors: (n, d); of a method that looks at a target's rows, what each turn of them says (n, turns).
            seed: For what draws.

        Raises:
            SelectionError: If nothing can be chosen.
        """
        if self.kind == "untuned":
            return []
        if self.kind == "full":
            return list(scores.filter(pl.col("undefined").is_null())["id"])
        scorer = self.scorer
        if scorer is None:
            scores = scores.with_columns(
                pl.when(pl.col(self.score).cast(pl.Boolean)).then(1.0).alias("_column")
            )
            inside = scores.filter(pl.col("_column").is_not_null() & pl.col("undefined").is_null())
            tokens = min(tokens, int(inside["tokens"].sum()))
            if not tokens:
                raise SelectionError(f"the column {self.score!r} holds no example that can be trained on")
            by, selector, lowest, limit = "_column", "random", False, None
        else:
            by, selector = self.score, self.selector
            lowest = self.lowest == scorer.higher_is_better
            limit = self.max_score if self.max_score is not None else getattr(scorer, "max_score", None)
        settings = {name: getattr(self, name) for name in _OURS} | {"lowest": lowest, "max_score": limit}
        selection = choose(
            scores,
            Choosing(by=by, seed=seed, **settings),
            budget=Budget(tokens=tokens),
            method=build("selector", selector, SELECTORS),
            vectors=vectors if self.needs_vectors or self.by_target else None,
        )
        return list(selection.kept["id"])


def parse_method(written: str, *, reference: Reference, columns: Collection[str] | None = ()) -> Method:
    """Return the method that ``NAME[@key=value,...][/SELECTOR]`` stands for.

    NAME is a scorer, a selector that needs no score (``random``, ``k_center`` ...), ``longest``, ``shortest``,
    ``full``, ``untuned``, or a column of booleans in the pool that has none of these names. The keys are those of a
    reference (``folds``, ``epochs`` ...) and of a selection (``lowest``, ``per_source``, ``per_cluster``,
    ``clusters``, ``max_similarity``, ``where``, ``min_score``, ``max_score``), and those of the scorer itself.

    Args:
        written: What the user wrote.
        reference: Settings that hold where the method says nothing else.
        columns: Columns of booleans in the pool; None where they are not known yet, and any name may be one.

    Raises:
        UsageError: If a part of it is not known.
    """
    rest, slash, selector = _parted(written)
    name, _, settings = rest.partition("@")
    pairs = settings_in(settings) if settings else {}
    if pairs is None:
        raise UsageError(
            f"cannot read {settings!r} in {written!r}", hint="write NAME@key=value,key=value/SELECTOR"
        )
    method = replace(_named(name, columns, selected=bool(slash)), label=written)
    scorer = SCORERS.get(name)
    fields_of_score = settings_of(scorer) if isinstance(scorer, type) else {}
    known = _OURS if not method.needs_reference else _REFERENCE | _OURS
    own = {key: pairs.pop(key) for key in list(pairs) if key in fields_of_score and key not in known}
    given = typed(written, _REFERENCE | _OURS, pairs)
    ours = {key: given.pop(key) for key in list(given) if key in _OURS}
    if own:
        method = replace(method, score=f"{name}@{','.join(f'{key}={value}' for key, value in own.items())}")
    if slash:
        build("selector", selector, SELECTORS)
        method = replace(method, selector=selector)
    method = replace(method, reference=replace(reference, **given), **ours)
    if (given and not method.needs_reference) or ((ours or slash) and method.kind != "chosen"):
        raise UsageError(f"{written!r}: {name} has no such setting", hint="leave out what follows its name")
    return method


def _named(name: str, columns: Collection[str] | None, *, selected: bool) -> Method:
    """Return the method of a name alone; with a selector behind it, one that needs no score is none."""
    if name in WITHOUT_BUDGET:
        return Method(label=name, kind=cast("Kind", name))
    if name in ALIASES:
        return Method(label=name, score=ALIASES[name][0], lowest=ALIASES[name][1])
    if name in SCORELESS and not selected:
        return Method(label=name, selector=name)
    if name in SCORERS or ":" in name:
        return Method(label=name, score=name)
    if name in columns if columns is not None else name and name not in SELECTORS:
        return Method(label=name, kind="column", score=name)
    known = [*SCORERS, *SCORELESS, *ALIASES, *WITHOUT_BUDGET, *(columns or ())]
    as_selector = f"it is a selector: write SCORE/{name}, such as loss/{name}"
    hint = as_selector if name in SELECTORS else did_you_mean(name, known)
    raise UsageError(f"no way to choose called {name!r}", hint=hint)


def outside_names(written: str) -> list[str]:
    """Return the ``module:attribute`` that a method names, for its score or its selector; none of them is imported."""
    rest, _, selector = _parted(written)
    return [name for name in (rest.partition("@")[0], selector) if ":" in name]


def parse_methods(
    written: Collection[str], *, reference: Reference, columns: Collection[str] | None = ()
) -> list[Method]:
    """Return all methods, with ``untuned`` and ``random`` always among them: they are what the others stand beside.

    Raises:
        UsageError: If one is not known, or written twice.
    """
    if repeated := sorted({name for name in written if list(written).count(name) > 1}):
        raise UsageError(f"{repeated[0]!r} is there twice", hint="name every method once")
    names = [*(name for name in (UNTUNED, RANDOM) if name not in written), *written]
    return [parse_method(name, reference=reference, columns=columns) for name in names]


def arms_of(
    methods: Sequence[Method],
    select: Callable[[Method, int, int], list[str]],
    rendered: Mapping[str, Rendered],
    *,
    base: ModelRef,
    tuning: Tuning,
    budgets: Sequence[int],
    seeds: int,
) -> list[Arm]:
    """Return the arms of methods at budgets; those of the first seed come first.

    At one budget, in tokens, all arms take the same number of steps: as many as the budget has batches of the pool's
    mean length, but never more than the smallest selection has examples. The full pool trains in ordinary batches, the
    untuned model not at all. ``select`` gives the ids for a method, a budget and a seed.
    """
    chosen: dict[tuple[str, int, int], list[str]] = {}
    fewest: dict[int, int] = {}
    for method in methods:
        for budget in budgets if method.kind not in WITHOUT_BUDGET else [0]:
            for seed in range(seeds if method.kind != UNTUNED else 1):
                again = chosen.get((method.label, budget, 0)) if not method.draws else None
                ids = chosen[method.label, budget, seed] = again or select(method, budget, seed)
                fewest[budget] = min(len(ids), fewest.get(budget, len(ids)))
    mean = sum(len(row.ids) for row in rendered.values()) / max(len(rendered), 1)
    arms = []
    for (label, budget, seed), ids in chosen.items():
        steps = max(1, min(round(budget / (tuning.batch_size * mean)), fewest[budget])) if budget else None
        arm = Arm(
            label=label,
            budget_tokens=budget or None,
            seed=seed,
            base=base,
            stages=(tuple(rendered[name] for name in ids),) if ids else (),
            tuning=replace(tuning, seed=seed, steps=steps),
        )
        arms.append(arm)
    return sorted(arms, key=lambda arm: arm.seed)


_REFERENCE = settings_of(Reference)
_NAMED = ("label", "kind", "score", "selector", "reference")
_OURS = {key: kind for key, kind in settings_of(Method).items() if key not in _NAMED}


def _parted(written: str) -> tuple[str, str, str]:
    """Part the selector from the rest; a slash may also stand in a setting, such as a path or a division."""
    rest, slash, selector = written.rpartition("/")
    if slash and ("@" not in rest or selector in SELECTORS or ":" in selector):
        return rest, slash, selector
    return written, "", ""
