"""A training in stages: each contrasts demonstrations with what the model itself answers as the stage begins."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from learnable.commands.inputs import heldout_of
from learnable.commands.network import Network
from learnable.data import read
from learnable.deferred import models, training
from learnable.diversifiers.drawing import Drawing, seed_of
from learnable.diversifiers.self_sample import question_of
from learnable.errors import DataError
from learnable.experiments import FEWEST_ITEMS
from learnable.experiments.run import Place, place_of
from learnable.measures import nll_of
from learnable.objectives import NLL, Objective
from learnable.runs.identity import example_id, fingerprint
from learnable.runs.locks import locked
from learnable.runs.progress import say
from learnable.runs.records import Outcome
from learnable.runs.store import Store
from learnable.settings import Sampling, Tuning
from learnable.types import Answer, Example, Message, Rendered

EQUAL, CUT_OFF, EMPTY = "the demonstration itself", "cut off", "empty"
"""Why an own answer is dropped."""
MOST_CUT_OFF, MOST_EQUAL = 0.3, 0.2
"""Shares of the own answers of a stage above which something is wrong."""
ROOMY_SHARE, ROOM_STEP, MOST_ROOM = 0.95, 16, 512
"""An own answer may be as long as this share of the demonstrations, in steps of so many tokens, up to a limit."""
UNEVEN = 0.1
"""By how much more tokens than another an arm may be trained on, as a share, before it is said."""
MANY_LONGER = 0.1
"""Share of the demonstrations that are longer than an own answer may be, above which it is said."""


class Own(NamedTuple):
    """A demonstration, and the model's own answer to it; without a text where it cannot be asked, and ``why`` says why."""

    demonstration: Example
    answer: Answer | None
    why: str = ""

    @property
    def refused(self) -> str:
        """Why the two are no pair; empty where they are one."""
        if self.answer is None:
            return self.why
        text = self.answer.text.strip()
        if not self.answer.finished:
            return CUT_OFF
        if not text:
            return EMPTY
        return EQUAL if text == self.demonstration.messages[-1].content.strip() else ""

    @property
    def example(self) -> Example:
        """The conversation with the model's own answer."""
        assert self.answer is not None
        own = Message(role="assistant", content=self.answer.text)
        messages = (*self.demonstration.messages[:-1], own)
        return replace(self.demonstration, id=example_id(messages), messages=messages)


def demonstrations(examples: Sequence[Example]) -> list[Example]:
    """Return rows as demonstrations of their last answers: earlier ones are context.

    Raises:
        DataError: If a row has no answer right behind a turn of the user, or has tools.
    """
    found, bad = list[Example](), list[Example]()
    for each in examples:
        before = question_of(each)
        if each.tools or not before or len(before) + 1 != len(each.messages):
            bad.append(each)
            continue
        context = [replace(turn, trained=False) if turn.role == "assistant" else turn for turn in before]
        messages = (*context, each.messages[-1])
        found.append(replace(each, id=example_id(messages), messages=messages))
    if bad:
        roles = ", ".join(turn.role for turn in bad[0].messages)
        raise DataError(
            f"{len(bad):,} of {len(examples):,} rows do not end with an answer to a user, without tools: "
            f"{bad[0].id[:8]} of {bad[0].source} has {roles}{' and tools' if bad[0].tools else ''}",
            hint="leave such rows out, or end them with the answer that is to be learned",
        )
    return list({each.id: each for each in found}.values())


def held_out(loaded: Outcome) -> list[Example]:
    """Return the rows that a load set aside as demonstrations; a ``DataError`` where there is none."""
    path = heldout_of(loaded)
    if not path.stat().st_size:
        number = loaded.facts["examples"]
        raise DataError(f"of {number:,} rows none could be held out to judge on", hint="give more rows")
    return demonstrations(list(read([str(path)], source_column="source").iter_examples()))


def room_for(
    taught: Sequence[Example], heldout: Sequence[Example], network: Network, *, new_tokens: int | None
) -> int:
    """Return the most tokens of an own answer, and say beforehand what will leave no pairs, or no verdict.

    Where ``new_tokens`` are not given it is what holds 95 % of the demonstrations, in steps of 16, at most 512; of a model
    that is awaited the limit.
    """
    if (back := len(heldout)) < FEWEST_ITEMS:
        of = back + len(taught)
        say(
            f"warning: {back} of {of} rows are held out to judge on, too few for a verdict: give "
            f"{math.ceil(FEWEST_ITEMS * of / back)} rows or more, or raise --holdout"
        )
    lengths = network.answer_tokens(taught)
    if not lengths.size:
        return MOST_ROOM if new_tokens is None else new_tokens
    held = float(np.quantile(lengths, ROOMY_SHARE, method="inverted_cdf"))
    roomy = math.ceil(max(held, 1.0) / ROOM_STEP) * ROOM_STEP
    room = min(roomy, MOST_ROOM) if new_tokens is None else new_tokens
    if (longer := int((lengths > room).sum())) > MANY_LONGER * lengths.size:
        say(
            f"warning: {longer:,} of {lengths.size:,} demonstrations are longer than {room:,} tokens; own answers of "
            f"that length are cut off, and no pairs: give --new-tokens {roomy}"
        )
    return room


