"""Exports for other trainers: what they read is what was scored, and the page shows what is written."""

import json
import re
from pathlib import Path

import polars as pl
import pytest
import yaml

from learnable.data import load_pool, read, save_pool
from learnable.data.exports import export, write_export
from learnable.errors import DataError
from learnable.runs.identity import example_id
from learnable.testing import toy_examples, write_messages
from learnable.types import Example, Message

PAGE = (Path(__file__).parents[1] / "docs" / "bring-your-own-trainer.md").read_text(encoding="utf-8")
BLOCK = re.compile(r'^```(?:json|yaml) title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
SHOWN = {
    f"{heading}: {title}": block
    for heading, part in (
        (part.splitlines()[0].strip("# "), part) for part in re.split(r"^(?=##+ )", PAGE, flags=re.MULTILINE)
    )
    for title, block in BLOCK.findall(part)
}
TALK = [
    Message(role="system", content="Be brief."),
    Message(role="user", content="the sky?"),
    Message(role="assistant", content="blue"),
]


def said(examples):
    return [[(message.role, message.content) for message in example.messages] for example in examples]


@pytest.fixture
def pool(tmp_path, request):
    """Write a pool of twelve conversations and return its folder."""
    rows = write_messages(toy_examples(12, turns=getattr(request, "param", 1)), tmp_path / "rows.jsonl")
    save_pool(read([str(rows)]), tmp_path / "pool")
    return tmp_path / "pool"


def exported(pool, folder, trainer, model="my-model"):
    """Export all but the first two examples, and return them."""
    chosen = list(load_pool(pool).iter_examples())[2:]
    ids = [example.id for example in chosen]
    write_export(pool, ids, folder, trainer=trainer, model=str(model), max_length=200)
    return chosen


def as_llamafactory_reads(description, row):
    """Return the turns of a row, by the keys and defaults of LLaMA-Factory's data/README.md."""
    assert set(description) <= {"file_name", "formatting", "columns", "tags"}
    # One key given takes the defaults of the others away.
    columns = description.get("columns") or {
        "prompt": "instruction",
        "query": "input",
        "response": "output",
        "messages": "conversations",
    }
    if description.get("formatting", "alpaca") == "alpaca":
        asked = [row[columns[key]] for key in ("prompt", "query") if key in columns and row[columns[key]]]
        return [("user", "\n".join(asked)), ("assistant", row[columns["response"]])]
    tags = description.get("tags") or {
        "role_tag": "from",
        "content_tag": "value",
        "user_tag": "human",
        "assistant_tag": "gpt",
        "system_tag": "system",
    }
    roles = {tags["user_tag"]: "user", tags["assistant_tag"]: "assistant", tags["system_tag"]: "system"}
    return [(roles[turn[tags["role_tag"]]], turn[tags["content_tag"]]) for turn in row[columns["messages"]]]


def as_axolotl_reads(dataset, row):
    """Return the turns of a row, by the keys and defaults of Axolotl's docs/dataset-formats/conversation.qmd."""
    assert dataset["type"] == "chat_template"
    assert dataset["roles_to_train"] == ["assistant"]
    assert dataset["train_on_eos"] == "turn"
    keys = dataset.get("message_property_mappings") or {"role": "role", "content": "content"}
    roles = {"human": "user", "gpt": "assistant"}
    turns = row[dataset.get("field_messages", "messages")]
    return [(roles.get(turn[keys["role"]], turn[keys["role"]]), turn[keys["content"]]) for turn in turns]


@pytest.mark.parametrize("pool", [1, 2], indirect=True)
# TRL's own default, under an old name of transformers.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
def test_trl_trains_on_the_tokens_that_are_scored(pool, tmp_path, tiny_models):
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    from learnable.models.language_model import LanguageModel
    from learnable.types import ModelRef

    model = tiny_models["generation"]
    chosen = exported(pool, tmp_path / "trl", "trl", model)
    written = yaml.safe_load((tmp_path / "trl" / "sft.yaml").read_text())
    (dataset,) = written["datasets"]
    rows = load_dataset(
        dataset["path"],
        data_files=str(tmp_path / "trl" / dataset["data_files"]),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    loss = {key: written[key] for key in ("completion_only_loss", "assistant_only_loss") if key in written}
    settings = SFTConfig(
        output_dir=str(tmp_path / "out"),
        max_length=written["max_length"],
        report_to="none",
        use_cpu=True,
        bf16=False,
        **loss,
    )
    trainer = SFTTrainer(str(model), args=settings, train_dataset=rows)
    rendered = LanguageModel(ModelRef(name=str(model))).renderer.render(chosen, max_length=200)
    for row, ours in zip(trainer.train_dataset, rendered, strict=True):
        assert row["input_ids"] == ours.ids.tolist()
        counted = [label != -100 for label in row["labels"]]
        # TRL counts the line break behind the last end of turn, too.
        assert counted[:-1] == ours.mask.tolist()[:-1]


@pytest.mark.parametrize("pool", [2], indirect=True)
def test_llamafactory_reads_the_conversations(pool, tmp_path):
    chosen = exported(pool, tmp_path, "llamafactory")
    settings = yaml.safe_load((tmp_path / "sft.yaml").read_text())
    description = json.loads((tmp_path / settings["dataset_dir"] / "dataset_info.json").read_text())
    description = description[settings["dataset"]]
    rows = (tmp_path / description["file_name"]).read_text().splitlines()
    assert [as_llamafactory_reads(description, json.loads(row)) for row in rows] == said(chosen)


@pytest.mark.parametrize("pool", [2], indirect=True)
def test_axolotl_reads_the_conversations(pool, tmp_path):
    chosen = exported(pool, tmp_path, "axolotl")
    (dataset,) = yaml.safe_load((tmp_path / "sft.yaml").read_text())["datasets"]
    rows = (tmp_path / dataset["path"]).read_text().splitlines()
    assert [as_axolotl_reads(dataset, json.loads(row)) for row in rows] == said(chosen)


@pytest.mark.parametrize("trainer", ["trl", "llamafactory", "axolotl"])
def test_a_system_turn_goes_along(trainer):
    rows, _ = export(
        [Example(id=example_id(TALK), messages=tuple(TALK), source="a")],
        trainer=trainer,
        model="m",
        max_length=10,
    )
    (row,) = rows
    turns = row.get("messages") or row["prompt"] + row["completion"]
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant"]


def test_what_llamafactory_would_leave_out_is_an_error():
    twice = (TALK[1], *TALK[1:])
    with pytest.raises(DataError, match="its turns are user, user, assistant"):
        export(
            [Example(id="ab" * 16, messages=twice, source="a")],
            trainer="llamafactory",
            model="m",
            max_length=10,
        )


@pytest.mark.parametrize(
    ("trainer", "shown"), [("trl", "TRL"), ("llamafactory", "LLaMA-Factory"), ("axolotl", "Axolotl")]
)
def test_the_page_shows_what_is_written(trainer, shown):
    one = Example(id=example_id(TALK), messages=tuple(TALK), source="a")
    _, files = export([one], trainer=trainer, model="Qwen/Qwen3-0.6B", max_length=2_048)
    for name, content in files.items():
        assert yaml.safe_load(SHOWN[f"{shown}: {trainer}/{name}"]) == content


ROWS = {
    "alpaca": {"instruction": "the sky?", "input": "", "output": "blue"},
    "alpaca_without_input": {"instruction": "the sky?", "output": "blue"},
    "sharegpt": {"conversations": [{"from": "human", "value": "the sky?"}, {"from": "gpt", "value": "blue"}]},
    "messages": {
        "messages": [{"role": "user", "content": "the sky?"}, {"role": "assistant", "content": "blue"}]
    },
    "prompt_completion": {"prompt": "the sky?", "completion": "blue"},
    "parquet": {"instruction": "the sky?", "input": "", "output": "blue"},
}


@pytest.mark.parametrize("name", ROWS)
def test_llamafactory_reads_selected_rows_by_the_entry_on_the_page(name):
    description = json.loads(SHOWN["Rows for LLaMA-Factory: dataset_info.json"])[name]
    assert as_llamafactory_reads(description, ROWS[name]) == [("user", "the sky?"), ("assistant", "blue")]


@pytest.mark.parametrize("title", ["messages", "parquet, with messages"])
def test_trl_reads_selected_rows_by_the_entry_on_the_page(title, tmp_path, monkeypatch):
    from trl import DatasetMixtureConfig, get_dataset

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    entries = yaml.safe_load(SHOWN[f"Rows for TRL: {title}"])["datasets"]
    file = Path(entries[0]["data_files"])
    file.parent.mkdir(parents=True)
    frame = pl.DataFrame([ROWS["messages"]])
    frame.write_parquet(file) if file.suffix == ".parquet" else frame.write_ndjson(file)
    assert get_dataset(DatasetMixtureConfig(datasets=entries))["train"].to_list() == [ROWS["messages"]]


@pytest.mark.parametrize("title", ["messages", "sharegpt", "parquet, with messages"])
def test_axolotl_reads_selected_rows_by_the_entry_on_the_page(title):
    (dataset,) = yaml.safe_load(SHOWN[f"Rows for Axolotl: {title}"])["datasets"]
    row = ROWS["sharegpt" if title == "sharegpt" else "messages"]
    assert as_axolotl_reads(dataset, row) == [("user", "the sky?"), ("assistant", "blue")]


def test_the_written_rows_are_in_the_order_of_the_pool(pool, tmp_path):
    examples = load_pool(pool).examples
    ids = examples["id"].to_list()
    write_export(pool, [ids[5], ids[1]], tmp_path, trainer="axolotl", model="m", max_length=10)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    answers = [row["messages"][-1]["content"] for row in rows]
    assert answers == [examples["messages"][position][-1]["content"] for position in (1, 5)]


def test_an_id_of_another_pool_is_an_error(pool, tmp_path):
    with pytest.raises(DataError, match="1 of 1 chosen ids are not in"):
        write_export(pool, ["ab" * 16], tmp_path, trainer="trl", model="m", max_length=10)
