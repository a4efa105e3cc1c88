"""Exports for other trainers: what they read is what was scored, and the page shows what is written."""

import json
import re
from pathlib import Path

import polars as pl
import pytest
import yaml

from exporting import QWEN, destination, stand_in_for_unsloth
from learnable.data import load_pool, read, save_pool
from learnable.data.card_fit import ModelSize, card_fit
from learnable.data.exports import export, write_export
from learnable.errors import DataError
from learnable.runs.identity import example_id
from learnable.testing import toy_examples, write_messages
from learnable.types import Example, Message

PAGE = (Path(__file__).parents[1] / "docs" / "bring-your-own-trainer.md").read_text(encoding="utf-8")
BLOCK = re.compile(r'^```(?:json|yaml|python) title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
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
    to = destination(model=str(model), max_length=200, render=rendered_by(model))
    write_export(pool, ids, folder, trainer=trainer, to=to)
    return chosen


def rendered_by(model):
    from learnable.models.rendering import Renderer
    from learnable.types import ModelRef

    return lambda examples: Renderer.of(ModelRef(name=str(model))).render(examples, max_length=200)


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
    rows, _ = export([Example(id=example_id(TALK), messages=tuple(TALK), source="a")], trainer, destination())
    (row,) = rows
    turns = row.get("messages") or row["prompt"] + row["completion"]
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant"]


def test_what_llamafactory_would_leave_out_is_an_error():
    twice = (TALK[1], *TALK[1:])
    with pytest.raises(DataError, match="its turns are user, user, assistant"):
        export([Example(id="ab" * 16, messages=twice, source="a")], "llamafactory", destination())


@pytest.mark.parametrize(
    ("trainer", "shown"),
    [("trl", "TRL"), ("unsloth", "unsloth"), ("llamafactory", "LLaMA-Factory"), ("axolotl", "Axolotl")],
)
def test_the_page_shows_what_is_written(trainer, shown):
    one = Example(id=example_id(TALK), messages=tuple(TALK), source="a")
    to = destination(model="Qwen/Qwen3-0.6B", max_length=2_048, size=QWEN)
    _, files = export([one], trainer, to)
    for name, content in files.items():
        block = SHOWN[f"{shown}: {trainer}/{name}"]
        assert (block if isinstance(content, str) else yaml.safe_load(block)) == content


def as_trl_parses(path, kind):
    """Return a configuration as `trl sft` or `trl dpo` understands it; a key that it does not know is an error."""
    import trl

    classes = (trl.ScriptArguments, getattr(trl, f"{kind}Config"), trl.ModelConfig, trl.DatasetMixtureConfig)
    words = ["--config", str(path), "--use_cpu", "true", "--bf16", "false"]
    return trl.TrlParser(classes).parse_args_and_config(words)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
def test_trl_understands_the_configuration(pool, tmp_path):
    exported(pool, tmp_path, "trl")
    _, training, model, data = as_trl_parses(tmp_path / "sft.yaml", "SFT")
    assert (training.max_length, training.completion_only_loss) == (200, True)
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps == 8
    assert (model.dtype, model.lora_target_modules) == ("bfloat16", "all-linear")
    assert data.datasets[0].data_files == "train.jsonl"


@pytest.mark.parametrize("pool", [1, 2], indirect=True)
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
def test_the_script_for_unsloth_trains_on_the_tokens_that_are_scored(
    pool, tmp_path, tiny_models, monkeypatch
):
    import datasets
    import trl

    chosen = exported(pool, tmp_path, "unsloth", tiny_models["generation"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    stand_in_for_unsloth(monkeypatch)
    trainers = []

    class Trainer(trl.SFTTrainer):
        def __init__(self, **given):
            super().__init__(**given)
            trainers.append(self)

    monkeypatch.setattr(trl, "SFTTrainer", Trainer)
    assert datasets.load_dataset("json", data_files="train.jsonl", split="train").num_rows == len(chosen)
    script = tmp_path / "train.py"
    exec(compile(script.read_text(), "train.py", "exec"), {"__name__": "__main__"})
    for row, ours in zip(
        trainers[0].train_dataset, rendered_by(tiny_models["generation"])(chosen), strict=True
    ):
        assert row["input_ids"] == ours.ids.tolist()
        assert [label != -100 for label in row["labels"]] == ours.mask.tolist()
    assert trainers[0].state.global_step == 2  # ten rows, eight to a step
    assert (tmp_path / "model" / "adapter_model.safetensors").is_file()


# Micro-batches that fit 24 GB

SMALL = ModelSize(parameters=2 << 30, layers=10, width=1_000, vocabulary=100_000)


def test_memory_is_weights_adapters_states_and_logits():
    # 2^31 weights of 2 bytes; adapters 10 * 16 * 20 * 1,000 of 16; a token 2 * 1,000 * (10 + 26) and 12 * 100,000.
    fit = card_fit(SMALL, max_length=1_000, batch_size=8, rank=16)
    expected = 1.5 + 4.0 + (51_200_000 + 8 * 1_000 * 1_272_000) / 2**30
    assert (fit.rows, fit.accumulation, fit.four_bit) == (8, 1, False)
    assert fit.gib == pytest.approx(expected)
    assert str(fit).endswith("an estimated 15.0 GiB, which fits a card of 24")


@pytest.mark.parametrize(
    ("given", "rows", "accumulation", "four_bit"),
    [
        ({"max_length": 2_000}, 4, 2, False),
        ({"max_length": 2_000, "texts_per_row": 2}, 2, 4, False),
        ({"max_length": 16_000}, 1, 8, True),
        ({"max_length": 1_000, "batch_size": 12}, 4, 3, False),
    ],
)
def test_longer_rows_and_pairs_make_smaller_batches_of_the_same_step(given, rows, accumulation, four_bit):
    fit = card_fit(SMALL, **({"batch_size": 8, "rank": 16} | given))
    assert (fit.rows, fit.accumulation, fit.four_bit) == (rows, accumulation, four_bit)


def test_a_model_of_unknown_size_gets_one_row_at_a_time():
    fit = card_fit(None, max_length=100, batch_size=8, rank=16)
    assert (fit.rows, fit.accumulation, fit.four_bit) == (1, 8, False)
    assert "is not known" in str(fit)


def test_what_no_batch_fits_is_said():
    huge = ModelSize(parameters=70 << 30, layers=80, width=8_192, vocabulary=128_000)
    fit = card_fit(huge, max_length=2_048, batch_size=8, rank=16)
    assert (fit.rows, fit.four_bit) == (1, True)
    assert "is more than fits" in str(fit)


@pytest.mark.parametrize("trainer", ["trl", "unsloth", "llamafactory", "axolotl"])
def test_four_bits_are_asked_for_in_each_trainers_words(trainer):
    one = Example(id=example_id(TALK), messages=tuple(TALK), source="a")
    big = ModelSize(parameters=14 << 30, layers=40, width=5_120, vocabulary=151_936)
    _, files = export([one], trainer, destination(max_length=1_024, size=big))
    if trainer == "unsloth":
        assert "load_in_4bit=True" in files["train.py"]
        return
    asked = {"trl": {"load_in_4bit": True}, "llamafactory": {"quantization_bit": 4}}
    asked["axolotl"] = {"load_in_4bit": True, "adapter": "qlora"}
    assert asked[trainer].items() <= files["sft.yaml"].items()


def test_the_size_of_a_model_is_read_off_its_files(tiny_models):
    from transformers import AutoModelForCausalLM

    from learnable.models.source import size_of
    from learnable.types import ModelRef

    folder = str(tiny_models["chatml"])
    network = AutoModelForCausalLM.from_pretrained(folder)
    size = size_of(ModelRef(name=folder))
    assert size.parameters == sum(each.numel() for each in network.parameters())
    config = network.config
    assert (size.layers, size.width) == (config.num_hidden_layers, config.hidden_size)
    assert size.vocabulary == config.vocab_size


def test_the_size_of_a_model_that_is_elsewhere_is_not_known():
    from learnable.models.source import size_of
    from learnable.types import ModelRef

    assert size_of(ModelRef(name="nobody/nothing")) is None


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
    write_export(pool, [ids[5], ids[1]], tmp_path, trainer="axolotl", to=destination())
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    answers = [row["messages"][-1]["content"] for row in rows]
    assert answers == [examples["messages"][position][-1]["content"] for position in (1, 5)]


def test_an_id_of_another_pool_is_an_error(pool, tmp_path):
    with pytest.raises(DataError, match="1 of 1 chosen ids are not in"):
        write_export(pool, ["ab" * 16], tmp_path, trainer="trl", to=destination())
