"""The page of suspects: rows that look wrong, each beside the one it collides with, to keep or to drop by keys."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from learnable.checks import CHECKS, Check, Checked, Suspect
from learnable.pages import html
from learnable.pages.page import Part, Section, write_page
from learnable.pages.words import count, plural, share
from learnable.types import Message

SCRIPT = "suspects.js"
KEYS = (
    ("j k", "next and previous"),
    ("d", "drop"),
    ("u", "keep"),
    ("x", "undecided again"),
)


@dataclass(frozen=True, kw_only=True)
class SuspectFacts:
    """All that the page says.

    Args:
        checked: The rows.
        checks: Those that were made, by name.
        left_out: Names of those that were not.
        found: The suspects, the most suspect first.
        sure: Suspicion from which on a row is marked to be dropped.
        shown: Most suspects on the page.
        places: Where each example stands, by its id.
        model: What measured; None where texts alone were read.
        ranking: File of all rows with their suspicion.
        pool: Folder of the rows.
        command: Repeats the run.
        fingerprint: Names what a browser remembers of this page.
    """

    checked: Checked
    checks: Mapping[str, Check]
    left_out: Sequence[str]
    found: Sequence[Suspect]
    sure: float
    shown: int
    places: Mapping[str, str]
    model: str | None
    ranking: str
    pool: str
    command: str
    fingerprint: str

    @property
    def sure_ones(self) -> int:
        """How many are marked to be dropped."""
        return sum(each.suspicion >= self.sure for each in self.found)

    @property
    def headline(self) -> str:
        """How many rows look wrong; of none, by what was looked at."""
        if number := len(self.found):
            looks = plural(number, "row looks", "rows look")
            return f"{looks} wrong, of {count(len(self.checked.rows))}"
        if self.model is not None:
            return "No row looks wrong"
        unmade = sum(bool(CHECKS[name].needs) for name in self.left_out)
        need = plural(unmade, "check needs", "checks need")
        return f"No row looks wrong by its text alone; {need} a model"

    def next_command(self, bans: str) -> str:
        """Return the command that writes all rows but those of a file of bans."""
        words = ["learnable", "select", self.ranking, "--pool", self.pool, "--ban", bans]
        return shlex.join([*words, "--by", "suspicion", "--lowest", "--budget", "100%", "-o", "cleaned"])


def render_suspects(facts: SuspectFacts) -> str:
    """Write the page."""
    number, of = len(facts.found), len(facts.checked.rows)
    read = (
        "texts alone were read"
        if facts.model is None
        else f"losses are of {facts.model} and what was trained of it"
    )
    marked = f"None has a suspicion of {facts.sure:g} or more, so none is marked to be dropped."
    if sure := facts.sure_ones:
        marked = f"{count(sure)} with a suspicion of {facts.sure:g} or more {'is' if sure == 1 else 'are'} marked to be dropped: look before you believe it."
    lead = f"{plural(len(facts.checks), 'check')} looked at {plural(of, 'row')}; {read}. The most suspect come first. {marked}"
    return write_page(
        [_next(facts), _suspects(facts), _checks(facts)],
        kicker="clean",
        headline=facts.headline,
        lead=lead,
        tiles=[
            ("rows", count(of), ""),
            ("checks", count(len(facts.checks)), f"{len(facts.left_out)} not made" if facts.left_out else ""),
            ("suspects", count(number), share(number, of)),
            ("marked to drop", count(facts.sure_ones), f"suspicion {facts.sure:g} and more"),
        ],
        command=("To repeat this page", facts.command or "learnable run clean my.jsonl"),
        script=SCRIPT,
    )


def _suspects(facts: SuspectFacts) -> Section:
    shown = facts.found[: facts.shown]
    keys = html.joined(
        html.markup("<span><kbd>{key}</kbd> {what}</span>", key=key, what=what) for key, what in KEYS
    )
    rest = [
        facts.checked.rows[each.row].id for each in facts.found[facts.shown :] if each.suspicion >= facts.sure
    ]
    bar = html.markup(
        '<div class="desk" id="desk" data-key="{key}" data-rest="{rest}"><p class="keyboard">{keys}</p>\n<p><span id="counts" role="status"></span> '
        '<button type="button" id="download">Download bans.txt</button></p></div>',
        key=facts.fingerprint,
        rest=" ".join(rest),
        keys=keys,
    )
    parts: list[Part] = [bar, *(_card(facts, rank, each) for rank, each in enumerate(shown, start=1))]
    if more := len(facts.found) - len(shown):
        also = f" {plural(len(rest), 'one')} of them marked to drop is in the file of bans." if rest else ""
        parts.append(html.remark(f"{plural(more, 'more suspect')}, in suspects.jsonl.{also}"))
    return Section(id="suspects", nav="suspects", title="Suspects", parts=parts if shown else [])


def _card(facts: SuspectFacts, rank: int, suspect: Suspect) -> Markup:
    row = facts.checked.rows[suspect.row]
    state = "drop" if suspect.suspicion >= facts.sure else ""
    reasons = [
        html.markup("<strong>{name}</strong> {why}", name=name, why=each.why)
        for name, each in suspect.reasons.items()
    ]
    both = [html.box("side", _turns(facts, suspect.row))]
    if suspect.other is not None:
        other = facts.checked.rows[suspect.other]
        title = html.markup('<p class="remark">collides with {place}</p>', place=facts.places[other.id])
        both.append(html.box("side", [title, *_turns(facts, suspect.other)]))
    return html.markup(
        '<article class="excerpt suspect" data-id="{id}" data-state="{state}" data-first="{state}" tabindex="-1" aria-label="suspect {rank}">\n'
        '<header><h3>{rank} <span dir="auto">{place}</span> <small>suspicion {suspicion}</small></h3>\n'
        '<p class="choice"><button type="button" data-to="drop">drop</button><button type="button" data-to="keep">keep</button></p></header>\n'
        "{reasons}\n{both}\n</article>",
        id=row.id,
        state=state,
        rank=rank,
        place=facts.places[row.id],
        suspicion=f"{suspect.suspicion:.2f}",
        reasons=html.bullets(reasons, kind="reasons"),
        both=html.box("pair", both),
    )


def _turns(facts: SuspectFacts, row: int) -> list[Markup]:
    return html.turns_of([_shown(each) for each in facts.checked.examples[row].messages])


def _shown(message: Message) -> dict[str, str | None]:
    calls = [f"calls {each.name}({each.arguments})" for each in message.tool_calls]
    return {"role": message.role, "content": "\n\n".join([*filter(None, [message.content]), *calls])}


def _checks(facts: SuspectFacts) -> Section:
    lines = []
    for name, check in facts.checks.items():
        found = [each for each in facts.found if name in each.reasons]
        lines.append(
            (name, check.about, count(len(found)), count(sum(len(each.reasons) == 1 for each in found)))
        )
    head = ["check", "looks for", "suspects", "by it alone"]
    words = (
        "A finding has a strength, about how often a person would agree; a suspicion is 1 - (1 - a)(1 - b)... over the strengths of "
        "a row's reasons, the noisy or; of checks that measure, the strongest counts. Strengths were set by hand, once for all data: they order rows, and are no probabilities."
    )
    parts: list[Part] = [html.text(words), html.table("Checks that were made", head, lines, worded=(1,))]
    if facts.left_out:
        parts.append(html.remark(f"Not made: {', '.join(facts.left_out)}."))
    return Section(id="checks", nav="checks", title="What was looked for", parts=parts)


def _next(facts: SuspectFacts) -> Section:
    words = "Decide below, download bans.txt, and write all other rows, as they came; every recipe that chooses takes --ban too."
    line = html.code_line(facts.next_command("bans.txt"))
    command = html.markup('<p class="command">{line}</p>', line=line)
    return Section(
        id="next", nav="next", title="Then", parts=[html.text(words), command] if facts.found else []
    )
