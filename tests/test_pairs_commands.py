"""Commands on preference pairs: what they take, what they show, and what they write."""

import json

import pytest

from learnable.commands import load, score, train
from learnable.data import load_pool, pairs_of, read
from learnable.errors import DataError
from learnable.recipes import lobass
from learnable.settings import Reading

ROWS = [
    *({"prompt": f"what is {number}?", "chosen": f"it is {number}", "rejected": "no idea at all"} for number in range(9)),
    {"prompt": "what is 3?", "chosen": "three", "rejected": "no"},
    {"prompt": "what is 4?", "chosen": "four", "rejected": "four"},
]  # fmt: skip


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Load nine pairs of nine prompts, another of one of these, and a bad one; return the outcome."""
    folder = tmp_path_factory.mktemp("pairs")
    # Spaces and escapes that no writer of JSON would write so.
    lines = [json.dumps(row).replace(": ", " :  ").replace("what", "wh\\u0061t") for row in ROWS]
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    return load([str(folder / "pairs.jsonl")], reading=Reading(on_error="skip"), output=str(folder / "pool"))


def test_load_counts_pairs_prompts_and_longer_answers(loaded):
    counted = {name: loaded.facts[name] for name in ("rows", "pairs", "prompts", "chosen longer", "bad rows")}
    assert counted == {"rows": 11, "pairs": 10, "prompts": 9, "chosen longer": 0.1, "bad rows": 1}


def test_held_out_pairs_are_read_again_as_the_same(loaded, tmp_path):
    file = str(loaded.folder.parent / "pairs.jsonl")
    kept = load([file], reading=Reading(on_error="skip"), holdout=0.3, output=str(tmp_path / "kept"))
    aside = {pair.id for pair in pairs_of(read([str(kept.folder / "heldout.jsonl")]))}
    ids = {pair.id for pair in pairs_of(load_pool(loaded.folder))}
    assert aside == ids - {pair.id for pair in pairs_of(load_pool(kept.folder))}
    assert len(aside) >= 3


@pytest.mark.parametrize("command", [train, score, lobass])
def test_what_takes_conversations_says_that_these_are_pairs(command, loaded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = [str(loaded.folder)] if command is not lobass else [str(loaded.folder.parent / "pairs.jsonl")]
    options = {"reading": Reading(on_error="skip")} if command is lobass else {}
    with pytest.raises(DataError) as caught:
        command(data, **options)
    assert "preference pairs" in caught.value.message
    assert "--columns response=chosen" in caught.value.hint
