"""The page of a lesson: whether a model learned a task or its template, with which arm, at what cost, and what to distrust.

Everything is said in words and with its interval; what was not seen is said as plainly as what was.
"""

from collections.abc import Sequence

import polars as pl
from markupsafe import Markup

from learnable.experiments import UNTUNED
from learnable.mixing import MIXTURES
from learnable.pages import html
from learnable.pages import lesson_pictures as pictures
from learnable.pages.contest import ASKED, Evaluated
from learnable.pages.contest_warnings import method_section
from learnable.pages.lesson_concepts import concepts_section
from learnable.pages.lesson_facts import (
    LESSON_CHECKS,
    PAPER_RATIO,
    LessonFacts,
    about_theme,
    headline,
    mixture_of,
    rows_words,
)
from learnable.pages.lesson_gradients import gradients_section
from learnable.pages.page import Panels, Part, Picture, Section, write_page
from learnable.pages.warnings import look, warnings_section
from learnable.pages.words import NOTHING, capital, count, decimal, duration, finite, plural, probability

SHOWN_ITEMS = 3
"""Of each way to ask."""
_BEGINNINGS = {
    "random": "a random row",
    "mean": "the mean of all rows of the embedding",
    "description": "the mean of the words that describe it",
}


def render_lesson(lesson: LessonFacts) -> str:
    """Write the report of one lesson as a self-contained page: HTML of about 1 MB, whatever the number of items, and 0.3 kB per question drawn."""
    looked = look(LESSON_CHECKS, lesson)
    panels = pictures.values(lesson)
    first = next((number for number, drawn in enumerate(panels) if drawn), None)
    opening = None
    if first is not None:  # what the arms came to on the first evaluation that has a picture
        each = lesson.themes[first][0]
        drawn = Panels(pictures=panels[first], kind="panels plots")
        title = f"{each.theme} ({each.unit}, {each.side})"
        opening = Section(id="opening", title=title, parts=[drawn, _legend(lesson)])
    sections = [
        _asked(lesson),
        _answer(lesson, panels, first),
        _values(lesson),
        concepts_section(lesson),
        gradients_section(lesson),
        _wordings(lesson),
        _samples(lesson),
        _cost(lesson),
        warnings_section(looked, nav="distrust"),
        _method(lesson),
    ]
    new = html.markup(
        ", with the new token{s} <strong>{tokens}</strong>" if lesson.tokens else "",
        s="s" if len(lesson.tokens) > 1 else "",
        tokens=", ".join(lesson.tokens),
    )
    ratio = f"{rows_words(lesson.ratio)} for each of the task" if lesson.ratio else ""
    return write_page(
        sections,
        kicker=lesson.title,
        headline=headline(lesson),
        lead=html.markup(
            "A task of {rows} was taught to <strong>{model}</strong> in {ways}, {times} each{new}.{distrust}",
            rows=plural(lesson.task, "row"),
            model=lesson.model,
            ways=plural(len(lesson.trained), "way"),
            times=plural(lesson.trainings, "time"),
            new=new,
            distrust=looked.link,
        ),
        tiles=[
            ("rows of the task", count(lesson.task), "to train on"),
            ("rows asked", count(lesson.tests), "that no training saw"),
            ("buffer", count(lesson.buffer or None), ratio),
            ("arms", count(len(lesson.trained)), ""),
            *lesson.tiles,
        ],
        onward=lesson.onward,
        chart=opening,
        command=("To repeat this page", lesson.command),
    )


