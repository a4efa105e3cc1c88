"""What a leak is looked for in, and how: what models show of items, the verdict over them, and the tables of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from learnable.commands.likelihoods import LocalTexts, TextModel
from learnable.errors import UsageError
from learnable.evaluators.leakage import (
    OPTION,
    ChoiceItem,
    Rendering,
    check_option,
    check_orders,
    choice_items,
    reproduced,
)
from learnable.experiments.leakage import (
    AT,
    FOREST_THRESHOLDS,
    UNDEFINED,
    OrderStatistics,
    Roc,
    Seen,
    SetVerdict,
    Values,
    adjusted,
    by_subject,
    forest_on_noise,
    forest_scores,
    order_statistics,
    residuals,
    roc,
    set_verdict,
    top_probabilities,
)
from learnable.packages import needed
from learnable.runs.files import write_frame, write_text
from learnable.runs.price import Price
from learnable.runs.step import Finished
from learnable.runs.store import Store

Scenario = Literal["fixed", "shuffled"]
Detector = Literal["orders", "isolation_forest", "ngram"]
CLOSE = 0.05
"""Nats between the two likeliest orders under which an item is measured again in float32."""
REPRODUCED = 0.75
"""ROUGE-L above which an option counts as reproduced."""
LEVELS = {
    ("orders", "fixed"): "z of the original order",
    ("orders", "shuffled"): "standard deviations of the likeliest order above the others",
    ("isolation_forest", "fixed"): "score of the isolation forest",
    ("ngram", "fixed"): "ROUGE-L of the options",
}
"""What the level of an item is, by detector and scenario."""
HITS = {
    ("orders", "fixed"): "the original order is the likeliest",
    ("orders", "shuffled"): f"one order stands out, p at most {AT}",
    ("isolation_forest", "fixed"): f"the forest's score is under {FOREST_THRESHOLDS[0]}",
    ("ngram", "fixed"): f"an option is reproduced, ROUGE-L above {REPRODUCED}",
}
"""When a detector says leaked."""


@dataclass(frozen=True, kw_only=True)
class Detecting:
    """How a leak is looked for.

    Args:
        by: ``orders``: what the log-probabilities of the orders of an item's options say. ``isolation_forest``: the same
            by the forest of the paper, with its rate of false alarms on noise beside it (extra ``forest``). ``ngram``:
            whether the model goes on with the options word by word.
        scenario: Of ``orders``. ``fixed``: whoever trained kept the order of the options, and it is the original that
            must stand out. ``shuffled``: any order may, as the one that was trained on is not known.
        orders: Orders of an item that are looked at, the original among them; ``all``, or how many.
        rendering: ``plain``: the text as it is, as pages on the web show it. ``chat``: what a user says, in the model's
            chat template.
        option: How an option is written.
        truth: Column that says whether an item was trained on, where that is known: for the curve of the detector.
        confidence: Of the verdict and the intervals.
    """

    by: Detector = "orders"
    scenario: Scenario = "fixed"
    orders: str = "24"
    rendering: Rendering = "plain"
    option: str = OPTION
    truth: str | None = None
    confidence: float = 0.95

    def __post_init__(self) -> None:
        check_orders(self.orders)
        check_option(self.option)
        if not 0 < self.confidence < 1:
            raise UsageError(f"confidence must be between 0 and 1, got {self.confidence}")
        if self.by != "orders" and self.scenario != "fixed":
            raise UsageError(
                f"the scenario is of orders, and {self.by} has none", hint="leave --scenario out"
            )
        if self.by == "isolation_forest":
            needed("sklearn.ensemble", by="the isolation forest", extra="forest")

    @property
    def way(self) -> tuple[str, str]:
        """Detector and scenario, as tables of words know them."""
        return self.by, self.scenario

    def items(self, written: str) -> list[ChoiceItem]:
        """Return the items of a benchmark."""
        return choice_items(written, truth=self.truth, most=check_orders(self.orders))

    def groups(self, items: Sequence[ChoiceItem]) -> list[list[tuple[str, int]]]:
        """Return the texts of each item, one for each order, the original first."""
        most = check_orders(self.orders)
        return [[item.text(order, option=self.option) for order in item.orders(most)] for item in items]


@dataclass(frozen=True, kw_only=True)
class Traces:
    """What one model shows of one set: by ``sums`` of log-probabilities, or ROUGE-L of each option, (n,) lists."""

    sums: list[Values]
    statistics: list[OrderStatistics]
    top_p: Values
    uneven: list[bool]
    why: list[str]
    seen: Seen


@dataclass(frozen=True, kw_only=True)
class Search:
    """Sets of items (``benchmark``, and ``clean``) and models (``model``, and ``reference``), and how a leak is looked for."""

    detecting: Detecting
    sets: Mapping[str, Sequence[ChoiceItem]]
    models: Mapping[str, TextModel]
    store: Store

    @cached_property
    def asked(self) -> dict[str, list[ChoiceItem]]:
        """The items of each set that can be asked."""
        return {name: [item for item in items if not item.refused] for name, items in self.sets.items()}

    @property
    def says(self) -> str:
        """What will be done, in words."""
        items = sum(map(len, self.asked.values()))
        what = "completions of their options" if self.detecting.by == "ngram" else "orders of their options"
        models = "1 model" if len(self.models) == 1 else f"{len(self.models)} models"
        return f"{what}, {items:,} items, {models}"

    def price(self) -> Price:
        """Return what the passes cost that are not stored; of completions, reading the items."""
        groups = self.detecting.groups([item for items in self.asked.values() for item in items])
        if self.detecting.by == "ngram":
            groups = [group[:1] for group in groups]
        texts = [text for group in groups for text in group]
        return sum((each.price(texts, store=self.store) for each in self.models.values()), Price())

    def work(self, folder: Path, names: Mapping[str, str | None], *, command: str) -> Finished:
        """Measure, compare, and write tables and the page, on which the command stands."""
        from learnable.pages.leakage import LeakageFacts, render_leakage

        seen = self.seen()
        verdict, frame = self.judged(seen), self.table(seen)
        write_frame(frame, folder / "items.parquet")
        subjects = by_subject(frame)
        write_frame(subjects, folder / "subjects.parquet")
        curve = self.curve(frame)
        notes = [*self.notes(seen), *self.forest_notes(seen)]
        onward = [("Every item and its figures", str(folder / "items.parquet"))]
        if not {"reference", "clean"} & {*self.models, *self.sets}:
            beside = "Hold it against the model that it was made from (BASE)"
            onward.append((beside, f"{command} --reference BASE"))
        facts = LeakageFacts(
            detecting=vars(self.detecting),
            names={
                **{name: each.name for name, each in self.models.items()},
                **{k: v for k, v in names.items() if v},
            },
            items=frame,
            subjects=subjects,
            verdict=verdict,
            curve=curve,
            notes=notes,
            level=LEVELS[self.detecting.way],
            hit=HITS[self.detecting.way],
            command=command,
            onward=onward,
        )
        report = folder / "report.html"
        write_text(report, render_leakage(facts))
        return Finished(facts=facts_of(verdict, frame, curve, notes) | {"report": str(report)})

    def seen(self) -> dict[tuple[str, str], Traces]:
        """Return what each model shows of each set, the reference first: its noise is what others are held against."""
        found: dict[tuple[str, str], Traces] = {}
        for who in sorted(self.models, reverse=True):
            given = self.models[who]
            for name, items in self.asked.items():
                label = f"{'completions' if self.detecting.by == 'ngram' else 'orders'} of {name}, {who}"
                look = self._completed if self.detecting.by == "ngram" else self._ordered
                found[who, name] = look(given, items, label, found.get(("reference", name)))
            if isinstance(given, LocalTexts):
                given.release()
        return found

    def _ordered(
        self, given: TextModel, items: Sequence[ChoiceItem], label: str, reference: Traces | None
    ) -> Traces:
        sums, uneven, why = self._sums(given, self.detecting.groups(items), label)
        if isinstance(given, LocalTexts) and given.network.ref.dtype != "float32":
            close = [place for place, each in enumerate(sums) if order_statistics(each).gap < CLOSE]
            if close:
                given.release()
                exact = given.exact()
                groups = self.detecting.groups([items[place] for place in close])
                again, _, _ = self._sums(exact, groups, f"{label}, close ones in float32")
                exact.release()
                for place, each in zip(close, again, strict=True):
                    sums[place] = each
        orders = np.array([len(each) for each in sums])
        statistics = [order_statistics(each) for each in sums]
        pool = residuals(reference.sums if reference is not None else [])
        tops = np.array([each.top for each in statistics])
        p = top_probabilities(tops, orders, pool=pool if len(pool) else None)
        seen = self._as_seen(sums, statistics, p, orders)
        return Traces(sums=sums, statistics=statistics, top_p=p, uneven=uneven, why=why, seen=seen)

    def _sums(
        self, given: TextModel, groups: list[list[tuple[str, int]]], label: str
    ) -> tuple[list[Values], list[bool], list[str]]:
        """Return the log-probabilities of each item's orders, whether their tokens differ in number, and why there are none."""
        texts = [text for group in groups for text in group]
        found = iter(given.likelihoods(texts, store=self.store, label=label))
        sums, uneven, why = [], [], []
        for group in groups:
            mine = [next(found) for _ in group]
            sums.append(np.array([np.nan if each.nll is None else -each.nll for each in mine]))
            uneven.append(len({each.tokens for each in mine}) > 1)
            why.append(next((each.why for each in mine if each.why), ""))
        return sums, uneven, why

    def _as_seen(
        self, sums: list[Values], statistics: list[OrderStatistics], top_p: Values, orders: Values
    ) -> Seen:
        if self.detecting.by == "isolation_forest":
            scores = forest_scores(sums)
            noise = {count: forest_on_noise(count) for count in np.unique(orders).tolist() if count > 2}
            limit = FOREST_THRESHOLDS[0]
            alarms = {count: float((each < limit).mean()) for count, each in noise.items()}
            chance = np.array([alarms.get(count, np.nan) for count in orders.tolist()])
            return Seen(
                levels=-scores, hits=np.where(np.isnan(scores), np.nan, scores < limit), chance=chance
            )
        if self.detecting.scenario == "shuffled":
            tops = np.array([each.top for each in statistics])
            hits = np.where(np.isnan(top_p), np.nan, top_p <= AT)
            return Seen(levels=tops, hits=hits, chance=np.full(len(tops), AT))
        ranks = np.array([each.rank for each in statistics])
        hits = np.where(np.isnan(ranks), np.nan, ranks == 1)
        return Seen(levels=np.array([each.z for each in statistics]), hits=hits, chance=1 / orders)

    def _completed(
        self, given: TextModel, items: Sequence[ChoiceItem], label: str, _: Traces | None
    ) -> Traces:
        places = [(item, place) for item in items for place in range(len(item.options))]
        texts = [item.opening(place, option=self.detecting.option) for item, place in places]
        like = [item.options[place] for item, place in places]
        answers = iter(given.completions(texts, like=like, store=self.store, label=label))
        sums, why = [], []
        for item in items:
            mine = [next(answers) for _ in item.options]
            scores = [
                np.nan if one.text is None else reproduced(one.text, option)
                for one, option in zip(mine, item.options, strict=True)
            ]
            sums.append(np.array(scores))
            why.append(next((one.why for one in mine if one.why), ""))
        levels = np.array([each.mean() for each in sums])
        hits = np.array(
            [np.nan if np.isnan(each).any() else float((each > REPRODUCED).any()) for each in sums]
        )
        return Traces(
            sums=sums,
            statistics=[UNDEFINED] * len(items),
            top_p=np.full(len(items), np.nan),
            uneven=[False] * len(items),
            why=why,
            seen=Seen(levels=levels, hits=hits, chance=np.full(len(items), np.nan)),
        )

    def judged(self, seen: Mapping[tuple[str, str], Traces]) -> SetVerdict:
        """Return the verdict for the set, over the items whose options do not point at others."""
        kept = {name: np.array([not item.points for item in items]) for name, items in self.asked.items()}
        parts = {(who, name): found.seen.of(kept[name]) for (who, name), found in seen.items()}
        return set_verdict(
            parts["model", "benchmark"],
            reference=parts.get(("reference", "benchmark")),
            clean=parts.get(("model", "clean")),
            clean_reference=parts.get(("reference", "clean")),
            confidence=self.detecting.confidence,
        )

    def table(self, seen: Mapping[tuple[str, str], Traces]) -> pl.DataFrame:
        """Return a line for each item of the benchmark, those that could not be asked too."""
        items, found = self.asked["benchmark"], seen["model", "benchmark"]
        beside = seen.get(("reference", "benchmark"))
        columns: dict[str, Any] = {
            "id": [item.id for item in items],
            "sums": [each.tolist() for each in found.sums],
            **{name: [getattr(each, name) for each in found.statistics] for name in OrderStatistics._fields},
            "top_p": found.top_p,
            "top_q": adjusted(found.top_p),
            "level": found.seen.levels,
            "hit": found.seen.hits,
            "uneven": found.uneven,
            "counted": np.array([not item.points for item in items]) & np.isfinite(found.seen.levels),
            "why": found.why,
        }
        if beside is not None:
            columns |= {"reference_level": beside.seen.levels, "reference_hit": beside.seen.hits}
            columns["difference"] = found.seen.levels - beside.seen.levels
        whole = [
            {
                "id": item.id,
                "subject": item.subject,
                "question": item.question,
                "options": list(item.options),
                "refused": item.refused or None,
                "points_at_options": item.points,
                "leaked": item.leaked,
            }
            for item in self.sets["benchmark"]
        ]
        kinds = {"refused": pl.String, "leaked": pl.Boolean}
        measured = pl.DataFrame(columns, schema_overrides={"sums": pl.List(pl.Float64)})
        return (
            pl.DataFrame(whole, schema_overrides=kinds)
            .join(measured, on="id", how="left", maintain_order="left")
            .with_columns(pl.col("counted").fill_null(value=False))
        )

    def curve(self, frame: pl.DataFrame) -> Roc | None:
        """Return how well levels tell leaked items from others, where the truth was given."""
        if self.detecting.truth is None:
            return None
        level = "difference" if "difference" in frame.columns else "level"
        defined = frame.filter(pl.col(level).is_not_null())
        return roc(
            defined[level].to_numpy(),
            defined["leaked"].to_numpy().astype(bool),
            confidence=self.detecting.confidence,
        )

    def notes(self, seen: Mapping[tuple[str, str], Traces]) -> list[str]:
        """Say what must be known of how it was measured."""
        found = []
        models = list(self.models.values())
        local = [each for each in models if isinstance(each, LocalTexts)]
        tokenizers = {each.network.renderer.vocabulary for each in local}
        if len(tokenizers) > 1 or len(local) not in (0, len(models)):
            found.append(
                "model and reference have other tokenizers: z and top have no unit and can be compared, sums cannot"
            )
        if self.detecting.by != "ngram" and local:
            tokens, computed = local[0].computed(self.detecting.groups(self.asked["benchmark"][:50]))
            found.append(
                f"orders of an item share what they begin with: of {tokens:,} tokens of the first items, {computed:,} are "
                f"computed ({computed / tokens:.1%})"
            )
        uneven = sum(seen["model", "benchmark"].uneven)
        if uneven:
            found.append(
                f"{uneven:,} items have other numbers of tokens in other orders: words merge at the joints"
            )
        fewest = min((len(each) for each in seen["model", "benchmark"].sums), default=0)
        if self.detecting.by != "ngram" and fewest < 20:
            found.append(
                f"some items have {fewest} orders: one of them alone is first by chance in {1 / max(fewest, 1):.0%} of cases"
            )
        return found

    def forest_notes(self, seen: Mapping[tuple[str, str], Traces]) -> list[str]:
        """Say what the paper's forest says at each of its thresholds, and how often it does so on noise."""
        if self.detecting.by != "isolation_forest":
            return []
        found = seen["model", "benchmark"]
        orders = max(len(each) for each in found.sums)
        noise, scores = forest_on_noise(orders), -found.seen.levels[np.isfinite(found.seen.levels)]
        return [
            f"the forest at {limit:g} says leaked of {(scores < limit).mean():.0%} of the items, and of "
            f"{(noise < limit).mean():.0%} of {len(noise)} items of pure noise"
            for limit in FOREST_THRESHOLDS
        ]


