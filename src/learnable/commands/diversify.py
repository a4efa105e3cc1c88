"""``learnable diversify``: rewrites of a task's instructions, and conversations sampled from the model itself."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import polars as pl

from learnable import data as rows
from learnable.commands.inputs import look_up, opened, pinned, pool_of, to_fetch
from learnable.commands.options import Flat, Output, Several
from learnable.commands.prices import Pricing
from learnable.diversifiers import (
    Avoided,
    Diversified,
    Diversifier,
    Drawing,
    build_diversifier,
    counted,
    diversity,
    plane,
)
from learnable.errors import DataError, ModelError, StoreError, UsageError
from learnable.evaluators import EVALUATORS, build_evaluator, parse
from learnable.evaluators.reading import Item, Row, answered, asked, read_items
from learnable.objects.given import LONGEST
from learnable.runs.files import replacing, write_frame
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
"""Kinds of files that rows are written to, and the end of the name of the folder that then lies beside."""


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
    avoid: Annotated[list[str] | None, Several] = None,
    seed: int = 0,
    loading: Annotated[Loading, Flat] = Loading(),
    reading: Annotated[Reading, Flat] = Reading(),
    on: str | None = None,
    store: str = "runs/store",
    dry_run: bool = False,
    output: Output = "diversified",
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
        avoid: Files that nothing generated may overlap with: the task, evaluation sets (also as NAME:PATH@key=value).
        seed: Seeds all that is drawn.
        loading: How to load the model.
        reading: How to read rows.
        on: Where --model runs: here, or `ray[:ADDRESS]`, a model on each GPU of a Ray cluster, or on its CPUs.
        store: Folder of measurements; what was drawn once is never drawn again.
        dry_run: Say what would run, and run nothing.
        output: Folder to write; or a .parquet or .jsonl file for the rows, with all else in a folder beside it.
    """
    name, chosen = build_diversifier(method)
    _check(name, chosen, data, n)
    writer = _writer(chosen, model, loading, generator, on)
    sampling = _sampling(name, chosen, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens)
    base, file = _places(output)
    pool, loaded = (
        pool_of(data, reading, base.removesuffix(BESIDE), dry_run=dry_run) if data else (None, None)
    )
    given = list(pool.iter_examples()) if pool else []
    awaits = writer.awaits() if dry_run else []
    avoided = [] if awaits else [example for path in avoid or [] for example in _to_avoid(path, reading)]
    inputs = {} if awaits else _inputs(chosen, writer, avoided)

    def work(folder: Path) -> Finished:
        draw = Drawing(
            generator=writer.load(), sampling=sampling, store=Store(Path(store)), avoided=Avoided(avoided)
        )
        made = _kept_apart(chosen(given, n=n, draw=draw, seed=seed), draw.avoided)
        made = _noted_unanswered(name, made, draw)
        facts = {"method": method, "written by": writer.name} | _written(name, made, given, folder)
        facts |= {"file": target.name if target else None, "drawn in this run": draw.tally.draws}
        return Finished(facts=facts, tokens=draw.tally.tokens)

    step = Step(
        verb="diversify",
        parameters=_parameters(name, chosen, sampling, n, seed),
        inputs=inputs | ({"pool": loaded.identity} if loaded else {}),
        links={"pool": loaded.folder} if loaded else {},
        says=[_price(chosen, writer, sampling, rows=len(given), n=n)],
        awaits=awaits,
        plan=lambda: _writing(chosen, writer, sampling, given, n, on=on, here=not awaits),
        work=work,
    )
    target = step.folder(file) if file else None
    if not dry_run:
        _check_target(target, step.folder(base), data)
    outcome = run(step, base, dry_run=dry_run)
    if target and not dry_run and (outcome.ran or not target.exists()):
        _write_rows(pl.read_parquet(outcome.folder / GENERATED), target)
    return outcome


def _check(name: str, chosen: Diversifier, data: Sequence[str] | None, n: int | None) -> None:
    if n is not None and n < 1:
        raise UsageError(f"n must be at least 1, got {n}")
    if chosen.needs_examples and not data:
        raise UsageError(
            f"{name} needs rows to start from", hint=f"learnable diversify task.jsonl --method {name}"
        )


