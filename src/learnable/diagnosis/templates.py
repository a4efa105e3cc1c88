"""Whether a chat template and a mask do what they should, on a few conversations: no weights are needed."""

import re
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from learnable.diagnosis.checks import CheckResult, ok, warning, wrong
from learnable.models.answers import LEFT_OUT_HINT, left_out
from learnable.models.rendering import Renderer
from learnable.models.templates import template_hint
from learnable.models.turns import IN_CONTENT
from learnable.types import Example, Message, Rendered

TEMPLATE_HINT, LOOK = template_hint(), "look at it with `learnable show`"
_THOUGHTS = re.compile("<think>(.*</think>)?")
GENERATION_MARK = re.compile(r"\{%-?\s*generation\b")


def template_checks(renderer: Renderer, examples: Sequence[Example]) -> Iterator[CheckResult]:
    """Check the chat template, and which tokens of these conversations count.

    Yields:
        template; and unless it refuses all conversations: BOS, end of turn, prompt, mask, and generation marks where
        the template has them.
    """
    rendered = renderer.render(examples, max_length=sys.maxsize, skip_refused=True)
    yield _refusals(renderer, rendered)
    taken = [pair for pair in zip(examples, rendered, strict=True) if pair[1].refused is None]
    if not taken:
        return
    rows = [row for _, row in taken]
    yield _bos_check(renderer, rows)
    yield _end_check(renderer, rows)
    yield _prompt_check(renderer, taken)
    yield _mask_check(renderer, taken)
    if GENERATION_MARK.search(renderer.chat.source):
        yield _marks_check(renderer, taken)
    yield _fields_check(renderer)


def _refusals(renderer: Renderer, rendered: Sequence[Rendered]) -> CheckResult:
    refused = [row for row in rendered if row.refused is not None]
    default = "the default one (### Instruction), as the model brings none"
    whose = default if renderer.uses_default_template else "the model's own"
    if not refused:
        return ok("template", f"{whose}; it takes all {len(rendered)} conversations")
    say = wrong if len(refused) == len(rendered) else warning
    found = f"{whose}; it refuses {len(refused)} of {len(rendered)} conversations: {refused[0].refused}"
    return say("template", found, f"drop or merge the turns that it does not know, or {TEMPLATE_HINT}")


def _bos_check(renderer: Renderer, rendered: Sequence[Rendered]) -> CheckResult:
    tokenizer = renderer.tokenizer
    bos = tokenizer.bos_token_id
    doubled = sum(bool(len(row.ids) > 1 and row.ids[0] == bos and row.ids[1] == bos) for row in rendered)
    if doubled:
        found = f"{doubled} of {len(rendered)} conversations begin with {tokenizer.bos_token} twice"
        return wrong("BOS", found, f"the chat template writes it twice: {TEMPLATE_HINT}")
    begun = sum(bool(row.ids[0] == bos) for row in rendered)
    adds = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
    if adds and begun < len(rendered):
        found = f"the tokenizer puts {tokenizer.bos_token} before texts, but the chat template does not"
        return warning(
            "BOS", found, f"models that have learned with it are worse without it: {TEMPLATE_HINT}"
        )
    if bos is None:
        return ok("BOS", "the model has none")
    return ok("BOS", f"stands once in front of {begun} of {len(rendered)} conversations")


def _end_check(renderer: Renderer, rendered: Sequence[Rendered]) -> CheckResult:
    stops = renderer.stop_ids
    last = [int(row.ids[run[-1]]) for row in rendered for run in _runs(row.mask)]
    open_ended = sum(token not in stops for token in last)
    names = " or ".join(renderer.decode(np.array([stop], dtype=np.int32)) for stop in stops)
    if open_ended:
        found = f"{open_ended} of {len(last)} answers are not closed by {names}"
        remedy = f"a model that is trained on them does not learn to stop: {TEMPLATE_HINT}"
        return wrong("end of turn", found, remedy)
    found = f"all {len(last)} answers are closed by {names}"
    if closings := [closing for closing in renderer.chat.closings if closing]:
        found += f"; the chat template leaves the last one open, and {closings[0]} is put behind it"
    return ok("end of turn", found)


def _prompt_check(renderer: Renderer, taken: Sequence[tuple[Example, Rendered]]) -> CheckResult:
    turns = 0
    for example, row in taken:
        written = _letters(renderer.text(example.messages, tools=example.tools))
        seen = _letters(renderer.decode(row.ids))
        for number, message in enumerate(example.messages, start=1):
            turns += message.role != "assistant"
            if message.role == "assistant" or _letters(message.content) in seen:
                continue
            loses = "tokenizer changes" if _letters(message.content) in written else "chat template loses"
            where = f"turn {number} ({message.role}) of example {example.id[:8]}: {message.content[:60]!r}"
            return wrong("prompt", f"the {loses} text of {where}", f"{LOOK}; {TEMPLATE_HINT}")
    return ok("prompt", f"the text of all {turns} user and system turns is there")