def facts_of(
    verdict: SetVerdict, frame: pl.DataFrame, curve: Roc | None, notes: Sequence[str]
) -> dict[str, Any]:
    """Return what the command prints."""
    asked = frame.filter(pl.col("refused").is_null())
    share, low, high = verdict.rate
    facts: dict[str, Any] = {"verdict": f"{verdict.said} (against {verdict.beside})"}
    if np.isfinite(low):
        facts["share of leaked items"] = f"{share:.1%} ({low:.1%} to {high:.1%})"
    hits = asked.filter("counted")["hit"].to_numpy()
    facts["items that the detector calls leaked"] = (
        f"{hits.mean():.1%} of {len(hits):,}"
        + (f"; without a leak {verdict.expected:.1%}" if np.isfinite(verdict.expected) else "")
        if len(hits)
        else "none could be measured"
    )
    for test in verdict.tests:
        facts[test.name] = (
            f"{test.value:+.4f} ({test.low:+.4f} to {test.high:+.4f}), p {test.p:.2g}, {test.counted}"
        )
    if curve is not None:
        facts["area under the curve"] = f"{curve.area:.3f} ({curve.low:.3f} to {curve.high:.3f})"
    alone = int((asked["top_q"] <= AT).sum())
    if alone:
        facts["items of which one order stands out by itself"] = f"{alone:,} (Benjamini-Hochberg at {AT:.0%})"
    left = {
        "refused": frame["refused"].is_not_null().sum(),
        "point at other options": asked["points_at_options"].sum(),
        "not measured": asked.filter(pl.col("level").is_nan()).height,
    }
    facts["items left out of the verdict"] = (
        ", ".join(f"{count:,} {why}" for why, count in left.items() if count) or "none"
    )
    return facts | {"notes": list(notes)}
