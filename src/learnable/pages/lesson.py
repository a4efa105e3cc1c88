"""The page of a lesson: whether a model learned a task or its template, with which arm, at what cost, and what to distrust.

Everything is said in words and with its interval; what was not seen is said as plainly as what was.
"""

from collections.abc import Sequence

import polars as pl
from markupsafe import Markup

from learnable.pages import lesson_pictures as pictures
from learnable.pages.contest import distrust_link, probability
from learnable.pages.excerpts import excerpt, said_in, turn, turns_of
from learnable.pages.lesson_answers import about, context_of, headline, said_of
from learnable.pages.lesson_concepts import concepts_section
from learnable.pages.lesson_facts import (
    PAPER_RATIO,
    ArmLine,
    Asked,
    Asking,
    LessonContest,
    LessonFacts,
    Theme,
    asked_words,
    contest_of,
    rows_words,
)
from learnable.pages.lesson_gradients import gradients_section
from learnable.pages.lesson_warnings import LESSON_CHECKS
from learnable.pages.page import (
    Opening,
    Panels,
    Part,
    Section,
    box,
    bullets,
    cell,
    fold,
    head_cell,
    heading,
    keys,
    markup,
    remark,
    row,
    settings_table,
    table,
    terms,
    text,
    write_page,
)
from learnable.pages.warnings import Looked, look, warnings_section
from learnable.pages.words import NOTHING, count, decimal, duration, finite, plural

SHOWN_ITEMS = 3
"""Of each way to ask."""
_BEGINNINGS = {
    "random": "a random row",
    "mean": "the mean of all rows of the embedding",
    "description": "the mean of the words that describe it",
}


def render_lesson(facts: LessonFacts) -> str:
    """Write the report of one lesson as a self-contained page.

    Args:
        facts: What the report is made from.

    Returns:
        HTML of about 1 MB, whatever the number of items, and 0.3 kB per question drawn.
    """
    lesson = contest_of(facts)
    looked = look(LESSON_CHECKS, lesson)
    sections = [
        _asked(lesson),
        _answer(lesson),
        _values(lesson),
        concepts_section(lesson),
        gradients_section(lesson),
        _wordings(lesson),
        _samples(lesson),
        _cost(lesson),
        warnings_section(looked, nav="distrust"),
        _method(lesson),
    ]
    return write_page(_opening(lesson, looked), sections)


def _opening(lesson: LessonContest, looked: Looked) -> Opening:
    facts, said = lesson.facts, headline(lesson)
    models = facts.arms.filter(facts.arms["tokens"] > 0).unique("model")
    new = ""
    if facts.tokens:
        form = ", with the new token{s} <strong>{tokens}</strong>"
        new = markup(form, s="s" if len(facts.tokens) > 1 else "", tokens=", ".join(facts.tokens))
    ratio = f"{rows_words(lesson.ratio)} for each of the task" if lesson.ratio else ""
    return Opening(
        title=f"{facts.title}: {said}",
        kicker=facts.title,
        headline=said,
        lead=markup(
            "A task of {rows} was taught to <strong>{model}</strong> in {ways}, {times} each{new}.{distrust}",
            rows=plural(facts.task, "row"),
            model=facts.model,
            ways=plural(len(lesson.trained), "way"),
            times=plural(lesson.trainings, "time"),
            new=new,
            distrust=distrust_link(looked.warnings),
        ),
        tiles=[
            ("rows of the task", count(facts.task), "to train on"),
            ("rows asked", count(facts.tests), "that no training saw"),
            ("buffer", count(facts.buffer or None), ratio),
            ("arms", count(len(lesson.trained)), ""),
            ("seeds", count(lesson.trainings), "trainings of each arm"),
            ("models trained", count(models.height), f"on {plural(int(models['tokens'].sum()), 'token')}"),
        ],
        command=("To repeat this page", facts.command),
    )


