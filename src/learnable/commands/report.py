"""``learnable report``: a selection, a comparison or a lesson in, one HTML page out."""

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import polars as pl

from learnable import data as rows
from learnable import pages
from learnable.commands.course import GENERAL, SEEN, UNSEEN
from learnable.commands.inputs import is_made, loaded_in
from learnable.commands.network import Network, to_fetch
from learnable.commands.onward import after_contest, after_selection
from learnable.commands.options import DryRun, Flat, Output, StoreFolder
from learnable.deferred import models, training
from learnable.errors import ModelError, StoreError, TrainError, UsageError
from learnable.experiments import UNTUNED
from learnable.objects.given import finished
from learnable.objects.passes import Passes
from learnable.objects.reporting import TOKEN_EXAMPLES, pulled_in, selection_facts, some, spread_of
from learnable.objects.results import said_by_target, vectors_of
from learnable.runs.files import write_text
from learnable.runs.price import Price
from learnable.runs.progress import say
from learnable.runs.records import DONE, Outcome, parameters_of, read_outcome
from learnable.runs.step import Finished, Step, run
from learnable.runs.store import Store
from learnable.settings import Loading
from learnable.types import ModelRef

KINDS = {
    "select": "selection",
    "compare": "comparison",
    "prefer": "preferences",
    "teach": "lesson",
}
"""What a step left, by its command. The trial of a recipe says itself what its page is about: facts by the names of ``TrialFacts``."""
WORDINGS: dict[pages.Asked, str] = {"seen": SEEN, "unseen": UNSEEN}
ENDINGS: dict[pages.Asked, str] = {
    "unseen": f", {UNSEEN}",
    "seen": f", {SEEN}",
    "general": f" on {GENERAL} rows",
}
"""Of the labels of evaluations, by how they ask."""
QUESTION = "What did training learn to prefer?"
ALL_PAIRS = "all pairs"
"""What the only training on pairs is called on its page: nothing was drawn."""
ALONE = (
    "One model was trained, on all pairs, so it stands beside the untuned model only. What is preferred is what has become likelier "
    "than under that: to a margin of 0, the untuned model's, half of each pair is right."
)
FAIR = (
    "Every arm stands against {} on pairs that were drawn at random, of as many tokens and steps. What is preferred is what has become "
    "likelier than under the untuned model: to a margin of 0, that model's, half of each pair is right."
)
"""Of preferences: what the page answers, and what is compared."""
TAKEN = ("task", "tests", "buffer", "tokens", "diversity", "notes")
"""What the page of a lesson says as the lesson does."""

_Facts = pages.SelectionFacts | pages.ComparisonFacts | pages.LessonFacts | pages.TrialFacts


def report(
    selection: str,
    *,
    title: str | None = None,
    command: str | None = None,
    tokens: int | None = None,
    loading: Annotated[Loading, Flat] = Loading(),
    store: StoreFolder = "runs/store",
    dry_run: DryRun = False,
    output: Output = "report",
) -> Outcome:
    """Write one HTML page about a selection, a comparison, preferences, a lesson or the arms of a recipe; it opens offline.

    Args:
        selection: Folder that `learnable select`, `learnable compare`, `learnable prefer` or `learnable teach` wrote, or a
            recipe that trains in several ways.
        title: Heading of the page; `selection`, `comparison`, `preferences`, `lesson` or `trial` when not given.
        command: Command to show as the one that repeats the run.
        tokens: Examples of a selection to show with the losses of their tokens, which loads the model; 4 when not
            given, 0 for none.
        loading: How to load the model for them; its dtype is the one it was scored with.
    """
    if dry_run and not is_made(selection):
        shown = f"; {_spelled_out(tokens)} examples of it are measured token by token"
        chosen = Path(selection).name.startswith("selection")
        return Outcome.planned("report", Path(output), [f"after {selection}{shown if chosen else ''}"])
    given, kind = _told(selection)
    title = title or kind
    parameters: dict[str, Any] = {"title": title, "command": command}
    if kind == "selection":
        parameters["tokens"] = _spelled_out(tokens)
    elif tokens is not None or loading != Loading():
        raise UsageError(
            f"tokens and how to load a model have no effect on the report of a {kind}", hint="leave them out"
        )
    command = command or f"learnable report {selection}"
    number = parameters.get("tokens", 0) if "scores" in given.links else 0

    def work(folder: Path) -> Finished:
        facts: _Facts
        computed = 0
        if kind == "selection":
            scored = finished(given.links["scores"], "score") if "scores" in given.links else None
            chosen = gather(given, scored, title=title, command=command)
            asked = parameters["tokens"]
            facts, computed = with_tokens(chosen, scored, asked, loading=loading, store=Store(Path(store)))
        else:
            gathers: dict[str, Callable[..., _Facts]] = {"lesson": gather_lesson, "trial": gather_trial}
            facts = gathers.get(kind, gather_comparison)(given, title=title, command=command)
        page, warnings = _rendered(facts)
        write_text(folder / "report.html", page)
        return Finished(facts={"report": str(folder / "report.html"), "warnings": warnings}, tokens=computed)

    step = Step(
        verb="report",
        parameters=parameters,
        inputs={kind: given.identity},
        links={kind: given.folder},
        says=[f"{number} examples are measured token by token"] if number else [],
        plan=lambda: _price_of_tokens(given, number, loading),
        work=work,
    )
    return run(step, output, dry_run=dry_run)


