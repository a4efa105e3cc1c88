"""Commands on preference pairs: what they take, what they show, and what they write."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import yaml

import learnable
from exporting import QWEN, destination, stand_in_for_unsloth
from learnable.commands import load, score, select, show
from learnable.commands.select import Selecting
from learnable.data import answers_of, load_pool, pairs_of, read
from learnable.data.exports import export
from learnable.errors import DataError, UsageError
from learnable.models.rendering import Renderer
from learnable.recipes import lobass
from learnable.settings import Reading
from learnable.types import ModelRef

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


@pytest.mark.parametrize("command", [score, lobass])
def test_what_takes_conversations_says_that_these_are_pairs(command, loaded, tmp_path, monkeypatch, tiny):
    monkeypatch.chdir(tmp_path)
    data = [str(loaded.folder)] if command is score else [str(loaded.folder.parent / "pairs.jsonl")]
    with pytest.raises(DataError) as caught:
        command(data, model=str(tiny), **({} if command is score else {"reading": Reading(on_error="skip")}))
    assert "preference pairs" in caught.value.message
    assert "--columns response=chosen" in caught.value.hint


def test_both_answers_are_shown_under_their_prompt(loaded, tiny):
    pair = next(pairs_of(load_pool(loaded.folder)))
    shown = show([str(loaded.folder)], model=str(tiny), id=pair.id)
    assert [(view.id, view.side) for view in shown.examples] == [(pair.id, "chosen"), (pair.id, "rejected")]
    text = repr(shown)
    assert text.count(pair.prompt[-1].content) == 1
    (line,) = (line for line in text.splitlines() if "⟦" in line and "tokens;" not in line)
    assert line.index(f"⟦{pair.chosen.content}") < line.index(f"⟦{pair.rejected.content}")


def test_earlier_answers_are_not_scored(tiny, tmp_path):
    turns = [
        {"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"))
    ]
    sides = {
        side: [{"role": "assistant", "content": text}] for side, text in (("chosen", "d"), ("rejected", "e"))
    }
    (tmp_path / "talk.jsonl").write_text(json.dumps({"prompt": turns, **sides}) + "\n")
    views = show([str(tmp_path / "talk.jsonl")], model=str(tiny)).examples
    assert [[piece.text for piece in view.scored] for view in views] == [["d<|im_end|>"], ["e<|im_end|>"]]


def test_rows_of_pairs_in_python(tmp_path):
    found = learnable.read(ROWS[:10])
    assert [pair.rejected.content for pair in found.pairs] == [row["rejected"] for row in ROWS[:10]]
    assert found.chosen([found.pairs[3].id]) == [ROWS[3]]
    with pytest.raises(DataError, match="preference pairs"):
        _ = found.examples


@pytest.fixture(scope="module")
def table(loaded):
    """Write a table of gaps that names all pairs but the last, and return its path."""
    pairs = list(pairs_of(load_pool(loaded.folder)))[:-1]
    gaps = pl.DataFrame(
        {"id": [pair.id for pair in pairs], "gap": [abs(4.0 - number) for number in range(9)]}
    )
    gaps.write_parquet(loaded.folder.parent / "gaps.parquet")
    return str(loaded.folder.parent / "gaps.parquet")


def test_a_table_of_pair_scores_chooses_rows_byte_for_byte(loaded, table, tmp_path):
    choosing = Selecting(by="gap", lowest=True)
    chosen = select(
        table, budget="3", choosing=choosing, pool=str(loaded.folder), output=str(tmp_path / "out")
    )
    lines = (loaded.folder.parent / "pairs.jsonl").read_bytes().splitlines(keepends=True)
    assert (chosen.folder / "selected" / "pairs.jsonl").read_bytes() == b"".join(lines[3:6])
    dropped = [json.loads(line) for line in (chosen.folder / "dropped.jsonl").read_text().splitlines()]
    assert [each["row"] for each in dropped] == [1, 2, 3, 7, 8, 9, 10, 11]
    assert [each["reason"] for each in dropped[-2:]] == [
        "not in the table of scores",
        "the chosen and the rejected answer are the same",
    ]


def test_a_table_of_another_pool_is_refused(loaded, tmp_path):
    pl.DataFrame({"id": ["a", "b"], "gap": [1.0, 2.0]}).write_csv(tmp_path / "gaps.csv")
    choosing, pool = Selecting(by="gap"), str(loaded.folder)
    with pytest.raises(DataError, match="not in the pool"):
        select(
            str(tmp_path / "gaps.csv"), budget="1", choosing=choosing, pool=pool, output=str(tmp_path / "out")
        )


def test_an_export_of_a_table_asks_for_rows_and_model(table, tmp_path):
    choosing = Selecting(by="gap", export="trl")
    with pytest.raises(UsageError, match="--export") as caught:
        select(table, budget="1", choosing=choosing, output=str(tmp_path / "out"))
    assert "--pool FOLDER --model NAME" in str(caught.value)


@pytest.fixture(scope="module")
def exported(loaded, table, tiny_models, tmp_path_factory):
    """Export three pairs, and return a function that gives the folder of a trainer."""
    out = tmp_path_factory.mktemp("exports")

    def export(trainer):
        choosing = Selecting(by="gap", lowest=True, export=trainer)
        options = {"pool": str(loaded.folder), "model": str(tiny_models["generation"])}
        return (
            select(table, budget="3", choosing=choosing, **options, output=str(out / trainer)).folder
            / trainer
        )

    return export


@pytest.fixture(scope="module")
def kept(loaded):
    """Return the three pairs that are exported."""
    return list(pairs_of(load_pool(loaded.folder)))[3:6]


# TRL's own default, under an old name of transformers.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
def test_trl_trains_on_both_answers_by_our_tokens(exported, kept, tiny_models, tmp_path):
    from datasets import load_dataset
    from trl import DPOConfig, DPOTrainer

    folder, model = exported("trl"), tiny_models["generation"]
    written = yaml.safe_load((folder / "dpo.yaml").read_text())
    (dataset,) = written["datasets"]
    rows = load_dataset(
        dataset["path"],
        data_files=str(folder / dataset["data_files"]),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    settings = DPOConfig(
        output_dir=str(tmp_path / "out"),
        use_cpu=True,
        bf16=False,
        **{key: written[key] for key in ("max_length", "loss_type", "beta", "report_to")},
    )
    trained = DPOTrainer(str(model), args=settings, train_dataset=rows).train_dataset
    renderer = Renderer.of(ModelRef(name=str(model)))
    rendered = renderer.render([each for pair in kept for each in answers_of(pair)], max_length=200)
    for row, chosen, rejected in zip(trained, rendered[::2], rendered[1::2], strict=True):
        for side, ours in (("chosen", chosen), ("rejected", rejected)):
            ids = row["prompt_ids"] + row[f"{side}_ids"]
            # TRL counts the line break behind the last end of turn, too.
            assert ids[: len(ours.ids)] == ours.ids.tolist()
            assert int(ours.mask.argmax()) == len(row["prompt_ids"])


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing\\w*` is deprecated:FutureWarning")
def test_the_script_for_unsloth_trains_on_both_answers(exported, tmp_path, monkeypatch):
    shutil.copytree(exported("unsloth"), tmp_path / "unsloth")
    monkeypatch.chdir(tmp_path / "unsloth")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    stand_in_for_unsloth(monkeypatch)
    exec(compile(Path("train.py").read_text(), "train.py", "exec"), {"__name__": "__main__"})
    assert (Path("model") / "adapter_model.safetensors").is_file()


def test_llamafactory_reads_the_pairs(exported, kept):
    folder = exported("llamafactory")
    settings = yaml.safe_load((folder / "dpo.yaml").read_text())
    description = json.loads((folder / "dataset_info.json").read_text())[settings["dataset"]]
    # By the keys and defaults of LLaMA-Factory's data/README.md.
    assert (settings["stage"], description["ranking"], description["formatting"]) == ("dpo", True, "sharegpt")
    columns, tags = description["columns"], description["tags"]

    def read_turn(turn):
        return {tags["user_tag"]: "user", tags["assistant_tag"]: "assistant"}[turn[tags["role_tag"]]], turn[
            tags["content_tag"]
        ]

    rows = [json.loads(line) for line in (folder / description["file_name"]).read_text().splitlines()]
    read_rows = [
        [
            *map(read_turn, row[columns["messages"]]),
            read_turn(row[columns["chosen"]]),
            read_turn(row[columns["rejected"]]),
        ]
        for row in rows
    ]
    assert read_rows == [said(pair) for pair in kept]


def test_axolotl_reads_the_pairs(exported, kept):
    folder = exported("axolotl")
    settings = yaml.safe_load((folder / "dpo.yaml").read_text())
    (dataset,) = settings["datasets"]
    # By the keys and defaults of Axolotl's docs/rlhf.qmd.
    assert (settings["rl"], dataset["type"]) == ("dpo", "chat_template.default")
    rows = [json.loads(line) for line in (folder / dataset["path"]).read_text().splitlines()]
    turns = [[*row["messages"], row["chosen"], row["rejected"]] for row in rows]
    assert [[(turn["role"], turn["content"]) for turn in each] for each in turns] == [
        said(pair) for pair in kept
    ]


@pytest.mark.parametrize("trainer", ["trl", "llamafactory", "axolotl"])
def test_the_page_shows_what_is_written_of_pairs(trainer, kept):
    page = (Path(__file__).parents[1] / "docs" / "bring-your-own-trainer.md").read_text(encoding="utf-8")
    part = page.partition("### Preference pairs\n")[2].partition("\n## ")[0]
    shown = dict(re.findall(r'^```(?:json|yaml) title="([^"]+)"\n(.*?)^```$', part, re.MULTILINE | re.DOTALL))
    to = destination(pairs=True, model="Qwen/Qwen3-0.6B", max_length=2_048, size=QWEN)
    _, files = export(kept, trainer, to)
    assert {name: yaml.safe_load(shown[f"{trainer}/{name}"]) for name in files} == files


def said(pair):
    return [(turn.role, turn.content) for turn in (*pair.prompt, pair.chosen, pair.rejected)]


def test_what_axolotl_would_leave_out_of_a_pair_is_an_error(kept):
    thinking = replace(kept[0], chosen=replace(kept[0].chosen, reasoning="because"))
    with pytest.raises(DataError, match="leave out calls, tools or reasoning"):
        export([thinking], "axolotl", destination(pairs=True))
