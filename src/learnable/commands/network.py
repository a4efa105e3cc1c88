"""The model of a command, and what its passes will cost: tokens by a sample of rows, time and memory by a trial."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.data.pairs import answers_of, pairs_of
from learnable.deferred import diagnosis, models, training
from learnable.evaluators import Evaluation
from learnable.measures import PASSES, Role, answers_alone, kinds_of, measure_of, roles_of
from learnable.objects.given import length_limit, opened, pinned
from learnable.objects.gradients import GRADIENT_PASSES
from learnable.objects.model import Model
from learnable.objects.rows import Rows
from learnable.pools import Pool
from learnable.runs.identity import fingerprint
from learnable.runs.price import Price
from learnable.runs.store import Store
from learnable.scorers import LESS
from learnable.settings import Aim, Loading, Reference, Tuning
from learnable.types import Example, Message, ModelRef, Rendered, Scorer

GRADIENT_EPOCHS = 4
"""Of a warm-up that is not made yet, at each of which gradients are taken."""
SAMPLE = 256
"""Rows that are rendered to estimate how many tokens all have."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """The model of a command: what it is, its dtype resolved, where it runs (``on``), and what its passes cost.

    ``longest`` is in tokens. Of a model that ``awaits`` to be fetched, as a dry run finds, only rows and passes are known.
    """

    ref: ModelRef
    longest: int
    on: str | None = None
    awaits: Sequence[str] = ()

    @classmethod
    def of(
        cls, model: str, loading: Loading, *, max_length: int | None, on: str | None = None, dry_run: bool
    ) -> "Network":
        """Find a model by its name, without its weights."""
        ref = ModelRef(name=model, **asdict(loading))
        longest = length_limit(ref, max_length)
        awaits = to_fetch(ref) if dry_run else []
        return cls(ref=ref if awaits else pinned(ref, on=on), longest=longest, on=on, awaits=awaits)

    @property
    def identity(self) -> str:
        """Of its weights and chat template; not known of one that is awaited."""
        return "" if self.awaits else models.identify(self.ref)

    def open(self, ref: ModelRef | None = None) -> "models.LanguageModel":
        """Return it, or another model that runs where it does."""
        return opened(ref or self.ref, on=self.on)

    @property
    def as_model(self) -> Model:
        """It as the Python objects take it."""
        loading = asdict(self.ref)
        return Model(loading.pop("name"), on=self.on, **loading)

    @cached_property
    def renderer(self) -> "models.Renderer":
        """What turns rows into what it sees."""
        return models.Renderer.of(self.ref)

    def rendered(self, known: Rows) -> list[Rendered]:
        """Return rows as it sees them."""
        return known.rendered(self.renderer, max_length=self.longest)

    def tokens(self, examples: Sequence[Example], *, alone: bool = False) -> int:
        """Return how many tokens examples have together, or their answers alone; of many, estimated by a sample."""
        drawn = sorted(examples, key=lambda each: fingerprint(["price", each.id]))[:SAMPLE]
        if not drawn or self.awaits:
            return 0
        rendered = self.renderer.render(drawn, max_length=self.longest, skip_refused=True)
        if alone:
            rendered = answers_alone(rendered, header=self.renderer.answer_header)
        return round(sum(len(each.ids) for each in rendered) / len(drawn) * len(examples))

    def answer_tokens(self, examples: Sequence[Example]) -> NDArray[np.int64]:
        """Return the response tokens of each example that can be rendered; of none while the model is awaited."""
        if self.awaits:
            return np.zeros(0, dtype=np.int64)
        rendered = self.renderer.render(list(examples), max_length=self.longest, skip_refused=True)
        return np.array([each.mask.sum() for each in rendered if not each.refused], dtype=np.int64)

    def measuring(self, examples: Sequence[Example], *, passes: float = 1, alone: bool = False) -> Price:
        """Return the price of passes that measure examples."""
        if not passes or not examples:
            return Price()
        rows, tokens = round(passes * len(examples)), round(passes * self.tokens(examples, alone=alone))
        return Price(rows=rows, passes=passes) + self._timed("measuring", tokens, rows)

    def passing(self, tokens: int, rows: int) -> Price:
        """Return the price of one pass over so many tokens of so many rows."""
        return Price(rows=rows, passes=1) + self._timed("measuring", tokens, rows) if rows else Price()

    def training(
        self,
        examples: Sequence[Example],
        tuning: Tuning,
        *,
        passes: float,
        share: float = 1.0,
        models: int = 1,
    ) -> Price:
        """Return the price of trainings that write so many models, with so many passes over the examples all together.

        A pass sees this ``share`` of their tokens.
        """
        if not passes or not examples:
            return Price()
        rows = round(passes * share * len(examples))
        tokens = round(passes * share * self.tokens(examples))
        return Price(rows=rows, passes=passes) + self._timed("training", tokens, rows, tuning, models)

    def scoring(
        self,
        pool: Pool,
        passes: Sequence[Role],
        *,
        needs: Collection[str] = (),
        store: Store | None = None,
        aim: Aim = Aim(),
        target: int = 0,
        epochs: int = GRADIENT_EPOCHS,
    ) -> Price:
        """Return the price of the passes of a table of scores (``score.passes_of``), which measure the columns ``needs``.

        What is in the store of the model itself costs nothing; of a reference all is counted, of a target its so many
        rows where each step of a training passes them. Gradients are taken at so many ``epochs``, see ``gradient_epochs``.
        """
        examples, price = list(pool.iter_examples()), Price()
        for role in passes:
            own = role in ("base", "alone", "similarity")
            kinds = ["embedding"] if role == "similarity" else [each.name for each in kinds_of(needs, role)]
            alone = role in ("alone", "null")
            counted = (
                self._missing(examples, kinds, store, alone=alone) if own and kinds and store else examples
            )
            count = passes_for(role, aim, epochs, rows=len(examples), target=target)
            price += self.measuring(counted, passes=count, alone=alone)
        return price

    def _missing(
        self, examples: Sequence[Example], kinds: Sequence[str], store: Store, *, alone: bool
    ) -> list[Example]:
        """Return the examples of which a kind of measurement is not stored."""
        if self.awaits or self.on is not None:
            return list(examples)
        model, rendering = self.identity, self.renderer.key
        ids, missing = pl.Series("id", [each.id for each in examples], dtype=pl.String), set[str]()
        for kind in kinds:
            measure = measure_of(model, rendering=rendering, max_length=self.longest, kind=kind, alone=alone)
            missing |= set(store.missing(measure, ids))
        return [each for each in examples if each.id in missing]

    def reference(self, pool: Pool, reference: Reference, *, passes: float) -> Price:
        """Return the price of training a reference on a pool, in so many passes; a given one costs nothing."""
        if reference.model is not None:
            return Price()
        models = max(reference.folds, 1)
        price = self.training(conversations(pool), reference, passes=passes, models=models * reference.rounds)
        base, after = reference.choosing_passes
        return price + self.measuring(conversations(pool), passes=base + after)

    def writing(self, texts: int, *, new_tokens: int, prompts: Sequence[Sequence[Message]] = ()) -> Price:
        """Return the price of texts of at most so many tokens each, and of what they answer as far as that is known."""
        if not texts:
            return Price()
        price = self._timed("writing", texts * new_tokens, texts)
        return Price(rows=texts, tokens=self.tokens(_numbered(prompts))) + price

    def evaluations(self, asked: Sequence[Evaluation]) -> Price:
        """Return the price of asking one model; texts count with the most tokens that they may have."""
        price = Price()
        for each in asked:
            kind = each.evaluator.kind
            if kind == "likelihood":
                turns = [found for example in each.examples for found in each.evaluator.candidates(example)]
                price += self.measuring(_numbered(turns))
            elif kind == "harness":
                price += Price(unknown=(f"{each.label} asks the model itself, and its time is not known",))
            else:
                prompts = [each.evaluator.prompt(example) for example in each.examples]
                price += self.writing(len(prompts), new_tokens=each.evaluator.max_new_tokens, prompts=prompts)
            if kind == "judge":
                price += Price(unknown=(f"what the judge of {each.label} takes is not known",))
        return price

    def _timed(
        self,
        kind: "diagnosis.pace.Kind",
        tokens: int,
        rows: int,
        tuning: Tuning | None = None,
        models: int = 0,
    ) -> Price:
        if self.awaits:
            return Price(
                unknown=(f"tokens, time and memory are known once {self.ref.name} is on this machine",)
            )
        if self.on is not None:
            return Price(tokens=tokens, unknown=(f"time and memory on {self.on} are not known",))
        found = diagnosis.pace.pace(self.ref, kind, row_tokens=round(tokens / max(rows, 1)), tuning=tuning)
        return Price(
            tokens=tokens,
            seconds=max(models, 1) * found.load_s + tokens / found.tokens_per_s,
            peak_gib=found.peak_gib,
            disk_gib=models * found.disk_gib,
        )


def _numbered(conversations: Sequence[Sequence[Message]]) -> list[Example]:
    return [Example(id=str(place), messages=tuple(one), source="") for place, one in enumerate(conversations)]


def to_fetch(ref: ModelRef) -> list[str]:
    """Return what is to be said of a model that is not on this machine yet; nothing of one that is."""
    return [] if models.source.is_here(ref) else [f"fetch or convert {ref.name}"]


def conversations(pool: Pool) -> list[Example]:
    """Return what a pass over a pool sees: its conversations, or both answers of its pairs."""
    if pool.holds_pairs:
        return [answer for pair in pairs_of(pool) for answer in answers_of(pair)]
    return list(pool.iter_examples())


def gradient_epochs(scorers: Iterable[Scorer | None], kept: int = GRADIENT_EPOCHS) -> int:
    """Return at how many epochs scorers take gradients, all together, of a warm-up that keeps so many."""
    ways: dict[LESS, int] = {}
    for scorer in scorers:
        if scorer is not None and "gradient" in roles_of(scorer.needs):
            how = scorer if isinstance(scorer, LESS) else LESS()
            way = replace(how, checkpoints=None)
            ways[way] = max(ways.get(way, 0), min(how.checkpoints or kept, kept))
    return sum(ways.values())


def passes_for(role: Role, aim: Aim, epochs: int, *, rows: int, target: int) -> float:
    """Return how many passes over a pool of so many rows a role costs, in tokens that are measured.

    A gradient costs two passes more than a loss, and is taken at so many ``epochs``, or at the steps of a training and
    of its way back, there of a ``target`` of so many rows too.
    """
    if role == "costate":
        back = aim.steps_back
        again = back - math.ceil(back / math.isqrt(aim.steps))  # steps between those that are kept
        gradients = (aim.steps + again + 2 * aim.curvature * back) * aim.batch + (back + 1) * target
        valued = min(aim.proxy or rows, rows)
        checks = min(training.costate.CHECKED, valued) * (GRADIENT_PASSES + 2 * len(training.costate.STEPS))
        passed = 2 * (aim.visits * valued + target) + GRADIENT_PASSES * gradients + checks
        return passed / max(rows, 1) + (valued < rows)  # a pass for the vectors, which tell the rest
    return {"gradient": GRADIENT_PASSES * epochs, "words": 0}.get(role, 1)


def passes_said(passes: Sequence[Role], aim: Aim, epochs: int, *, rows: int) -> list[str]:
    """Return in words the passes over so many rows that a table of scores costs, see ``score.passes_of``."""
    valued = min(aim.proxy or rows, rows)
    steps = f"{aim.steps} training steps, {aim.steps_back} back, and {2 * aim.visits} passes over {valued:,} examples"
    rest = f" and 1 over {rows:,} for their vectors" if valued < rows else ""
    said = {"gradient": f"{epochs} gradient passes over {rows:,} examples", "costate": steps + rest}
    return [said.get(role, f"1 {PASSES[role]} pass over {rows:,} examples") for role in passes]