def _asked(lesson: LessonContest) -> Section:
    facts, tokens = lesson.facts, ", ".join(lesson.facts.tokens)
    inits = {way.init: _BEGINNINGS[way.init] for way in facts.ways if way.init and facts.tokens}
    both = (
        ", in the wording of the task and in wordings that no training saw either"
        if len(facts.example) > 1
        else ""
    )
    words = (
        "Does the model learn the task, or the words it was put in? Each arm sees the rows of the task; all are asked "
        f"on {plural(facts.tests, 'row')} that no training saw{both}."
    )
    pairs = []
    for way in facts.ways:
        notes = [f"({tokens} begins as {inits[way.init]})"] if way.init and len(inits) > 1 else []
        notes += ["(the others are compared with it)"] if way.label == lesson.baseline else []
        small = "".join(markup(" <small>{note}</small>", note=note) for note in notes)
        form = "{about}{small}"
        pairs.append((way.label, markup(form, about=way.about.replace("`", ""), small=markup(small))))
    parts: list[Part] = [text(words), terms(pairs, kind="ways")]
    if len(inits) == 1:
        parts.append(text(f"{tokens} begins as {next(iter(inits.values()))}.", kind="remark"))
    titles = {"seen": "In the wording of the task", "unseen": "In a wording that no training saw"}
    shown = [excerpt(titles[how], parts=turns_of(messages)) for how, messages in facts.example.items()]
    if shown:
        parts += [heading("One of the rows asked"), box("pair", shown)]
    return Section(id="asked", nav="asked", title="What was asked", parts=parts)


def _answer(lesson: LessonContest) -> Section:
    baseline = lesson.baseline
    mark = (
        f" The mark is for {lesson.focus}: ● better or worse, ○ no difference seen." if lesson.focus else ""
    )
    parts: list[Part] = [
        text(
            "One sentence for each evaluation: which arms were better or worse than "
            f"{baseline}, and for which no difference was seen. All sizes are differences to {baseline} with their "
            f"intervals.{mark}"
        )
    ]
    all_panels = pictures.values(lesson)
    for theme, panels in zip(lesson.themes, all_panels, strict=True):
        inside = [remark(about(theme))]
        for each in theme.evaluated:
            inside += _sentence(lesson, each)
        title = f"{theme.name}{' on general rows: what was forgotten' if theme.is_general else ''}"
        parts.append(box("answer", [heading(title), *inside]))
        if panels:
            parts.append(Panels(pictures=panels, kind="panels plots"))
        else:
            known = any(line.low is not None for line in theme.evaluated[0].compared)
            why = "every arm is graded alike on every item" if known else "no difference has an interval"
            parts.append(remark(f"No picture: {why}."))
    if any(all_panels):
        words = (
            "Dots are means over items and seeds, ticks the seeds. A whisker is the interval of the difference to "
            f"{baseline}, laid at its value (solid line): where it crosses that line (hollow dot), no difference was seen."
        )
        if len(lesson.trained) < len(lesson.ways):
            words += " The diamond and the dashed line are the untuned model."
        parts.append(remark(words))
    return Section(id="answer", nav="answer", title="The task, or its wording?", parts=parts)


def _sentence(lesson: LessonContest, each: Asking) -> list[Markup]:
    """What one evaluation says, marked by what the arm in focus came to, and the scale beside it."""
    focus = each.of(lesson.focus) if lesson.focus else None
    kind = focus.outcome if focus is not None and focus.outcome in ("better", "worse") else ""
    asked = asked_words(each.asked)
    said = said_of(each, lesson.baseline)
    if asked and not each.is_general:
        said = markup("<strong>In {asked}:</strong> {said}", asked=asked, said=said)
    context = context_of(each, lesson.baseline)
    return [text(said, kind=f"said {kind}"), *([remark(context)] if context else [])]


def _values(lesson: LessonContest) -> Section:
    tables = [_values_table(lesson, theme) for theme in lesson.themes]
    note = (
        f"Small print is the interval of the value, and that of the difference to {lesson.baseline}. “Unseen less seen” is what "
        "putting the task in other words does to the value: a figure without an interval."
    )
    return Section(id="values", nav="figures", title="All figures", parts=[*tables, remark(note)])


def _values_table(lesson: LessonContest, theme: Theme) -> Markup:
    first, several = theme.evaluated[0], len(theme.evaluated) > 1
    unseen, seen = theme.asked("unseen"), theme.asked("seen")
    over: list[str] = []
    if several:
        names = [head_cell(f"in {asked_words(each.asked)}", span=3) for each in theme.evaluated]
        over = ["arm", *names, *([""] if unseen and seen else [])]
    rows = []
    for arm in lesson.ways:
        cells: list[str] = [arm]
        for each in theme.evaluated:
            cells += _cells(each, each.of(arm))
        if unseen and seen:
            values = [line.value if line is not None else None for line in (unseen.of(arm), seen.of(arm))]
            new, old = values
            cells.append(unseen.signed(new - old) if new is not None and old is not None else NOTHING)
        rows.append(row(cells, kind="baseline" if arm == lesson.baseline else ""))
    width = len(theme.evaluated)
    head = ["value", "difference", "seen"] * width + (["unseen less seen"] if unseen and seen else [])
    general = " on general rows" if theme.is_general else ""
    return table(
        caption=f"Values on {theme.name}{general} ({first.unit}, {first.side})",
        kind="dense",
        over=over,
        head=["" if several else "arm", *head],
        worded=[3 * (place + 1) for place in range(width)],
        rows=rows,
    )


