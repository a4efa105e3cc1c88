"""``learnable diversify``: rewrites of a task's instructions, and conversations sampled from the model itself."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import polars as pl

from learnable import data as rows
from learnable import diversifiers
from learnable.commands.inputs import look_up, pool_of
from learnable.commands.network import Network, to_fetch
from learnable.commands.options import DryRun, Flat, Short
from learnable.deferred import models
from learnable.diversifiers import Avoided, Drawing
from learnable.errors import DataError, ModelError, StoreError, UsageError
from learnable.evaluators import EVALUATORS, build_evaluator, parse
from learnable.evaluators.reading import Item, Row, answered, asked, read_items
from learnable.objects.given import LONGEST, opened, pinned
from learnable.runs.files import write_frame, write_json_lines
from learnable.runs.identity import file_digest, fingerprint
from learnable.runs.price import Price
from learnable.runs.progress import say
from learnable.runs.records import BEGUN, Outcome
from learnable.runs.step import Finished, Step, run
from learnable.runs.store import Store
from learnable.servers import ServerGenerator
from learnable.settings import Loading, Reading, Sampling
from learnable.types import Example, Generator, Message, ModelRef

GENERATED, DROPPED = "generated.parquet", "dropped.parquet"
FILES, BESIDE = (".parquet", ".jsonl"), "-step"
"""Kinds of files that rows are written to, and what the folder that then lies beside ends with."""


def diversify(
    data: list[str] | None = None,
    *,
    method: str,
    n: int | None = None,
    model: str = "starter",
    generator: str | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    max_new_tokens: int | None = None,
    seed: int = 0,
    loading: Annotated[Loading, Flat] = Loading(),
    reading: Annotated[Reading, Flat] = Reading(),
    on: str | None = None,
    store: str = "runs/store",
    dry_run: DryRun = False,
    output: Annotated[str, Short] = "diversified",
) -> Outcome:
    """Make a small task set diverse: other wordings of its instructions, or conversations of the model itself.

    Args:
        data: Files, or a folder that `learnable load` wrote; self_sample needs none.
        method: NAME@key=value,key=value: paraphrase, self_sample, self_answer, facts, constraints or hints (see
            `learnable list`).
        n: How many to make: wordings of each instruction (paraphrase) or rows; each method has its own default.
        model: Model that writes: folder, hub id, GGUF file, or `starter`.
        generator: What writes instead of the model: a server, as openai:URL#NAME (a key is read from OPENAI_API_KEY), or
            vllm:MODEL, which vLLM runs in this process.
        temperature: How freely to draw, 0 is greedy; the method's own when not given.
        top_p: Draw from the likeliest tokens that together have this probability; the method's own when not given.
        max_new_tokens: Most tokens of a text; the method's own when not given.
        reading: How to read rows. Nothing is made of rows that stand in a file to avoid, and nothing that is generated overlaps
            with one: the task, evaluation sets (also as NAME:PATH@key=value).
        seed: Seeds all that is drawn.
        on: Where --model runs: here, or `ray[:ADDRESS]`, a model on each GPU of a Ray cluster, or on its CPUs.
        store: Folder of measurements; what was drawn once is never drawn again.
        output: Folder to write; or a .parquet or .jsonl file for the rows, with all else in a folder beside it.
    """
    name, chosen = diversifiers.build_diversifier(method)
    _check_given(name, chosen, data, n)
    writer = _writer(chosen, model, loading, generator, on)
    sampling = _sampling(name, chosen, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens)
    suffix = Path(output).suffix
    base, file = (output.removesuffix(suffix) + BESIDE, output) if suffix in FILES else (output, None)
    plain, beside = replace(reading, avoid=None), base.removesuffix(BESIDE)
    loaded = pool_of(data, plain, beside, dry_run=dry_run) if data else None
    awaits = writer.awaits() if dry_run else []
    files = () if awaits else reading.avoid or ()
    making = _Making(
        name=name,
        method=method,
        chosen=chosen,
        writer=writer,
        sampling=sampling,
        n=n,
        seed=seed,
        given=loaded.rows.examples if loaded else [],
        loaded=loaded.step if loaded else None,
        avoided=[example for path in files for example in _to_avoid(path, reading)],
        awaits=awaits,
        on=on,
        store=Store(Path(store)),
        file=file,
    )
    if file and not dry_run:
        return _into_file(making.step, base, file, data or [])
    return run(making.step, base, dry_run=dry_run)


@dataclass(frozen=True, kw_only=True)
class _Making:
    """What is made of rows that are found: by which method and writer, what it depends on, and how it is done."""

    name: str
    method: str
    chosen: Any
    writer: "_Writer"
    sampling: Sampling
    n: int | None
    seed: int
    given: Sequence[Example]
    loaded: Outcome | None
    avoided: Sequence[Example]
    awaits: Sequence[str]
    on: str | None
    store: Store
    file: str | None

    @property
    def step(self) -> Step:
        inputs = {} if self.awaits else _inputs(self.chosen, self.writer, self.avoided)
        return Step(
            verb="diversify",
            parameters=self._parameters,
            inputs=inputs | ({"pool": self.loaded.identity} if self.loaded else {}),
            links={"pool": self.loaded.folder} if self.loaded else {},
            says=[self._says],
            awaits=self.awaits,
            plan=self.price,
            work=self.work,
        )

    @property
    def _parameters(self) -> dict[str, Any]:
        chosen = self.chosen
        settings = asdict(chosen) if is_dataclass(chosen) and not isinstance(chosen, type) else {}
        # A file counts by what is in it, not by where it lies.
        files = getattr(chosen, "files", ())
        settings = {key: value for key, value in settings.items() if value not in files}
        drawing = asdict(self.sampling) if chosen.needs_generator else {}
        return {"method": self.name, "settings": settings, "n": self.n, "seed": self.seed, **drawing}

    @property
    def _says(self) -> str:
        chosen, how_many = self.chosen, "texts"
        if hasattr(chosen, "price"):
            how_many = chosen.price(rows=len(self.given), n=self.n)
        if not chosen.needs_generator:
            return f"{how_many} by rules alone: no pass"
        most = f"of at most {self.sampling.max_new_tokens:,} tokens each"
        return f"{how_many} by {self.writer.name}, {most}; what was drawn before costs nothing"

    def price(self) -> Price:
        """Return what the texts will cost, as far as is known."""
        if not self.chosen.needs_generator:
            return Price()
        ref = self.writer.ref
        if ref is None or not hasattr(self.chosen, "texts"):
            which = self.writer.name if ref is None else "a method that goes by what it has drawn"
            return Price(unknown=(f"tokens, time and memory of {which} are not known",))
        ref = ref if self.awaits else pinned(ref, on=self.on)
        network = Network(ref=ref, longest=LONGEST, on=self.on, awaits=self.awaits)
        again = Price(unknown=("what is refused and drawn again is not counted",))
        texts = self.chosen.texts(self.given, self.n)
        return network.writing(texts, new_tokens=self.sampling.max_new_tokens) + again

    def work(self, folder: Path) -> Finished:
        """Make it apart from what is to be avoided, and write it with a ledger of refusals."""
        avoided = Avoided(self.avoided)
        draw = Drawing(
            generator=self.writer.load(), sampling=self.sampling, store=self.store, avoided=avoided
        )
        starts, refused = _apart(self.given, avoided, lambda row, why: (f"row {why}", row.id, self.seed))
        if self.given and not starts:
            raise DataError(
                f"all {len(self.given):,} rows stand in a file to avoid",
                hint="give other rows, or leave that file out of --avoid",
            )
        made = self.chosen(starts, n=self.n, draw=draw, seed=self.seed)
        kept, overlapping = _apart(
            made.kept, avoided, lambda new, why: (why, new.meta["parent"], new.meta["seed"])
        )
        of, why = f"{len(self.given):,} rows", "they stand in a file to avoid"
        notes = [f"{refused.height:,} of {of} are left out: {why}"] * bool(refused.height) + [*made.notes]
        of, why = f"{len(made.kept):,}", "they overlap with a file to avoid"
        notes += [f"{overlapping.height:,} of {of} are left out: {why}"] * bool(overlapping.height)
        dropped = pl.concat([refused, made.dropped, overlapping])
        notes += _unanswered(self.name, draw.tally)
        made = diversifiers.Diversified(kept=kept, dropped=dropped, notes=tuple(notes))
        facts: dict[str, Any] = {"method": self.method, "written by": self.writer.name}
        facts |= _written(self.name, made, starts, folder)
        facts |= {"file": self.step.folder(self.file).name if self.file else None}
        return Finished(facts=facts | {"drawn in this run": draw.tally.draws}, tokens=draw.tally.tokens)


def _check_given(
    name: str, chosen: diversifiers.Diversifier, data: Sequence[str] | None, n: int | None
) -> None:
    if n is not None and n < 1:
        raise UsageError(f"n must be at least 1, got {n}")
    if chosen.needs_examples and not data:
        raise UsageError(
            f"{name} needs rows to start from", hint=f"learnable diversify task.jsonl --method {name}"
        )


def _into_file(step: Step, folder: str, file: str, data: Sequence[str]) -> Outcome:
    """Do the step in its folder, and write what was made into a file, which replaces none of the ``data``."""
    target = step.folder(file)
    if any(target.resolve() == Path(path).resolve() for path in data):
        raise UsageError(f"the output {target} would replace its input", hint="choose another -o")
    if target.exists() and not (step.folder(folder) / BEGUN).is_file():
        raise StoreError(f"{target} is there already, and no record of it beside", hint="choose another -o")
    outcome = run(step, folder)
    if outcome.ran or not target.exists():
        generated = pl.read_parquet(outcome.folder / GENERATED)
        if target.suffix == ".parquet":
            write_frame(generated, target)
        else:
            write_json_lines(target, generated.iter_rows(named=True))
    return outcome


@dataclass(frozen=True, kw_only=True)
class _Writer:
    """What writes: its name, its identity, what has to be fetched first, how to load it, and which model it is here."""

    name: str
    identity: Callable[[], str] = lambda: "none"
    awaits: Callable[[], list[str]] = list
    load: Callable[[], Generator | None] = lambda: None
    ref: ModelRef | None = None


def _writer(
    chosen: diversifiers.Diversifier, model: str, loading: Loading, generator: str | None, on: str | None
) -> _Writer:
    if not chosen.needs_generator:
        if generator is not None:
            raise UsageError("this method has no use for a generator", hint="leave --generator out")
        return _Writer(name="rules")
    if generator == "vllm:":
        raise UsageError("vllm: names no model", hint="write --generator vllm:MODEL")
    if generator is not None and not generator.startswith("vllm:"):
        server = ServerGenerator.parse(generator)
        return _Writer(name=generator, identity=lambda: server.key, load=lambda: server)
    ref = ModelRef(name=(generator or model).removeprefix("vllm:"), **asdict(loading))
    look_up(ref.name, loading)
    awaits = partial(to_fetch, ref)
    if generator is not None:
        vllm = models.vllm_generator
        how: dict[str, Any] = {
            "identity": lambda: vllm.vllm_key(ref),
            "load": lambda: vllm.VllmGenerator(ref),
        }
        return _Writer(name=generator, awaits=awaits, **how)
    how = {"identity": lambda: models.identify(pinned(ref, on=on)), "load": lambda: opened(ref, on=on)}
    return _Writer(name=model, awaits=awaits, ref=ref, **how)


def _sampling(name: str, chosen: diversifiers.Diversifier, **given: float | None) -> Sampling:
    """Return how to draw: the method's own way, with what is given instead."""
    changed: dict[str, Any] = {setting: value for setting, value in given.items() if value is not None}
    if changed and not chosen.needs_generator:
        raise UsageError(f"{name} draws nothing: {', '.join(changed)} would have no effect")
    return replace(chosen.sampling, **changed)