def _asked(lesson: LessonFacts) -> Section:
    tokens = ", ".join(lesson.tokens)
    inits = {init: _BEGINNINGS[init] for init in lesson.inits.values() if init and lesson.tokens}
    both = ", in the wording of the task and in wordings that no training saw either"
    words = (
        "Does the model learn the task, or the words it was put in? Each arm sees the rows of the task; all are asked "
        f"on {plural(lesson.tests, 'row')} that no training saw{both if len(lesson.example) > 1 else ''}."
    )
    pairs = []
    for label in lesson.labels:
        mixture, init = mixture_of(label), lesson.inits.get(label)
        notes = [f"({tokens} begins as {inits[init]})"] if init and len(inits) > 1 else []
        notes += ["(the others are compared with it)"] if label == lesson.baseline else []
        small = Markup("").join(html.markup(" <small>{note}</small>", note=note) for note in notes)
        about = "the model as it is" if mixture == UNTUNED else MIXTURES[mixture].about.replace("`", "")
        pairs.append((label, html.markup("{about}{small}", about=about, small=small)))
    parts: list[Part] = [html.text(words), html.terms(pairs, kind="ways")]
    if len(inits) == 1:
        parts.append(html.remark(f"{tokens} begins as {next(iter(inits.values()))}."))
    titles = {"seen": "In the wording of the task", "unseen": "In a wording that no training saw"}
    if lesson.example:
        shown = [html.excerpt(titles[how], html.turns_of(turns)) for how, turns in lesson.example.items()]
        parts += [html.heading("One of the rows asked"), html.box("pair", shown)]
    return Section(id="asked", nav="asked", title="What was asked", parts=parts)


def _legend(lesson: LessonFacts) -> Markup:
    """Say how to read the dots."""
    words = (
        "Dots are means over items and seeds, ticks the seeds. A whisker is the interval of the difference to "
        f"{lesson.baseline}, laid at its value (solid line): where it crosses that line (hollow dot), no difference was seen."
    )
    if len(lesson.trained) < len(lesson.labels):
        words += " The diamond and the dashed line are the untuned model."
    return html.remark(words)


def _answer(lesson: LessonFacts, drawn: Sequence[Sequence[Picture]], first: int | None) -> Section:
    baseline = lesson.baseline
    mark = f" The mark is for {lesson.focus}: ● better or worse, ○ no difference seen."
    words = (
        f"One sentence for each evaluation: which arms were better or worse than {baseline}, and for which no difference was seen. "
        f"All sizes are differences to {baseline} with their intervals.{mark if lesson.focus else ''}"
    )
    parts: list[Part] = [html.text(words)]
    for number, (theme, panels) in enumerate(zip(lesson.themes, drawn, strict=True)):
        title = theme[0].theme + (": what was forgotten" if theme[0].is_general else "")
        inside = [html.heading(title), html.remark(about_theme(theme))]
        for each in theme:  # marked by what the arm in focus came to
            focus = each.of(lesson.focus) if lesson.focus else None
            kind = focus.outcome if focus is not None and focus.outcome in ("better", "worse") else ""
            found = [f"{what}: {who}" for _, what, who in lesson.seen_on(each)]
            said = capital("; ".join(found) or f"nothing was compared with {baseline}") + "."
            if (asked := ASKED[each.asked]) and not each.is_general:
                said = html.markup("<strong>In {asked}:</strong> {said}", asked=asked, said=said)
            inside.append(html.text(said, kind=f"said {kind}"))
            inside += [html.remark(context)] if (context := lesson.context_of(each)) else []
        parts.append(html.box("answer", inside))
        nothing = html.remark(theme[0].no_picture)
        if number == first:
            nothing = html.remark("Its picture is the one at the top of this page.")
        parts.append(Panels(pictures=panels, kind="panels plots") if panels and number != first else nothing)
    if sum(map(bool, drawn)) > 1:
        parts.append(_legend(lesson))
    return Section(id="answer", nav="answer", title="The task, or its wording?", parts=parts)


def _values(lesson: LessonFacts) -> Section:
    tables = [_values_table(lesson, theme) for theme in lesson.themes]
    note = (
        f"Small print is the interval of the value, and that of the difference to {lesson.baseline}. “Unseen less seen” is what "
        "putting the task in other words does to the value: a figure without an interval."
    )
    return Section(id="values", nav="figures", title="All figures", parts=[*tables, html.remark(note)])


