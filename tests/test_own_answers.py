"""How long own answers may be, and what is said of demonstrations before anything is trained."""

import json

import polars as pl
import pytest

from learnable.cli import app as cli
from learnable.commands.network import Network
from learnable.commands.own_answers import room_for, uneven
from learnable.models.rendering import Renderer
from learnable.runs.identity import example_id
from learnable.types import Example, Message, ModelRef


def demonstration(number, words):
    turns = (
        Message(role="user", content=f"sky {number}"),
        Message(role="assistant", content=" ".join(["blue"] * words)),
    )
    return Example(id=example_id(turns), messages=turns, source="rows")


@pytest.fixture(scope="module")
def network(tiny):
    return Network(ref=ModelRef(name=str(tiny), dtype="float32", device="cpu"), longest=1024)


@pytest.fixture(scope="module")
def taught():
    """Twenty demonstrations, of which one is far longer than the others."""
    return [demonstration(number, 40) for number in range(19)] + [demonstration(19, 300)]


def lengths(network, rows):
    return [int(each.mask.sum()) for each in Renderer.of(network.ref).render(rows, max_length=1024)]


def test_own_answers_get_the_room_of_most_demonstrations(network, taught, capsys):
    room = room_for(taught, taught[:5], network, new_tokens=None)
    usual = lengths(network, taught)[0]
    assert usual <= room < usual + 16
    assert room % 16 == 0
    assert capsys.readouterr().err == ""


def test_the_room_has_a_limit_which_is_said_to_cut_answers_off(network, taught, capsys):
    many = [demonstration(number, 600) for number in range(20)]
    assert lengths(network, many)[0] > 512
    assert room_for(many, taught[:5], network, new_tokens=None) == 512
    assert "20 of 20 demonstrations are longer than 512 tokens" in capsys.readouterr().err


@pytest.mark.parametrize(("more", "said"), [(-1, True), (0, False)], ids=["too short", "as long"])
def test_a_given_length_is_kept_and_one_that_is_too_short_is_told(network, taught, more, said, capsys):
    given = lengths(network, taught)[0] + more
    assert room_for(taught, taught[:5], network, new_tokens=given) == given
    assert (f"20 of 20 demonstrations are longer than {given} tokens" in capsys.readouterr().err) == said


@pytest.mark.parametrize(("back", "said"), [(4, "4 of 24 rows are held out"), (5, "")])
def test_too_few_held_out_rows_for_a_verdict_are_told(network, taught, back, said, capsys):
    room_for(taught, taught[:back], network, new_tokens=400)
    told = capsys.readouterr().err
    assert told.startswith(f"warning: {said}" if said else "")
    assert ("too few for a verdict: give 30 rows or more" in told) == bool(said)


@pytest.mark.parametrize("recipe", ["irft", "rft"])
def test_a_dry_run_says_the_length_and_warns(recipe, tiny, taught, tmp_path, capsys):
    if recipe == "rft":
        pytest.importorskip("trl")
    path = tmp_path / "rows.jsonl"
    lines = [{"prompt": each.messages[0].content, "completion": each.messages[1].content} for each in taught]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    words = ["run", recipe, str(path), "--model", str(tiny), "--dtype=float32", "-o", str(tmp_path / "none")]
    assert cli.call([*words, "--dry-run"]) == cli.DONE
    free = capsys.readouterr().err
    assert "own answers of at most" in free
    assert "2 of 20 rows are held out to judge on, too few for a verdict: give 50 rows or more" in free
    assert "are longer than" not in free
    assert cli.call([*words, "--dry-run", "--new-tokens=8"]) == cli.DONE
    assert "demonstrations are longer than 8 tokens" in capsys.readouterr().err


def test_arms_of_uneven_tokens_are_told(capsys):
    cost = pl.DataFrame({"arm": ["sft continued", "spin", "irft"], "tokens": [4870.0, 3872.0, 3566.0]})
    (said,) = uneven(cost)
    assert "more than a tenth: sft continued 4,870, spin 3,872, irft 3,566" in said
    assert said in capsys.readouterr().err
    assert uneven(cost.with_columns(tokens=pl.Series([1100.0, 1000.0, 1050.0]))) == []