def _parameters(
    name: str, chosen: Diversifier, sampling: Sampling, n: int | None, seed: int
) -> dict[str, Any]:
    """Return what the step's result depends on, beside its inputs."""
    settings: dict[str, Any] = asdict(chosen) if is_dataclass(chosen) and not isinstance(chosen, type) else {}
    # A file counts by what is in it, not by where it lies.
    settings = {key: value for key, value in settings.items() if value not in _files_of(chosen)}
    drawing = asdict(sampling) if chosen.needs_generator else {}
    return {"method": name, "settings": settings, "n": n, "seed": seed, **drawing}


def _written(name: str, made: Diversified, given: Sequence[Example], folder: Path) -> dict[str, Any]:
    """Write what was made and what was refused, and return the figures to show.

    Raises:
        DataError: If nothing was kept.
    """
    if not made.kept:
        raise DataError(f"{name} kept nothing of what it made: {_why_nothing(made)}", hint=_REMEDY)
    notes, figures = list(made.notes), dict[str, str]()
    try:
        figures = _diversities(given, made.kept, folder)
    except ModelError as error:
        notes.append(f"no figures of diversity: {error.message}; {error.hint}")
    for note in notes:
        say(f"{name}: {note}")
    write_frame(made.dropped, folder / DROPPED)
    write_frame(_table(made.kept), folder / GENERATED)
    return {
        "kept": len(made.kept),
        "refused": made.dropped.height,
        "refused because": counted(made.dropped),
        "notes": notes,
        **figures,
    }


@dataclass(frozen=True, kw_only=True)
class _Writer:
    """What writes: its name, its identity, what has to be fetched first, how to load it, and which model it is here."""

    name: str
    identity: Callable[[], str]
    awaits: Callable[[], list[str]]
    load: Callable[[], Generator | None]
    ref: ModelRef | None = None


def _writer(
    chosen: Diversifier, model: str, loading: Loading, generator: str | None, on: str | None
) -> _Writer:
    if not chosen.needs_generator:
        if generator is not None:
            raise UsageError("this method has no use for a generator", hint="leave --generator out")
        return _Writer(name="rules", identity=lambda: "none", awaits=list, load=lambda: None)
    if generator == "vllm:":
        raise UsageError("vllm: names no model", hint="write --generator vllm:MODEL")
    if generator is not None and generator.startswith("vllm:"):
        look_up(generator.removeprefix("vllm:"), loading)
        return _vllm(generator, ModelRef(name=generator.removeprefix("vllm:"), **asdict(loading)))
    if generator is not None:
        server = ServerGenerator.parse(generator)
        return _Writer(name=generator, identity=lambda: server.key, awaits=list, load=lambda: server)

    look_up(model, loading)
    ref = ModelRef(name=model, **asdict(loading))

    def identity() -> str:
        from learnable.models.source import identify

        return identify(pinned(ref, on=on))

    return _Writer(
        name=ref.name,
        identity=identity,
        awaits=lambda: to_fetch(ref),
        load=lambda: opened(ref, on=on),
        ref=ref,
    )


def _vllm(name: str, ref: ModelRef) -> _Writer:
    """Return a model that vLLM runs in this process."""

    def identity() -> str:
        from learnable.models.vllm_generator import vllm_key

        return vllm_key(ref)

    def load() -> Generator:
        from learnable.models.vllm_generator import VllmGenerator

        return VllmGenerator(ref)

    return _Writer(name=name, identity=identity, awaits=lambda: to_fetch(ref), load=load)


def _sampling(name: str, chosen: Diversifier, **given: float | None) -> Sampling:
    """Return how to draw: the method's own way, with what is given instead."""
    changed: dict[str, Any] = {setting: value for setting, value in given.items() if value is not None}
    if changed and not chosen.needs_generator:
        raise UsageError(f"{name} draws nothing: {', '.join(changed)} would have no effect")
    return replace(chosen.sampling, **changed)


def _places(output: str) -> tuple[str, str | None]:
    """Return the folder of the step, and the file of the rows if one is asked for."""
    suffix = Path(output).suffix
    return (output.removesuffix(suffix) + BESIDE, output) if suffix in FILES else (output, None)