def _rendered(facts: _Facts) -> tuple[str, list[str]]:
    from learnable.pages.comparison import render_comparison
    from learnable.pages.lesson import render_lesson
    from learnable.pages.selection import render_selection
    from learnable.pages.trial import render_trial

    written: dict[type, tuple[Callable[..., str], Any]] = {
        pages.SelectionFacts: (render_selection, pages.SELECTION_CHECKS),
        pages.ComparisonFacts: (render_comparison, pages.COMPARISON_CHECKS),
        pages.LessonFacts: (render_lesson, pages.LESSON_CHECKS),
        pages.TrialFacts: (render_trial, pages.TRIAL_CHECKS),
    }
    render, checks = written[type(facts)]
    return render(facts), pages.look(checks, facts).warnings


def _spelled_out(tokens: int | None) -> int:
    if tokens is not None and tokens < 0:
        raise UsageError(f"tokens must be 0 or more, got {tokens}", hint="it is a number of examples")
    return TOKEN_EXAMPLES if tokens is None else tokens


def _price_of_tokens(chosen: Outcome, number: int, loading: Loading) -> Price:
    """Return what the losses of the tokens of a few examples will cost, as far as their model is to be found."""
    if not number:
        return Price()
    scored = finished(chosen.links["scores"], "score")
    ref = _scored_with(scored, loading)
    longest = int(scored.facts["max_length"])
    some = itertools.islice(rows.load_pool(scored.links["pool"]).iter_examples(), number)
    network = Network(ref=ref, longest=longest, awaits=to_fetch(ref))
    return network.measuring(list(some), passes=1 + ("reference" in scored.links))


def with_tokens(
    facts: pages.SelectionFacts, scored: Outcome | None, number: int, *, loading: Loading, store: Store
) -> tuple[pages.SelectionFacts, int]:
    """Return the facts with the losses of the tokens of a few examples, and how many tokens were computed.

    Where the model, the reference or the texts are not to be found any more, the facts say so instead.
    """
    if number == 0:
        return facts, 0
    ids = pages.examples_to_spell(facts, number) if scored else []
    missing = "no example has a score" if scored else "the losses were given, without a model"
    if scored is not None and ids:
        try:
            passes = _passes(scored, loading, store)
            views = passes.views(some(rows.load_pool(scored.links["pool"]), ids))
        except (ModelError, StoreError, TrainError) as error:
            say(f"no losses by token in the report: {error.message}")
            missing = error.message
        else:
            lost = "reference" in scored.inputs and "reference" not in scored.links
            missing = "Without a loss after: it is not known where the reference lies that was given."
            return replace(facts, tokens=views, tokens_missing=missing if lost else None), passes.tokens
    return replace(facts, tokens_missing=f"No losses by token: {missing}."), 0


def _scored_with(scored: Outcome, loading: Loading) -> ModelRef:
    if loading.dtype == "auto":
        loading = replace(loading, dtype=scored.facts["dtype"])
    if loading.chat_template is None:
        loading = replace(loading, chat_template=scored.facts.get("chat template"))
    return ModelRef(name=str(scored.facts["model"]), **asdict(loading))