def _inputs(chosen: diversifiers.Diversifier, writer: _Writer, avoided: Sequence[Example]) -> dict[str, str]:
    """Return the identities of what the step reads, but for the rows."""
    inputs = {"generator": writer.identity()}
    if avoided:
        inputs["avoid"] = fingerprint([example.id for example in avoided])
    for place, path in enumerate(getattr(chosen, "files", ())):
        if not Path(path).is_file():
            raise DataError(f"there is no file {path}", hint="the method reads it: check its settings")
        inputs[f"file {place}"] = file_digest(Path(path))
    return inputs


def _to_avoid(path: str, reading: Reading) -> list[Example]:
    """Return what to keep away from: conversations of a file, rows with a question, or items of an evaluation."""
    if path.partition(":")[0] in EVALUATORS and not Path(path).exists():
        evaluation = parse(path)
        return build_evaluator(evaluation).read(evaluation.path)
    try:
        given = Path(path)
        # A pool was read before, with a format and a source column of its own.
        how = Reading() if rows.is_pool(given) else replace(reading, source_column=None, avoid=None)
        return list(rows.read([path], **asdict(how)).iter_examples())
    except DataError:
        return read_items(path, _item, evaluator="--avoid", n=None, seed=0)


def _item(row: Row) -> Item:
    question, answer = asked(row, None), ""
    with suppress(ValueError):  # without an answer, the question is still to be avoided
        answer = answered(row, None)
    closing = (Message(role="assistant", content=answer),) if answer else ()
    return Item((*question, *closing), {})


