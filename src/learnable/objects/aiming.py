"""What is measured against a target: columns of a table of scores, and what each row of the target says of each example."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.data import prompt_key
from learnable.data.target import shared_with_target
from learnable.deferred import training
from learnable.errors import UsageError
from learnable.measures import Role, extrapolated, lengths, log_importance
from learnable.objects.given import compared_with, render_rows
from learnable.objects.gradients import GradientPasses
from learnable.objects.model import Model
from learnable.objects.passes import Passes
from learnable.objects.results import as_array
from learnable.objects.rows import Rows
from learnable.objects.training import train
from learnable.runs.identity import fingerprint
from learnable.runs.progress import say
from learnable.scorers import LESS
from learnable.selectors.vectors import unit
from learnable.settings import Aim, Tuning
from learnable.types import Example, Rendered, Scorer


@dataclass(kw_only=True)
class Against:
    """Measures n examples of a pool (``rows``, as a model sees them ``rendered``) against the rows of a ``target``, which were read with their subtasks.

    ``passes`` measure the ``base`` model; what is trained on the way is kept in their store too. ``frame`` has ``id``
    and ``response_tokens`` of the pool. Gradients are taken at the epochs of ``warm_up``, beside which stands the identity
    of the target whose rows it left out. ``facts`` are figures to show.
    """

    target: Rows
    aim: Aim
    base: Model
    passes: Passes
    rows: Rows
    rendered: Sequence[Rendered]
    frame: pl.DataFrame
    warm_up: "tuple[Sequence[training.KeptEpoch], str | None] | None" = None
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._target, self._says = self.target.as_target, dict[str, NDArray[np.float32]]()
        self._shared, self._unfinished = shared_with_target(self.rows.pool, self._target), list[Path]()
        self._aimed = render_rows(
            self.passes.renderer,
            self._target.examples,
            max_length=self.passes.max_length,
            most_refused=self.target.reading.most_bad,
        )
        for example, row in zip(self._target.examples, self._aimed, strict=True):
            if not row.mask.any():
                raise UsageError(
                    f"a row of the target has no answer to learn from: {example.id[:8]}",
                    hint="give answers in the target's rows, or a longer max_length; it counts by what is answered",
                )
        self.facts["target"] = len(self._target)
        self.facts["subtasks"] = list(self._target.subtasks)

    def columns(self, roles: Collection[Role]) -> list[pl.Series]:
        """Return the columns of these roles, (n,) each; those that are not measured against a target do not count."""
        made: dict[Role, Callable[[], pl.Series]] = {
            "target": self._after_target,
            "similarity": self._similarities,
            "words": self._words,
            "costate": self._worth,
        }
        return [made[role]() for role in made if role in roles]

    def said(self, methods: Mapping[str, Scorer]) -> dict[str, NDArray[np.float32]]:
        """Return by scorer what each row of the target, or each subtask, says of each example, (n, t)."""
        return {
            name: self._says[column]
            for name, method in methods.items()
            for column in (name, *method.needs)
            if column in self._says
        }

    def without_own(self, frame: pl.DataFrame, scorers: Sequence[str]) -> pl.DataFrame:
        """Return scores without those of rows that are rows of the target, and why."""
        reasons = pl.Series("shared", self._shared, dtype=pl.String)
        inside = reasons.is_not_null()
        return frame.with_columns(
            pl.coalesce("undefined", reasons).alias("undefined"),
            *(
                pl.when(inside).then(float("nan")).otherwise(pl.col(name)).cast(pl.Float32).alias(name)
                for name in scorers
            ),
        )

    def gradients(self, name: str, method: Scorer) -> pl.Series:
        """Return the column of gradients as a scorer takes them, List(Float32) (n,), and say what it rests on."""
        assert self.warm_up is not None
        epochs, left_out = self.warm_up
        if left_out != self._target.identity and any(self._shared):
            say(
                "warning: the warm-up may have trained on rows of the target: train it with --target, which leaves them out"
            )
        how = method if isinstance(method, LESS) else LESS()
        passes = GradientPasses(self.passes, epochs, self._target, self._aimed)
        cosines = passes.cosines(how, self.rendered, self.frame)
        self._says[name] = cosines
        self.facts |= {
            f"{name}: epochs": {place + 1: round(weight, 4) for place, weight in passes.weights(how).items()},
            f"{name}: moments below epsilon": round(passes.small_share, 4),
        }
        rows = [None if np.isnan(row).any() else row.tolist() for row in cosines]
        return pl.Series("gradient_cosines", rows, dtype=pl.List(pl.Float32))

    def _after_target(self) -> pl.Series:
        """Return the loss of each example under the base fine-tuned on the target."""
        settings = {name: getattr(self.aim, name) for name in ("epochs", "rank", "learning_rate", "seed")}
        trained = self._trained(folds=0, **settings)
        prompts = {prompt_key(example, draw=self.aim.seed) for example in self._target.examples}
        if self.aim.check and len(self._target) >= 4 and len(prompts) > 1:
            self._check(**settings)
        return self.passes.columns(
            "target", {"loss_target"}, self.rendered, self.frame, references=trained
        ).to_series()

    def _trained(self, **settings: Any) -> "training.References":
        folder = self.passes.store.folder / "target-{fingerprint}"
        trained = train(self.target, self.base, output=folder, max_length=self.passes.max_length, **settings)
        self.passes.tokens += trained.trained.cost.tokens if trained.trained.ran else 0
        return compared_with(str(trained.folder), self.base.ref).models

    def _check(self, **settings: Any) -> None:
        """Say whether either half of the target helps the other."""
        frame = lengths(self._aimed)
        halves = self._trained(folds=2, **settings)
        before = self.passes.columns("base", {"loss_before"}, self._aimed, frame, label=" of the target")
        after = self.passes.columns(
            "target", {"loss_target"}, self._aimed, frame, references=halves, label=", held back"
        )
        losses = [float(each.to_series().mean()) for each in (before, after)]  # type: ignore[arg-type]
        self.facts["target loss held back"] = {"before": round(losses[0], 4), "after": round(losses[1], 4)}
        say(
            f"target rows held back: {losses[0]:.3f} nats per token before, {losses[1]:.3f} after the other half"
        )
        if losses[1] >= losses[0]:
            say(
                "warning: the rows of the target teach each other nothing in this training: give more of them, "
                "or change --aim.epochs"
            )

    def _similarities(self) -> pl.Series:
        """Return the cosine of each example's vector to that of each row of the target, List(Float32) (n,)."""
        own = self.passes.vectors(self.rendered, self.frame)
        theirs = self.passes.vectors(self._aimed, lengths(self._aimed))
        aims = as_array(theirs)
        vectors = as_array(own, width=aims.shape[1])
        cosines = unit(vectors) @ unit(aims).T  # (n, t)
        cosines[~np.isfinite(vectors).all(axis=1)] = np.nan
        self._says["similarities"] = cosines
        return pl.Series("similarities", list(cosines), dtype=pl.List(pl.Float32))

    def _words(self) -> pl.Series:
        """Return how much likelier the words of each example are in the target."""
        found = log_importance(list(map(_text, self.rows.examples)), map(_text, self._target.examples))
        return pl.Series("log_importance", found)

    def _worth(self) -> pl.Series:
        """Return what each example is worth to the target, by the costate of a short training."""
        tuning = Tuning(method=self.aim.space, rank=self.aim.rank, seed=self.aim.seed)
        ref, _held = self.base.for_training(moves_weights=self.aim.space == "full")
        rows = [
            place
            for place, (row, shared) in enumerate(zip(self.rendered, self._shared, strict=True))
            if shared is None and row.mask[1:].any()
        ]
        if not rows:
            raise UsageError("no row of the pool has a token to be scored", hint="is max_length long enough?")
        valued = self._proxy(rows)
        network = training.adapters.trainable(replace(ref, dtype="float32"), tuning)
        descent, pool, target = (
            training.costate.NetworkLosses(network, some)
            for some in (*([self.rendered[place] for place in some] for some in (rows, valued)), self._aimed)
        )
        rng = np.random.default_rng(self.aim.seed)
        order = np.concatenate(
            [rng.permutation(len(rows)) for _ in range(1 + self.aim.steps * self.aim.batch // len(rows))]
        )
        found = training.costate.worth_of_rows(
            descent.point,
            batches=[
                order[step * self.aim.batch : (step + 1) * self.aim.batch].tolist()
                for step in range(self.aim.steps)
            ],
            rate=self.aim.descent_rate,
            training=descent,
            target=target,
            pool=pool,
            visit=self.aim.visit,
            curvature=self.aim.curvature,
            state=(state := self.passes.store.folder / f"costate-{self._identity(rows)}.pt"),
        )
        self._unfinished.append(state)
        self.passes.tokens += descent.tokens + pool.tokens + target.tokens
        self._say_worth(found)
        worth = np.full(len(self.rendered), np.nan)
        worth[valued] = found.scores
        if len(valued) < len(rows):
            worth = self._told(worth)
        return pl.Series("worth", worth, dtype=pl.Float32)

    def _proxy(self, rows: Sequence[int]) -> Sequence[int]:
        """Return those of some rows that are valued by passes."""
        if self.aim.proxy is None:
            return rows
        if self.aim.proxy >= len(rows):
            say(f"a proxy of {self.aim.proxy:,} rows is not below the pool of {len(rows):,}: all are valued")
            return rows
        drawn = np.random.default_rng([self.aim.seed, 1]).choice(rows, self.aim.proxy, replace=False)
        return sorted(drawn.tolist())

    def _told(self, worth: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the worth of all rows, (n,), from that of the proxy and the vectors of the model."""
        vectors = as_array(self.passes.vectors(self.rendered, self.frame))
        found = extrapolated(worth, vectors, seed=self.aim.seed)
        agreement = None if np.isnan(found.agreement) else round(found.agreement, 3)
        valued, told = (int(np.isfinite(each).sum()) for each in (worth, found.values))
        self.facts["proxy"] = {
            "rows valued": valued,
            "others told": told - valued,
            "rank correlation": agreement,
        }
        seen = f"told by vectors, worth has a rank correlation of {agreement} with that of held-out rows of the proxy"
        words = (
            f"{valued} rows of a proxy are too few to tell the worth of others" if agreement is None else seen
        )
        if told == valued:
            words = f"warning: {words}: no other row is scored; give a larger --aim.proxy, or none"
        say(words)
        shared = np.array([reason is not None for reason in self._shared])
        return np.where(shared, np.nan, found.values)

    def finish(self) -> dict[str, Any]:
        """Return the figures to show, and remove what a run that was stopped would have gone on from."""
        for path in self._unfinished:
            path.unlink(missing_ok=True)
        return self.facts

    def _identity(self, rows: Sequence[int]) -> str:
        """Return what the short training and the way back depend on."""
        key, ids = self.passes.key(None), self.rows.frame["id"]
        own = [key, self.passes.renderer.key, self.passes.max_length, [ids[place] for place in rows]]
        return fingerprint([*own, self._target.identity, self.aim])

    def _say_worth(self, found: "training.costate.Worth") -> None:
        self.facts["target loss in the short training"] = {
            "before": round(found.target_before, 4),
            "after": round(found.target_after, 4),
        }
        halves = pl.DataFrame(dict(zip("ab", found.halves, strict=True)))
        agree = halves.select(pl.corr("a", "b", method="spearman")).item()
        if np.isfinite(agree):  # of one visit there are no halves
            self.facts["halves of the visits agree"] = round(float(agree), 3)


def _text(example: Example) -> str:
    return "\n".join(turn.content for turn in example.messages if turn.role in ("user", "assistant"))
