"""Terminal escapes and other control characters of rows are shown, not obeyed: on the terminal, in a report, in a card."""

import json
import re
from dataclasses import replace

import polars as pl
import pytest

from learnable.cli import app as cli
from learnable.commands.selection_card import CardFile, card
from learnable.pages.selection import render_selection
from learnable.runs.progress import say
from learnable.visible import visible
from test_reporting import make_facts

ESCAPE = "\x1b[2J\x1b]0;owned\x07"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", "␛[31mred"),
        ("a\x07b\x00", "a␇b␀"),
        ("\x9b2J", "\\u009b2J"),
        ("del\x7f", "del␡"),
        ("evil\u202egpj.exe", "evil\\u202egpj.exe"),
        ("over\rwritten", "over␍written"),
    ],
)
def test_what_a_terminal_obeys_is_visible(text, shown):
    assert visible(text) == shown


@pytest.mark.parametrize("text", ["a\tb\nc\r\nd", "日本語 ✓ naïve 👩‍🚀 שלום", ""])
def test_ordinary_text_stays(text):
    assert visible(text) == text


@pytest.fixture
def rows(tmp_path):
    turns = [
        {"role": "user", "content": f"what {ESCAPE}is?"},
        {"role": "assistant", "content": f"an{ESCAPE} answer\u202e"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": turns, "topic": f"odd{ESCAPE}"}) + "\n")
    return path


@pytest.mark.parametrize("options", [[], ["--losses"]])
def test_show_prints_no_escapes_of_a_row(rows, tiny, tmp_path, capsys, options):
    command = ["show", str(rows), "--model", str(tiny), "--store", str(tmp_path), "--source-column", "topic"]
    assert cli.call([*command, *options]) == 0
    printed = capsys.readouterr()
    assert "␛[2J" in printed.out
    assert not OBEYED.search(printed.out + printed.err)


def test_load_and_errors_print_no_escapes_of_a_row(rows, tmp_path, capsys):
    assert cli.call(["load", str(rows), "-o", str(tmp_path / "pool")]) == 0
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps({"messages": [{"role": f"r{ESCAPE}", "content": "x"}]}) + "\n")
    assert cli.call(["load", str(bad), "-o", str(tmp_path / "bad")]) == 1
    printed = capsys.readouterr()
    assert not OBEYED.search(printed.out + printed.err)


def test_a_line_of_the_log_has_no_escapes(capsys):
    say(f"row {ESCAPE}")
    assert capsys.readouterr().err == "row ␛[2J␛]0;owned␇\n"


def test_a_report_shows_escapes_of_rows():
    facts = make_facts()
    changed = facts.examples.with_columns(
        pl.col("messages").list.eval(
            pl.struct(
                pl.element().struct.field("role"),
                (pl.element().struct.field("content") + ESCAPE).alias("content"),
            )
        )
    )
    page = render_selection(replace(facts, examples=changed))
    assert "␛[2J" in page
    assert "\x1b" not in page


def test_a_card_shows_escapes_of_names_and_licences():
    file = CardFile(
        name=f"rows{ESCAPE}.jsonl",
        kind="jsonl",
        rows=1,
        columns=frozenset(["messages"]),
        licenses={f"mit{ESCAPE}": 1},
    )
    facts = {"by": "x", "lowest": False, "selector": "top_k", "budget": "1", "pool": 2, "kept": 1}
    facts |= dict.fromkeys(("pool_tokens", "kept_tokens", "mean_pool", "mean_kept", "shortfall"))
    text = card(
        [file],
        license=None,
        inputs=[],
        facts=facts,
        options={"where": f"source = {ESCAPE}"},
        scored={},
        trained={},
        reference="none",
        commands=[],
    )
    assert "␛[2J" in text
    assert not OBEYED.search(text)