def _apart(
    examples: Sequence[Example],
    avoided: Avoided,
    refusal: Callable[[Example, str], tuple[str, str | None, int | None]],
) -> tuple[list[Example], pl.DataFrame]:
    """Return the examples that do not overlap with a file to avoid, for another wording of one that does hides where it is from.

    Of each of the others there is a line: reason, parent and seed as the ``refusal`` says, and its text.
    """
    kept, refused = list[Example](), diversifiers.Ledger()
    for example, why in zip(examples, avoided.reasons([each.messages for each in examples]), strict=True):
        if why is None:
            kept.append(example)
            continue
        reason, parent, seed = refusal(example, why)
        text = "\n\n".join(turn.content for turn in example.messages)
        refused.refuse(reason, text=text, parent=parent, seed=seed)
    return kept, refused.frame


def _unanswered(name: str, tally: diversifiers.Tally) -> list[str]:
    """Return a note of what a server failed to answer even when asked for nothing else."""
    if not tally.unanswered:
        return []
    said = f"{tally.unanswered:,} of {tally.draws + tally.unanswered:,} were not answered"
    if tally.draws:  # beside others that it answered: asked again, it may answer them
        raise ModelError(
            f"{name}: {said}; what was is kept",
            hint="run the same command again: it asks for those alone, and goes on without them if none is answered",
        )
    return [f"{said} by the server, asked again, and are left out"]