def _cells(each: Asking, line: ArmLine | None) -> list[str]:
    if line is None:
        return [NOTHING, NOTHING, NOTHING]
    kind = line.outcome if line.is_trained and line.outcome in ("better", "worse") else ""
    small = "" if line.p is None else f"p {probability(line.p)}"
    seen = cell(line.words, small=small, kind=f"word {kind}")
    return [each.value_cell(line), each.difference_cell(line), seen]


def _wordings(lesson: LessonContest) -> Section:
    figures = {kind: lesson.facts.diversity.get(kind) for kind in reversed(pictures.KINDS)}
    known = {kind: numbers for kind, numbers in figures.items() if numbers is not None}
    parts: list[Part] = []
    if picture := pictures.wordings_map(lesson):
        kinds = [
            (colour, f"dot {shape}", words) for words, colour, shape in map(pictures.KINDS.__getitem__, known)
        ]
        parts += [keys(kinds), picture]
    if known:
        names = ("mean_distance", "distinct_1", "distinct_2")
        rows = [
            [
                pictures.KINDS[kind][0],
                count(numbers["texts"]),
                *(decimal(finite(numbers.get(name))) for name in names),
            ]
            for kind, numbers in known.items()
        ]
        parts.append(
            table(
                label="Diversity of the wordings",
                caption="Diversity of the wordings: distance is 1 \N{MINUS SIGN} cosine of the word vectors of two texts, "
                "distinct-n the different word n-grams over all of them (which falls with the number of texts)",
                head=["texts", "how many", "mean distance", "distinct-1", "distinct-2"],
                rows=rows,
            )
        )
    return Section(id="wordings", nav="diversity", title="How diverse the wordings are", parts=parts)


def _samples(lesson: LessonContest) -> Section:
    """Show what the models wrote, side by side: the same few items for every arm, in the order in which they were asked."""
    section_parts: list[Part] = []
    for title, frame in shelves(lesson):
        items = [
            box("item", [heading(f"Item {number}", 4), *_item(lesson, str(prompt), part)])
            for number, ((prompt,), part) in enumerate(
                list(frame.group_by("prompt", maintain_order=True))[:SHOWN_ITEMS], start=1
            )
        ]
        is_first = not section_parts
        section_parts += [
            heading(title),
            fold(plural(len(items), "item"), is_open=is_first, parts=items),
        ]
    if section_parts:
        words = "The first items that were asked, not chosen ones, by the models of the first seed."
        section_parts.insert(0, text(words))
    return Section(id="samples", nav="samples", title="What the models wrote", parts=section_parts)


def shelves(lesson: LessonContest) -> list[tuple[str, pl.DataFrame]]:
    """Return the samples of each way to ask, with its name: those of evaluations that ask alike together."""
    frame = lesson.facts.samples
    if frame is None or frame.is_empty():
        return []
    by_label = {each.label: each for each in lesson.evaluated}
    places: dict[tuple[Asked, str], list[str]] = {}
    for label in frame["evaluation"].unique(maintain_order=True):
        each = by_label[label]
        places.setdefault((each.asked, each.name if each.asked == "elsewhere" else ""), []).append(label)
    order = ("unseen", "seen", "general", "elsewhere")
    return [
        (
            f"In {asked_words(asked)}" if asked_words(asked) else name,
            frame.filter(pl.col("evaluation").is_in(labels)),
        )
        for (asked, name), labels in sorted(places.items(), key=lambda place: order.index(place[0][0]))
    ]