def _values_table(lesson: LessonFacts, theme: Sequence[Evaluated]) -> Markup:
    first, several = theme[0], len(theme) > 1
    by_way = {each.asked: each for each in theme}
    unseen, seen = by_way.get("unseen"), by_way.get("seen")
    names = [html.head_cell(f"in {ASKED[each.asked]}", span=3) for each in theme]
    rows = []
    for arm in lesson.labels:
        cells: list[str] = [arm]
        for each in theme:
            line = each.of(arm)
            if line is None:
                cells += [NOTHING] * 3
                continue
            kind = line.outcome if line.competes and line.outcome in ("better", "worse") else ""
            small = "" if line.p is None else f"p {probability(line.p)}"
            seen_as = html.cell(line.words, small=small, kind=f"word {kind}")
            cells += [each.value_cell(line), each.difference_cell(line), seen_as]
        if unseen and seen:
            new, old = (line.value if line is not None else None for line in (unseen.of(arm), seen.of(arm)))
            cells.append(unseen.signed(new - old) if new is not None and old is not None else NOTHING)
        rows.append(html.row(cells, kind="baseline" if arm == lesson.baseline else ""))
    width, last = len(theme), ["unseen less seen"] if unseen and seen else []
    return html.table(
        f"Values on {first.theme} ({first.unit}, {first.side})",
        ["" if several else "arm", *["value", "difference", "seen"] * width, *last],
        rows,
        over=["arm", *names, *[""] * len(last)] if several else (),
        worded=[3 * (place + 1) for place in range(width)],
        kind="dense",
    )


def _wordings(lesson: LessonFacts) -> Section:
    known = [kind for kind in reversed(pictures.KINDS) if kind in lesson.diversity]
    parts: list[Part] = []
    if picture := pictures.wordings_map(lesson):
        looks = [pictures.KINDS[kind] for kind in known]
        parts += [html.keys((colour, f"dot {shape}", words) for words, colour, shape in looks), picture]
    rows = []
    for kind in known:
        numbers = lesson.diversity[kind]
        figures = map(decimal, map(numbers.get, ("mean_distance", "distinct_1", "distinct_2")))
        rows.append([pictures.KINDS[kind][0], count(numbers["texts"]), *figures])
    if rows:
        caption = (
            "Diversity of the wordings: distance is 1 \N{MINUS SIGN} cosine of the word vectors of two texts, "
            "distinct-n the different word n-grams over all of them (which falls with the number of texts)"
        )
        head = ["texts", "how many", "mean distance", "distinct-1", "distinct-2"]
        parts.append(html.table(caption, head, rows, label="Diversity of the wordings"))
    return Section(id="wordings", nav="diversity", title="How diverse the wordings are", parts=parts)


def _samples(lesson: LessonFacts) -> Section:
    """Show what the models wrote, side by side: the same few items for every arm, in the order in which they were asked."""
    parts: list[Part] = []
    for title, frame in shelves(lesson):
        items = list(frame.group_by("prompt", maintain_order=True))[:SHOWN_ITEMS]
        shown = [
            html.box("item", [html.heading(f"Item {number}", 4), *_item(lesson, str(prompt), part)])
            for number, ((prompt,), part) in enumerate(items, start=1)
        ]
        parts += [html.heading(title), html.fold(plural(len(shown), "item"), shown, is_open=not parts)]
    if parts:
        words = "The first items that were asked, not chosen ones, by the models of the first seed."
        parts.insert(0, html.text(words))
    return Section(id="samples", nav="samples", title="What the models wrote", parts=parts)


def shelves(lesson: LessonFacts) -> list[tuple[str, pl.DataFrame]]:
    """Return the samples of each way to ask, with its name: those of evaluations that ask alike together."""
    frame = lesson.samples
    if frame is None or frame.is_empty():
        return []
    there = set(frame["evaluation"])
    places: dict[tuple[int, str], list[str]] = {}
    for each in lesson.evaluated:
        if each.label in there:
            title = f"In {ASKED[each.asked]}" if ASKED[each.asked] else each.name
            places.setdefault((list(ASKED).index(each.asked), title), []).append(each.label)
    ordered = sorted(places.items(), key=lambda place: place[0][0])
    return [(title, frame.filter(pl.col("evaluation").is_in(labels))) for (_, title), labels in ordered]