def _writing(
    chosen: Diversifier,
    writer: _Writer,
    sampling: Sampling,
    given: Sequence[Example],
    n: int | None,
    *,
    on: str | None,
    here: bool,
) -> Price:
    """Return what the texts will cost, as far as it is known before any is drawn."""
    if not chosen.needs_generator:
        return Price()
    own: Callable[..., int] | None = getattr(chosen, "texts", None)
    if writer.ref is None or own is None:
        which = writer.name if writer.ref is None else "a method that goes by what it has drawn"
        return Price(unknown=(f"tokens, time and memory of {which} are not known",))
    pricing = Pricing(
        ref=pinned(writer.ref, on=on) if here else writer.ref, longest=LONGEST, on=on, here=here
    )
    again = Price(unknown=("what is refused and drawn again is not counted",))
    return pricing.writing(own(given, n), new_tokens=sampling.max_new_tokens) + again


def _price(chosen: Diversifier, writer: _Writer, sampling: Sampling, *, rows: int, n: int | None) -> str:
    """Return what the step costs, in words."""
    own: Callable[..., str] | None = getattr(chosen, "price", None)
    how_many = own(rows=rows, n=n) if own else "texts"
    if not chosen.needs_generator:
        return f"{how_many} by rules alone: no pass"
    return (
        f"{how_many} by {writer.name}, of at most {sampling.max_new_tokens:,} tokens each; "
        "what was drawn before costs nothing"
    )


def _inputs(chosen: Diversifier, writer: _Writer, avoided: Sequence[Example]) -> dict[str, str]:
    """Return the identities of what the step reads, but for the rows."""
    inputs = {"generator": writer.identity()}
    if avoided:
        inputs["avoid"] = fingerprint([example.id for example in avoided])
    for place, path in enumerate(_files_of(chosen)):
        if not Path(path).is_file():
            raise DataError(f"there is no file {path}", hint="the method reads it: check its settings")
        inputs[f"file {place}"] = file_digest(Path(path))
    return inputs


def _files_of(chosen: Diversifier) -> Sequence[str]:
    """Return the files that a method reads, if it says so."""
    files: Sequence[str] = getattr(chosen, "files", ())
    return files


def _to_avoid(path: str, reading: Reading) -> list[Example]:
    """Return what to keep away from: conversations of a file, rows with a question, or items of an evaluation."""
    if path.partition(":")[0] in EVALUATORS and not Path(path).exists():
        evaluation = parse(path)
        return build_evaluator(evaluation).read(evaluation.path)
    try:
        given = Path(path)
        # A pool was read before, with a format and a source column of its own.
        how = Reading() if rows.is_pool(given) else replace(reading, source_column=None)
        return list(rows.read([path], **asdict(how)).iter_examples())
    except DataError:
        return read_items(path, _item, evaluator="--avoid", n=None, seed=0)


def _item(row: Row) -> Item:
    question = asked(row, None)
    try:
        answer = answered(row, None)
    except ValueError:  # without an answer, the question is still to be avoided
        answer = ""
    closing = (Message(role="assistant", content=answer),) if answer else ()
    return Item((*question, *closing), {})


def _check_target(target: Path | None, folder: Path, data: Sequence[str] | None) -> None:
    """Refuse to write the rows over something else."""
    if target is None:
        return
    if any(target.resolve() == Path(given).resolve() for given in data or []):
        raise UsageError(f"the output {target} would replace its input", hint="choose another -o")
    if target.exists() and not (folder / BEGUN).is_file():
        raise StoreError(f"{target} is there already, and no record of it beside", hint="choose another -o")


def _kept_apart(made: Diversified, avoided: Avoided) -> Diversified:
    """Return what was made without what overlaps with a file to avoid."""
    reasons = avoided.reasons([example.messages for example in made.kept])
    if not any(reasons):
        return made
    left_out = [
        (
            example.meta["parent"],
            example.meta["seed"],
            reason,
            "\n\n".join(m.content for m in example.messages),
        )
        for example, reason in zip(made.kept, reasons, strict=True)
        if reason
    ]
    kept = [example for example, reason in zip(made.kept, reasons, strict=True) if not reason]
    note = f"{len(left_out):,} of {len(made.kept):,} are left out: they overlap with a file to avoid"
    dropped = pl.concat([made.dropped, pl.DataFrame(left_out, schema=made.dropped.schema, orient="row")])
    return replace(made, kept=kept, dropped=dropped, notes=(*made.notes, note))