def _passes(scored: Outcome, loading: Loading, store: Store) -> Passes:
    ref, references = _scored_with(scored, loading), None
    if not models.source.is_here(ref):
        raise ModelError(f"the model {ref.name} is not on this machine any more")
    if models.identify(ref) != scored.inputs["base"]:
        raise ModelError(f"the model {ref.name} is not the one that was scored with")
    if "reference" in scored.links:
        references = training.read_reference(finished(scored.links["reference"], "train").folder)
    return Passes(ref, references, max_length=int(scored.facts["max_length"]), store=store)


def _told(folder: str) -> tuple[Outcome, str]:
    """Return what a step left, and what kind of page is written of it."""
    if is_made(folder) and "trial" in (tried := read_outcome(Path(folder))).facts:
        return tried, "trial"
    given = finished(folder, *KINDS)
    return given, KINDS[given.verb]


def gather(chosen: Outcome, scored: Outcome | None, *, title: str, command: str) -> pages.SelectionFacts:
    """Collect what a report says from the folders that led to a selection."""
    steps, pool, reference = [chosen], None, {"kind": "columns"}
    if scored:
        pool, reference = rows.load_pool(scored.links["pool"]), {"kind": "given"}
        steps = [finished(scored.links["pool"], "load"), scored, chosen]
        if "reference" in scored.links:
            try:
                trained = finished(scored.links["reference"], "train")
            except StoreError:  # all but the losses of its tokens can be said without it
                reference = {"kind": "its folder is not there any more, and its cost is not known"}
            else:
                reference = dict(trained.facts)
                steps.insert(1, trained)
    scores = pl.read_parquet((scored or chosen).folder / "scores.parquet")
    kept = pl.read_parquet(chosen.folder / "kept.parquet")
    pulled = None
    if scored and "target" in scored.links:
        aimed = loaded_in(finished(scored.links["target"], "load")).rows
        pulled = pulled_in(said_by_target(scored.folder, str(chosen.facts["by"])), aimed, scores["id"], kept)
    return selection_facts(
        title=title,
        command=command,
        scored=scored.facts if scored else {},
        chosen=chosen.facts,
        pool=pool,
        scores=scores,
        kept=kept,
        dropped=pl.read_parquet(chosen.folder / "dropped.parquet"),
        reference=reference,
        costs={step.verb: step.cost for step in steps},
        pulled=pulled,
        looked_at_evaluation="in the evaluation" in steps[0].facts,
        onward=after_selection(
            chosen,
            scored,
            files=[file.path for file in pool.files] if pool else [],
            reading=parameters_of(steps[0].folder),
        ),
        spread=spread_of(vectors_of(scored.folder) if scored else None, scores["id"], kept),
    )


def _experiment(done: Outcome, *tables: str, title: str, command: str) -> dict[str, Any]:
    """Collect what a report says about any experiment from its folder, with further tables that it has."""
    # What all trainings share: not the seed, and not steps that followed from the budget.
    tuning = done.facts.get("tuning", {})
    settings = {name: value for name, value in tuning.items() if name != "seed" and value is not None}
    pool = done.links.get("pool")
    loaded = read_outcome(pool).facts if pool is not None and (pool / DONE).is_file() else {}
    return {
        "read": loaded.get("rows", 0),
        "avoided": loaded.get("in the evaluation"),
        "title": title,
        "command": command,
        "model": str(done.facts["model"]),
        "confidence": float(done.facts["confidence"]),
        "settings": settings,
        "computed": done.cost.tokens,
        "seconds": done.cost.seconds,
        "onward": after_contest(done, command=command),
        **{
            name: pl.read_parquet(done.folder / f"{name}.parquet")
            for name in ("table", "results", "arms", *tables)
        },
    }