def own_answers(
    draw: Drawing, rows: Sequence[Example], *, seed: int, when: str | int, label: str
) -> list[Own]:
    """Return what a model answers to demonstrations; ``when`` tells draws of different stages apart."""
    prompts = [each.messages[:-1] for each in rows]
    refusals = [draw.refusal(prompt) or "" for prompt in prompts]
    asked = [place for place, why in enumerate(refusals) if not why]
    seeds = [seed_of(seed, "own answer", when, rows[place].id) for place in asked]
    answers = draw.answers([prompts[place] for place in asked], seeds=seeds, label=label)
    given = dict(zip(asked, answers, strict=True))
    return [Own(row, given.get(place), refusals[place]) for place, row in enumerate(rows)]


def train_from(
    place: Place,
    examples: Sequence[Any],
    *,
    network: Network,
    tuning: Tuning,
    store: Path,
    label: str,
    objective: Objective = NLL(),
    columns: pl.DataFrame | None = None,
) -> "training.Trained":
    """Train a model further, with a new optimizer; what was trained so before is taken from the store."""
    ref, adapter = place
    ids = sorted(
        [answer.id for answer in ((each,) if isinstance(each, Rendered) else each)] for each in examples
    )
    stored = None if columns is None else columns.sort("id").to_dict(as_series=False)
    base = models.adapter_key(models.identify(ref), adapter) if adapter is not None else models.identify(ref)
    made = [base, models.Renderer.of(ref).key, network.longest, tuning, objective, stored, ids]
    name = fingerprint(made)[:16]
    with locked(store / "arms" / f"{name}.lock"):
        return training.fine_tune(
            ref,
            examples,
            store / "arms" / name,
            tuning=tuning,
            label=label,
            objective=objective,
            columns=columns,
            start=adapter,
        )


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What one stage was trained on: ``pairs`` of a demonstration and an own answer, and what is no pair (``dropped``).

    ``reference`` has ``id`` and ``reference_nll`` under the model that the stage starts from, ``figures`` its identity
    (``start``), counts, and the tokens of own answers. ``tokens`` were computed in this run.
    """

    pairs: Sequence[tuple[Rendered, Rendered]]
    reference: pl.DataFrame
    dropped: pl.DataFrame
    figures: dict[str, Any]
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Walked:
    """What stages came to: the model of the last, with the cost of all, and the answers of each (``rows``), pair by pair.

    ``figures`` have a line for each stage, and ``dropped`` what they left out. ``tokens`` were computed in this run.
    """

    trained: "training.Trained"
    rows: tuple[tuple[Rendered, ...], ...]
    figures: pl.DataFrame
    dropped: pl.DataFrame
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Stages:
    """How a model (``network``, before all trainings) is trained in stages, each with itself as it began for its reference."""

    network: Network
    objective: Objective
    sampling: Sampling
    tuning: Tuning
    store: Path

    def walk(
        self,
        slices: Sequence[Sequence[Example]],
        place: Place,
        *,
        seed: int,
        label: str,
        tokens: int | None = None,
    ) -> Walked:
        """Train on slices of demonstrations, one after the other, from the model at ``place``; a killed run goes on.

        Each stage trains on so many ``tokens`` where they are given, whatever ``tuning`` says of epochs.
        """
        stages, trainings, computed = list[Stage](), list[training.Trained](), 0
        figures, dropped = list[dict[str, Any]](), list[pl.DataFrame]()
        for number, rows in enumerate(slices, start=1):
            what = f"{label}, stage {number} of {len(slices)}, seed {seed}"
            stage = self.contrasted(rows, place, seed=seed, number=number, what=what)
            whole = sum(len(answer.ids) for pair in stage.pairs for answer in pair)
            epochs = self.tuning.epochs if tokens is None else tokens / whole
            trained = train_from(
                place,
                stage.pairs,
                network=self.network,
                tuning=replace(self.tuning, seed=seed, epochs=epochs),
                store=self.store,
                label=what,
                objective=self.objective,
                columns=stage.reference,
            )
            place = place_of(self.network.ref, trained, method=self.tuning.method)
            own = {"steps": trained.steps, "tokens": trained.tokens, "model": trained.folder.name}
            figures.append({"arm": label, **stage.figures, **own})
            names = {"arm": label, "seed": seed, "stage": number}
            dropped.append(
                stage.dropped.select(*(pl.lit(each).alias(name) for name, each in names.items()), pl.all())
            )
            stages.append(stage)
            trainings.append(trained)
            computed += stage.tokens + (trained.tokens if trained.ran else 0)
        return Walked(
            trained=training.Trained.together(trainings),
            rows=tuple(tuple(answer for pair in stage.pairs for answer in pair) for stage in stages),
            figures=pl.DataFrame(figures),
            dropped=pl.concat(dropped),
            tokens=computed,
        )

    def contrasted(
        self, rows: Sequence[Example], place: Place, *, seed: int, number: int, what: str
    ) -> Stage:
        """Return the pairs of a stage and the nll of their answers, by the model that it starts from.

        Raises:
            DataError: If there is no pair left.
        """
        ref, adapter = place
        store, longest = Store(self.store), self.network.longest
        model = self.network.open(ref)
        with model.adapter(adapter):
            draw = Drawing(generator=model, sampling=self.sampling, store=store)
            owns = own_answers(draw, rows, seed=seed, when=number, label=f"own answers, {what}")
            pairs, dropped = pairs_of(model, owns, longest=longest)
            reasons = [reason for _, reason, _ in dropped]
            if not pairs:
                raise DataError(
                    f"{what}: of {len(rows):,} own answers none makes a pair; {', '.join(sorted(set(reasons)))}",
                    hint="raise --new-tokens, or begin with a model that answers as the demonstrations do",
                )
            answers = [answer for pair in pairs for answer in pair]
            label = f"reference, {what}"
            nll, tokens = nll_of(model, answers, max_length=longest, store=store, label=label)
            texts = [own.answer.text for own in owns if own.answer is not None]
            written = model.renderer.tokenizer(texts, add_special_tokens=False)["input_ids"]
            key = model.key
        figures: dict[str, Any] = {"seed": seed, "stage": number, "prompts": len(rows), "pairs": len(pairs)}
        figures |= {"equal": reasons.count(EQUAL), "cut_off": reasons.count(CUT_OFF)}
        figures |= {"other": len(reasons) - reasons.count(EQUAL) - reasons.count(CUT_OFF)}
        figures |= {"generated_tokens": sum(map(len, written)), "start": key}
        return Stage(
            pairs=pairs,
            reference=nll.rename({"nll": "reference_nll"}),
            dropped=pl.DataFrame(dropped, schema=["id", "reason", "text"], orient="row").cast(pl.String),
            figures=figures,
            tokens=tokens + draw.tally.tokens,
        )


def pairs_of(
    model: "models.LanguageModel", owns: Sequence[Own], *, longest: int
) -> tuple[list[tuple[Rendered, Rendered]], list[tuple[str, str, str]]]:
    """Return demonstrations beside own answers as the model sees them; and id, reason and text of what is no pair."""
    pairs, dropped = list[tuple[Rendered, Rendered]](), list[tuple[str, str, str]]()
    kept = [own for own in owns if not own.refused]
    both = [example for own in kept for example in (own.demonstration, own.example)]
    rendered = model.renderer.render(both, max_length=longest, skip_refused=True)
    beside = zip(rendered[::2], rendered[1::2], strict=True)
    seen = {own.demonstration.id: pair for own, pair in zip(kept, beside, strict=True)}
    for own in owns:
        why, pair = own.refused, seen.get(own.demonstration.id)
        if pair is not None:
            if refused := next((each.refused for each in pair if each.refused), None):
                why = refused
            elif any(each.truncated or not each.mask.any() for each in pair):
                why = f"longer than {longest:,} tokens"
            elif np.array_equal(pair[0].ids, pair[1].ids):
                why = EQUAL
            else:
                pairs.append(pair)
                continue
        dropped.append((own.demonstration.id, why, own.answer.text if own.answer else ""))
    return pairs, dropped


def uneven(cost: pl.DataFrame) -> list[str]:
    """Say which tokens arms were trained on, where these differ by more than a tenth; ``cost`` has ``arm``, ``tokens``."""
    tokens = cost["tokens"].to_numpy()
    if tokens.max() <= (1 + UNEVEN) * tokens.min():
        return []
    named = ", ".join(f"{arm} {count:,.0f}" for arm, count in cost.select("arm", "tokens").iter_rows())
    found = (
        f"Trained tokens differ by more than a tenth: {named}. A training ends with a whole optimizer step: lower "
        "--tuning.batch-size, or give more rows."
    )
    say(f"warning: {found}")
    return [found]


def warnings_of(stages: pl.DataFrame) -> list[str]:
    """Say what is wrong with the own answers of stages."""
    found = list[str]()
    limits = {
        "cut_off": (MOST_CUT_OFF, "were cut off, and dropped: raise --new-tokens"),
        "equal": (MOST_EQUAL, "are the demonstration itself: the model knows these rows"),
    }
    for column, (limit, words) in limits.items():
        worst = stages.sort(pl.col(column) / pl.col("prompts"), descending=True).row(0, named=True)
        if worst[column] > limit * worst["prompts"]:
            count = f"{worst[column]:,} of {worst['prompts']:,} own answers"
            found.append(f"{worst['arm']}, stage {worst['stage']}, seed {worst['seed']}: {count} {words}.")
    for each in found:
        say(f"warning: {each}")
    return found
