"""The chat template of a model: which of several, with a date that stands still, and tried before it is trusted."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from learnable.errors import ModelError
from learnable.models import template_process
from learnable.models.conversations import CONVERSATIONS
from learnable.models.turns import ANSWER, ASKED, CALLING, RESULT, TOOL, plain_turn

DEFAULT, WITH_TOOLS = "default", "tool_use"
"""Names that transformers gives the templates of a model that has several."""

DEFAULT_TEMPLATE = (
    "{{ bos_token if add_bos else '' }}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ message['content'] + '\n\n' }}"
    "{%- elif message['role'] == 'user' -%}{{ '### Instruction:\n' + message['content'] + '\n\n### Response:\n' }}"
    "{%- else -%}{{ message['content'] + eos_token + ('' if loop.last else '\n\n') }}"
    "{%- endif -%}"
    "{%- endfor -%}"
)
"""For base models that bring no template: the instruction format of Alpaca, multi-turn, answers closed by EOS."""

FIXED_DATE = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro -%}"
"""Put before templates that print today's date: a run must not change at midnight. The date is Llama 3.2's own default."""

TEXT_CHARACTERS, TEXT_GROWTH = 200_000, 20
"""A template may write so many characters, and so many for each character that it is given."""
TRIAL_CPU_S, TRIAL_WAIT_S, TRIAL_MIB = 5, 120, 1_024
"""Limits of the trial of a template: seconds of its processor, seconds until it is ended, MiB of memory."""


def template_hint(named: Sequence[str] = ()) -> str:
    """Return how to get another template, or one of those that the model has."""
    if named:
        return f"choose one: --chat-template {named[0]}, or name a file"
    return "give another one: --chat-template my.jinja"


def templates_of(tokenizer: Any, *, name: str) -> dict[str, str]:
    """Return the templates of a tokenizer by their names; a ``ModelError`` if ``default`` is not among them."""
    given = tokenizer.chat_template
    if given is None:
        return {DEFAULT: DEFAULT_TEMPLATE}
    templates = dict(given) if isinstance(given, Mapping) else {DEFAULT: given}
    if DEFAULT not in templates:
        names = sorted(templates)
        raise ModelError(
            f"{name} has several chat templates, and none is the default: {', '.join(names)}",
            hint=template_hint(names),
        )
    return {key: FIXED_DATE * ("strftime_now" in text) + text for key, text in templates.items()}


def choose_template(tokenizer: Any, chosen: str, *, name: str) -> None:
    """Make a template the default one, with tools too: the model's own of that name, or the content of a file.

    Others that have names keep them, so that the same choice can be made again of a copy of the tokenizer.
    """
    given = tokenizer.chat_template
    named = given if isinstance(given, Mapping) else {DEFAULT: given} if given is not None else {}
    try:
        template = named[chosen] if chosen in named else Path(chosen).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"there is no chat template {chosen!r}: {name} has none of that name, and it is no file of text: {error}",
            hint=f"templates of the model: {', '.join(sorted(named)) or 'none'}; or give a file: "
            "--chat-template my.jinja",
        ) from error
    replaced = {key: template for key in (DEFAULT, WITH_TOOLS) if key in named}
    tokenizer.chat_template = (
        {**named, DEFAULT: template, **replaced} if isinstance(given, Mapping) else template
    )


def check_size(written: int, conversation: Any, *, name: str) -> None:
    """Raise a ``ModelError`` where a text has far more characters than the template was given."""
    if written <= TEXT_CHARACTERS:  # what was given need not be counted
        return
    given = len(json.dumps(conversation, ensure_ascii=False))
    if written > TEXT_CHARACTERS + TEXT_GROWTH * given:
        raise ModelError(
            f"the chat template of {name} makes {written:,} characters of a conversation of {given:,}",
            hint=template_hint(),
        )


@lru_cache(maxsize=1_000)
def try_template(template: str, *, marks: tuple[tuple[str, str], ...], name: str) -> None:
    """Let a process that can be ended apply a template before it is applied in this one.

    A template that does not end, or fills the memory, does so there. What it refuses is no failure here: rows say that
    of themselves. ``marks`` are names and texts of the special tokens, and ``name`` is the model's.

    Raises:
        ModelError: If the process does not end within its limits, or a text is out of all proportion.
    """
    trials = _trials()
    work = {"template": template, "marks": dict(marks), "conversations": trials}
    unending = ModelError(
        f"the chat template of {name} does not end: it was stopped after {TRIAL_CPU_S} s on a few conversations",
        hint=template_hint(),
    )
    try:
        tried = subprocess.run(
            [sys.executable, "-I", template_process.__file__],
            input=json.dumps({**work, "cpu_s": TRIAL_CPU_S, "mib": TRIAL_MIB}),
            capture_output=True,
            text=True,
            timeout=TRIAL_WAIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise unending from error
    if tried.returncode < 0:  # a signal: that of the limit of its processor time, as a rule
        raise unending
    if tried.returncode:
        raise ModelError(f"the chat template of {name} cannot be tried: {tried.stderr.strip()[-300:]}")
    answer = json.loads(tried.stdout)
    if answer["memory"]:
        raise ModelError(
            f"the chat template of {name} fills {TRIAL_MIB:,} MiB with one conversation", hint=template_hint()
        )
    for written, trial in zip(answer["written"], trials, strict=True):
        check_size(written, trial, name=name)


def _trials() -> list[dict[str, Any]]:
    """Return conversations of all kinds: short, long, of many turns, and with tools, reasoning and a call."""
    plain = [[plain_turn(message) for message in example.messages] for example in CONVERSATIONS]
    long = [{"role": role, "content": "word " * 500} for role in ("user", "assistant")] * 20
    turns = (ASKED, replace(CALLING, reasoning="d"), RESULT, replace(ANSWER, reasoning="d"))
    calling = [turn.turn(arguments_as_text=False) | {"thinking": turn.reasoning} for turn in turns]
    return [{"messages": each} for each in (*plain, long)] + [{"messages": calling, "tools": [TOOL]}]