def gather_comparison(compared: Outcome, *, title: str, command: str) -> pages.ComparisonFacts:
    """Collect what a report says about a comparison, or about preferences, from its folder and its pool."""
    given = _experiment(compared, "selections", "scores", "overlap", title=title, command=command)
    given["methods"] = compared.facts["methods"]
    if compared.verb == "prefer":
        first = next(iter(compared.facts["losses"]))
        given |= {"question": QUESTION, "fair": FAIR.format(first)}
        given |= {name: compared.facts[name] for name in ("baseline", "findings", "notes")}
        given["answer"] = compared.facts.get("answer", "")  # none in a folder of an earlier version
        if given["table"].filter(pl.col("budget_tokens").is_not_null())[
            "method"
        ].n_unique() == 1 and _takes_all(given):
            given = _with_all_pairs(given)
    pool = rows.load_pool(finished(compared.links["pool"], "load").folder)
    return pages.ComparisonFacts(examples=rows.readable(pool.examples), **given)


def _takes_all(given: Mapping[str, Any]) -> bool:
    """Tell whether every training on pairs took all of them."""
    sizes = given["selections"].group_by("budget_tokens", "seed").len()["len"]
    return bool((sizes == given["scores"].height).all())


def _with_all_pairs(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is said of one training on all pairs: it is called so, and stands beside the untuned model."""
    frames: dict[str, Any] = {
        name: given[name].with_columns(pl.col("method").replace(given["baseline"], ALL_PAIRS))
        for name in ("table", "results", "arms", "selections")
    }
    word = re.compile(rf"\b{re.escape(given['baseline'])}\b")
    frames["findings"] = [word.sub(ALL_PAIRS, sentence) for sentence in given["findings"]]
    return {**given, **frames, "methods": [UNTUNED, ALL_PAIRS], "baseline": ALL_PAIRS, "fair": ALONE}


def gather_trial(tried: Outcome, *, title: str, command: str) -> pages.TrialFacts:
    """Collect what a report says about a trial from its folder."""
    facts: dict[str, Any] = dict(tried.facts["trial"])
    tables = {
        caption: pl.read_parquet(tried.folder / f"{name}.parquet")
        for caption, name in facts.pop("tables").items()
    }
    if courses := facts.pop("courses", {}):
        steps = pl.read_parquet(tried.folder / "proportions.parquet").filter(seed=0)
        facts["courses"] = {caption: steps.filter(arm=arm) for caption, arm in courses.items()}
    facts |= {"order": _frame(tried.folder, "order"), "mixtures": _frame(tried.folder, "mixtures")}
    return pages.TrialFacts(tables=tables, **_experiment(tried, title=title, command=command), **facts)


def gather_lesson(taught: Outcome, *, title: str, command: str) -> pages.LessonFacts:
    """Collect what a report says about a lesson from its folder and from the steps that made its material."""
    facts, example, made = taught.facts, dict[pages.Asked, list[dict[str, str | None]]](), []
    for asked, name in WORDINGS.items():  # the first row that was asked in each
        path = taught.folder / f"{name.replace(' ', '_')}.jsonl"
        if path.is_file():
            first = next(rows.read([str(path)]).iter_examples())
            example[asked] = [asdict(message) for message in first.messages]
    for name, folder in taught.links.items():
        step = read_outcome(folder)
        if step.verb == "diversify":  # rows of another origin cost no model anything
            about = f"{step.facts['method']}, {step.facts['written by']}: {step.facts['kept']:,} kept"
            made.append((name, about, step.cost))
    given: dict[str, Any] = {name: facts[name] for name in TAKEN}
    given |= {name: _frame(taught.folder, name) for name in ("concepts", "samples", "buffering", "wordings")}
    return pages.LessonFacts(
        labels=facts["arms"],
        inits=facts.get("inits", {}),
        baseline=str(facts["baseline"]),
        questions={label: _question(label) for label in facts["evaluations"]},
        general_from_buffer=facts.get("general from buffer"),
        example=example,
        made=made,
        **_experiment(taught, title=title, command=command),
        **given,
    )


def _frame(folder: Path, name: str) -> pl.DataFrame | None:
    """Return a table that a lesson or a trial may do without; None where it is not there, or empty."""
    path = folder / f"{name}.parquet"
    frame = pl.read_parquet(path) if path.is_file() else pl.DataFrame()
    return None if frame.is_empty() else frame


def _question(label: str) -> tuple[str, pages.Asked]:
    ending = next(((asked, words) for asked, words in ENDINGS.items() if label.endswith(words)), None)
    return (label, "elsewhere") if ending is None else (label.removesuffix(ending[1]), ending[0])