def _item(lesson: LessonContest, prompt: str, part: pl.DataFrame) -> list[Markup]:
    """Show an item by its prompt: an item of two evaluations has two ids, as it is graded by other things."""
    by_label = {each.label: each for each in lesson.evaluated}
    written = []
    for arm in lesson.ordered(part):
        own = part.filter(pl.col("arm") == arm)
        for (completion,), same in own.group_by("completion", maintain_order=True):
            graded = [
                (by_label[label], finite(value))
                for label, value in same.select("evaluation", "value").iter_rows()
            ]
            marks = marks_of(graded, named=part["evaluation"].n_unique() > 1)
            kinds = {kind for kind, _ in marks}
            texts = [text(words, kind=f"mark {kind}") for kind, words in marks]
            kind = kinds.pop() if len(kinds) == 1 else ""
            written.append(box(kind, [heading(arm, 5), *texts, said_in(str(completion))]))
    return [turn("user", prompt), box("written", written)]


def marks_of(graded: Sequence[tuple[Asking, float | None]], *, named: bool) -> list[tuple[str, str]]:
    """Return what evaluations said of a text: right, wrong or neither, and the words."""
    marks = []
    for each, value in graded:
        kind, words = "", "not graded" if value is None else f"{decimal(value, 2)} {each.unit}"
        if each.unit == "share correct" and value in (0.0, 1.0):
            kind = "right" if value else "wrong"
            words = f"{'✓' if value else '✗'} {kind}"
        marks.append((kind, f"{words}: {each.name}" if named else words))
    return marks


def _cost(lesson: LessonContest) -> Section:
    facts, base = lesson.facts, lesson.means[lesson.baseline]["tokens"]
    rows = []
    for arm in lesson.trained:
        means = lesson.means[arm]
        task = means["task_examples"]
        others = (means["examples"] - task) / task if task else None
        cells = [
            count(means["examples"]),
            count(task),
            decimal(others or None, 2),
            count(means["tokens"]),
            decimal(means["tokens"] / base if base else None, 1),
            count(means["response_tokens"]),
            count(means["steps"]),
            duration(means["seconds"]),
        ]
        rows.append(row([arm, *cells], kind="baseline" if arm == lesson.baseline else ""))
    numbers = [
        "examples",
        "of the task",
        "others : task",
        "tokens",
        f"÷ {lesson.baseline}",
        "response tokens",
        "steps",
    ]
    parts: list[Part] = [
        table(
            label="Cost of each arm",
            caption="Cost of each arm: means over the seeds. DELIA's authors mix in "
            f"{PAPER_RATIO} rows of the buffer for each row of the task.",
            kind="dense",
            head=["arm", *numbers, "training"],
            rows=rows,
        )
    ]
    if facts.made:
        parts.append(
            table(
                label="Cost of the material",
                caption="What the material took to make, when it was made",
                head=["material", "by", "tokens", "time"],
                worded=(1,),
                rows=[
                    (each.name, each.about, count(each.tokens or None), duration(each.seconds))
                    for each in facts.made
                ],
            )
        )
    if facts.seconds:
        words = (
            f"The whole lesson took {duration(facts.seconds)} and trained on {plural(facts.computed, 'token')} in its last run; "
            "what was stored before is not in these figures."
        )
        parts.append(remark(words))
    return Section(id="cost", nav="cost", title="What it took", parts=parts)


def _method(lesson: LessonContest) -> Section:
    repeated = lesson.by_mixture.get("repeated")
    as_many = f" The way called {repeated} has as many as delia." if repeated else ""
    equal = any(each.equal_tokens is not None for each in lesson.evaluated)
    alone = ", and the comparison with as many tokens stands alone" if equal else ""
    notes = [
        "All arms start from the same model, with the same settings and the same seeds. They do not take equally many "
        f"tokens or steps: a buffer costs tokens.{as_many}",
        "A difference is paired: the same items, the same seeds. Its interval holds the chance of the items and of the training, "
        f"and is widened for the number of arms, so that with {100 * lesson.facts.confidence:g}% confidence all "
        "differences of one evaluation are inside together; p is corrected likewise. Several evaluations are not corrected for "
        f"each other{alone}.",
        "The interval of a value stands for that value alone. Do not compare ways by whether these overlap; the differences are "
        "for that.",
        "“No difference seen” is no proof that there is none. It says that a difference smaller than half the interval cannot "
        "be told from chance here.",
        "The wordings are few, and the rows asked share them: other wordings may be harder.",
        "All of it belongs to this model, this task, this buffer and these settings.",
    ]
    settings = settings_table("How every way was trained", lesson.facts.settings, label="Training")
    title = "How this was made, and what it cannot say"
    return Section(id="method", nav="method", title=title, parts=[bullets(notes), *settings])