def _item(lesson: LessonFacts, prompt: str, part: pl.DataFrame) -> list[Markup]:
    """Show an item by its prompt: an item of two evaluations has two ids, as it is graded by other things."""
    by_label = {each.label: each for each in lesson.evaluated}
    named = part["evaluation"].n_unique() > 1
    written = []
    for arm in lesson.ordered(part):
        own = part.filter(pl.col("arm") == arm)
        for (completion,), same in own.group_by("completion", maintain_order=True):
            grades = same.select("evaluation", "value").iter_rows()
            marks = [_mark(by_label[label], finite(value), named=named) for label, value in grades]
            kinds = {kind for kind, _ in marks}
            texts = [html.text(words, kind=f"mark {kind}") for kind, words in marks]
            inside = [html.heading(arm, 5), *texts, html.said_in(str(completion))]
            written.append(html.box(kinds.pop() if len(kinds) == 1 else "", inside))
    return [html.turn("user", prompt), html.box("written", written)]


def _mark(each: Evaluated, value: float | None, *, named: bool) -> tuple[str, str]:
    """Return what an evaluation said of a text: right, wrong or neither, and the words."""
    kind, words = "", "not graded" if value is None else f"{decimal(value, 2)} {each.unit}"
    if each.unit == "share correct" and value in (0.0, 1.0):
        kind = "right" if value else "wrong"
        words = f"{'✓' if value else '✗'} {kind}"
    return kind, f"{words}: {each.name}" if named else words


def _cost(lesson: LessonFacts) -> Section:
    base = lesson.means[lesson.baseline]["tokens"]
    rows = []
    for arm in lesson.trained:
        means = lesson.means[arm]
        task = means["task_examples"]
        others = (means["examples"] - task) / task if task else None
        cells = [
            arm,
            count(means["examples"]),
            count(task),
            decimal(others or None, 2),
            count(means["tokens"]),
            decimal(means["tokens"] / base if base else None, 1),
            count(means["response_tokens"]),
            count(means["steps"]),
            duration(means["seconds"]),
        ]
        rows.append(html.row(cells, kind="baseline" if arm == lesson.baseline else ""))
    caption = (
        "Cost of each arm: means over the seeds. DELIA's authors mix in "
        f"{PAPER_RATIO} rows of the buffer for each row of the task."
    )
    beside = ("tokens", f"÷ {lesson.baseline}", "response tokens", "steps", "training")
    head = ["arm", "examples", "of the task", "others : task", *beside]
    parts: list[Part] = [html.table(caption, head, rows, label="Cost of each arm", kind="dense")]
    if lesson.made:
        made = [
            (name, by, count(cost.tokens or None), duration(cost.seconds)) for name, by, cost in lesson.made
        ]
        caption = "What the material took to make, when it was made"
        head = ["material", "by", "tokens", "time"]
        parts.append(html.table(caption, head, made, label="Cost of the material", worded=(1,)))
    parts += lesson.took
    return Section(id="cost", nav="cost", title="What it took", parts=parts)


def _method(lesson: LessonFacts) -> Section:
    repeated = lesson.by_mixture.get("repeated")
    as_many = f" The way called {repeated} has as many as delia." if repeated else ""
    return method_section(
        lesson,
        first="All arms start from the same model, with the same settings and the same seeds. They do not take equally many "
        f"tokens or steps: a buffer costs tokens.{as_many}",
        widened_for="arms",
        alone=", and the comparison with as many tokens stands alone" if lesson.equal_tokens else "",
        last=(
            "The wordings are few, and the rows asked share them: other wordings may be harder.",
            "All of it belongs to this model, this task, this buffer and these settings.",
        ),
    )