def _noted_unanswered(name: str, made: Diversified, draw: Drawing) -> Diversified:
    """Return what was made, with a note of what a server failed to answer even when asked for nothing else.

    Raises:
        ModelError: If it failed beside others that it answered in this run: asked again, it may answer them.
    """
    tally = draw.tally
    if not tally.unanswered:
        return made
    asked = tally.draws + tally.unanswered
    said = f"{tally.unanswered:,} of {asked:,} were not answered"
    if tally.draws:
        raise ModelError(
            f"{name}: {said}; what was is kept",
            hint="run the same command again: it asks for those alone, and goes on without them if none is answered",
        )
    return replace(made, notes=(*made.notes, f"{said} by the server, asked again, and are left out"))


_REMEDY = "the reasons say what to change: the length (--max-new-tokens), the rows, or the model"


def _why_nothing(made: Diversified) -> str:
    """Return the reasons, and one text that was refused."""
    if made.dropped.is_empty():
        return "; ".join(made.notes) or "there was nothing to make it of"
    return f"{counted(made.dropped)}; such as {made.dropped['text'][0][:200]!r}"


def _table(kept: Sequence[Example]) -> pl.DataFrame:
    """Return a line for each example: id, messages, source, and its meta."""
    lines = [{"id": example.id, **rows.as_row(example), **example.meta} for example in kept]
    known = {"parent": pl.String, "seed": pl.Int64}
    return pl.DataFrame(lines, infer_schema_length=None).cast(known)  # type: ignore[arg-type]


def _write_rows(generated: pl.DataFrame, target: Path) -> None:
    if target.suffix == ".parquet":
        write_frame(generated, target)
        return
    with replacing(target) as part, part.open("w", encoding="utf-8") as out:
        for line in generated.iter_rows(named=True):
            out.write(json.dumps(line, ensure_ascii=False) + "\n")


def _diversities(given: Sequence[Example], kept: Sequence[Example], folder: Path) -> dict[str, str]:
    """Write figures and a map of what was varied, before and after; return the figures in words.

    Raises:
        ModelError: If the word vectors are not installed.
    """
    from learnable.models import StaticEmbedder

    embedder = StaticEmbedder()
    figures, maps, words = [], [], {}
    for what, (before, after) in _varied(given, kept).items():
        texts = [*before, *after]
        vectors = embedder.embed(
            [Example(id="", messages=(Message(role="user", content=text),), source="") for text in texts]
        )
        size = min(len(before), len(after)) or None
        split = {"before": slice(0, len(before)), "after": slice(len(before), None)}
        measured = {
            name: diversity(texts[part], vectors[part], of=size)
            for name, part in split.items()
            if texts[part]
        }
        figures += [{"what": what, "set": name, **asdict(found)} for name, found in measured.items()]
        sets = ["before"] * len(before) + ["after"] * len(after)
        x, y = plane(vectors).T
        maps.append(pl.DataFrame({"what": [what] * len(texts), "set": sets, "text": texts, "x": x, "y": y}))
        words[f"diversity of {what}"] = " → ".join(
            f"mean distance {found.mean_distance:.3f}, distinct-1 {found.distinct_1:.3f}, "
            f"distinct-2 {found.distinct_2:.3f}"
            for found in measured.values()
        )
    write_frame(pl.DataFrame(figures), folder / "diversity.parquet")
    write_frame(pl.concat(maps), folder / "map.parquet")
    return words


def _varied(given: Sequence[Example], kept: Sequence[Example]) -> dict[str, tuple[list[str], list[str]]]:
    """Return the texts that a method varies, before and after: instructions, else questions and answers."""
    if all({"instruction", "original"} <= example.meta.keys() for example in kept):
        originals = {example.meta["parent"]: str(example.meta["original"]) for example in kept}
        return {"instructions": (list(originals.values()), [str(e.meta["instruction"]) for e in kept])}

    def said(examples: Sequence[Example], role: str) -> list[str]:
        last = ([turn.content for turn in example.messages if turn.role == role] for example in examples)
        return [turns[-1] for turns in last if turns]

    roles = {"questions": "user", "answers": "assistant"}
    return {what: (said(given, role), said(kept, role)) for what, role in roles.items()}