def _mask_check(renderer: Renderer, taken: Sequence[tuple[Example, Rendered]]) -> CheckResult:
    """Compare the text of the tokens that count with the answers."""
    answers = trimmed = tokens = 0
    for example, row in taken:
        learned = [turn for turn in example.messages if turn.role == "assistant" and turn.trained]
        counted = _answers(renderer, row.ids, row.mask)
        if not _says(counted, learned):
            said = _short("".join(turn.content for turn in learned))
            found = f"example {example.id[:8]} answers {said}, and the tokens that count say {_short(counted.text)}"
            return wrong("mask", found, f"{LOOK}; if the chat template changes answers, {TEMPLATE_HINT}")
        whole = renderer.text(example.messages, tools=example.tools)
        trimmed += sum(turn.content not in whole and turn.content.strip() in whole for turn in learned)
        answers, tokens = answers + len(learned), tokens + int(row.mask.sum())
    if cut := left_out([row for _, row in taken]):
        return warning("mask", cut, LEFT_OUT_HINT)
    if trimmed:
        found = f"exactly the answers count, but the chat template changes the white space of {trimmed} of {answers}"
        return warning("mask", found, "leave it if white space at the ends of answers means nothing to you")
    return ok("mask", f"exactly the {answers} answers and their ends count, {tokens:,} tokens")


def _marks_check(renderer: Renderer, taken: Sequence[tuple[Example, Rendered]]) -> CheckResult:
    """Compare the tokens that count with those that the template itself marks."""
    without_end = with_header = False
    for example, row in taken:
        ids, marks = renderer.chat.marked(example.messages, example.tools)
        ours, theirs = _answers(renderer, row.ids, row.mask), _answers(renderer, ids, marks)
        asked = [_letters(turn.content) for turn in example.messages if turn.role != "assistant"]
        if not _same(ours.texts, theirs.texts, asked):
            marked = (
                f"the chat template marks {_short(theirs.text)} as generated, and {_short(ours.text)} counts"
            )
            remedy = f"{LOOK}; the marks of the template are wrong: {TEMPLATE_HINT}"
            return wrong("generation marks", f"in example {example.id[:8]} {marked}", remedy)
        without_end |= ours.ends != theirs.ends
        with_header |= len(theirs.text) > len(ours.text)
    found = "the tokens that count are those that the chat template marks as generated"
    if without_end:
        found += ", and the ends of turns, which it does not mark"
    if with_header:
        found += "; it also marks what it writes itself before an answer, such as <think></think>"
    return ok("generation marks", found)


def _fields_check(renderer: Renderer) -> CheckResult:
    """Say what the template makes of what a conversation may have beyond its text."""
    fields = renderer.chat.fields
    place = "between <think> and </think>" if fields.reasoning == IN_CONTENT else f"as {fields.reasoning}"
    known = {
        "reasoning": fields.knows_reasoning,
        "calls of tools": fields.knows_calls,
        "lists of tools": renderer.chat.knows_tools,
    }
    shown, lost = ([name for name, shows in known.items() if shows == kept] for kept in (True, False))
    found = f"the chat template shows {' and '.join(shown) or 'none of them'}"
    found += f" ({place})" if fields.knows_reasoning else ""
    found += f"; it leaves out {' and '.join(lost)}" if lost else ""
    return ok("reasoning and tools", found)


class _Counted(NamedTuple):
    """What counts: each unbroken run of it as text, without white space and ends of turns, and these ends."""

    texts: list[str]
    ends: list[int]

    @property
    def text(self) -> str:
        return "".join(self.texts)


def _answers(renderer: Renderer, ids: NDArray[np.int32], mask: NDArray[np.bool_]) -> _Counted:
    stops = renderer.stop_ids
    texts, ends = [], []
    for run in _runs(mask):
        tokens = ids[run].tolist()
        while tokens and tokens[-1] in stops:
            ends.append(tokens.pop())
        texts.append(_letters(renderer.decode(np.array(tokens, dtype=np.int32))))
    return _Counted(texts, ends)


def _says(counted: _Counted, learned: Sequence[Message]) -> bool:
    """Tell whether what counts is what the answers say, but for thoughts that the template takes out of them."""
    if any(turn.reasoning or turn.tool_calls for turn in learned):
        return all(_letters(turn.content) in counted.text for turn in learned if not turn.tool_calls)
    said = [_letters(turn.content) for turn in learned]
    if "".join(said) == counted.text:
        return True
    return len(said) == len(counted.texts) and all(
        one.endswith(text) and _THOUGHTS.fullmatch(one.removesuffix(text))
        for one, text in zip(said, counted.texts, strict=True)
    )


def _same(ours: Sequence[str], theirs: Sequence[str], asked: Sequence[str]) -> bool:
    """Tell whether what counts is what is marked, but for what the template, and no turn ``asked``, says first."""
    if len(ours) != len(theirs):
        return False
    for one, other in zip(ours, theirs, strict=True):
        # Of a last character that takes several tokens, transformers marks only the first, which is no whole one.
        cut = other.rstrip("\ufffd")
        own = one if cut == other else one[:-1]
        if not cut.endswith(own) or any(text and text in cut.removesuffix(own) for text in asked):
            return False
    return True


def _runs(mask: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Return the positions of each unbroken run of True."""
    positions = np.flatnonzero(mask)
    if not len(positions):
        return []
    return np.split(positions, np.flatnonzero(np.diff(positions) > 1) + 1)


def _letters(text: str) -> str:
    """Return a text without white space, which tokenizers and templates move about."""
    return "".join(text.split())


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:30]}…{text[-30:]}")