def _written(
    name: str, made: diversifiers.Diversified, given: Sequence[Example], folder: Path
) -> dict[str, Any]:
    """Write what was made and what was refused, and return the figures to show; ``DataError`` if nothing was kept."""
    refused = diversifiers.counted(made.dropped)
    if not made.kept:
        why = "; ".join(made.notes) or "there was nothing to make it of"
        if refused:
            why = f"{refused}; such as {made.dropped['text'][0][:200]!r}"
        raise DataError(
            f"{name} kept nothing of what it made: {why}",
            hint="the reasons say what to change: the length (--max-new-tokens), the rows, or the model",
        )
    notes, figures = list(made.notes), dict[str, str]()
    try:
        figures = _diversities(given, made.kept, folder)
    except ModelError as error:
        notes.append(f"no figures of diversity: {error.message}; {error.hint}")
    for note in notes:
        say(f"{name}: {note}")
    write_frame(made.dropped, folder / DROPPED)
    lines = [{"id": example.id, **rows.as_row(example), **example.meta} for example in made.kept]
    columns = {"parent": pl.String, "seed": pl.Int64}
    write_frame(pl.DataFrame(lines, infer_schema_length=None).cast(columns), folder / GENERATED)  # type: ignore[arg-type]
    counts = {"kept": len(made.kept), "refused": made.dropped.height, "refused because": refused}
    return {**counts, "notes": notes, **figures}


def _diversities(given: Sequence[Example], kept: Sequence[Example], folder: Path) -> dict[str, str]:
    """Write figures and a map of what was varied, before and after; return the figures in words."""
    embedder = models.StaticEmbedder()
    figures, maps, words = [], [], {}
    for what, sides in _varied(given, kept).items():
        texts = [text for side in sides.values() for text in side]
        vectors = embedder.embed_texts(texts)
        size, start, told = min(map(len, sides.values())) or None, 0, []
        for name, side in sides.items():
            if side:
                found = diversifiers.diversity(side, vectors[start : start + len(side)], of=size)
                figures.append({"what": what, "set": name, **found})
                told.append(
                    f"mean distance {found['mean_distance']:.3f}, distinct-1 {found['distinct_1']:.3f}, "
                    f"distinct-2 {found['distinct_2']:.3f}"
                )
            start += len(side)
        words[f"diversity of {what}"] = " → ".join(told)
        sets = [name for name, side in sides.items() for _ in side]
        x, y = diversifiers.plane(vectors).T
        maps.append(pl.DataFrame({"what": [what] * len(texts), "set": sets, "text": texts, "x": x, "y": y}))
    write_frame(pl.DataFrame(figures), folder / "diversity.parquet")
    write_frame(pl.concat(maps), folder / "map.parquet")
    return words


def _varied(given: Sequence[Example], kept: Sequence[Example]) -> dict[str, dict[str, list[str]]]:
    """Return the texts that a method varies, before and after: instructions, else questions and answers."""
    if all({"instruction", "original"} <= example.meta.keys() for example in kept):
        originals = {example.meta["parent"]: str(example.meta["original"]) for example in kept}
        after = [str(example.meta["instruction"]) for example in kept]
        return {"instructions": {"before": list(originals.values()), "after": after}}

    def said(examples: Sequence[Example], role: str) -> list[str]:
        last = ([turn.content for turn in example.messages if turn.role == role] for example in examples)
        return [turns[-1] for turns in last if turns]

    roles = {"questions": "user", "answers": "assistant"}
    return {what: {"before": said(given, role), "after": said(kept, role)} for what, role in roles.items()}
