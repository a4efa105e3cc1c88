"""RecordLosses: each example's loss before and after a training of one's own, for `learnable select`."""

import datasets
import numpy as np
import polars as pl
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
)

from learnable import RecordLosses, commands
from learnable.errors import TrainError, UsageError
from learnable.models.language_model import LanguageModel
from learnable.testing import toy_examples
from learnable.types import ModelRef


@pytest.fixture(scope="module")
def model(tiny):
    return LanguageModel(ModelRef(name=str(tiny), dtype="float32", device="cpu"))


@pytest.fixture(scope="module")
def rendered(model):
    return model.renderer.render(toy_examples(10), max_length=128)


def rows_of(rendered):
    return datasets.Dataset.from_list(
        [
            {"input_ids": each.ids.tolist(), "labels": np.where(each.mask, each.ids, -100).tolist()}
            for each in rendered
        ]
    )


def trainer(tiny, rendered, output, **recording):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    arguments = TrainingArguments(
        output_dir=str(output / "out"),
        num_train_epochs=3,
        learning_rate=1e-2,
        per_device_train_batch_size=4,
        per_device_eval_batch_size=3,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        save_strategy="steps",
        save_steps=5,
        logging_strategy="no",
    )
    made = Trainer(
        AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32),
        arguments,
        train_dataset=rows_of(rendered),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )
    made.add_callback(RecordLosses(output / "losses.parquet", **recording))
    return made


def mean_losses(model, rendered):
    return model.nll(rendered) / [each.mask.sum() for each in rendered]


def test_the_losses_are_those_of_the_model_before_and_after(tiny, model, rendered, tmp_path):
    training = trainer(tiny, rendered, tmp_path)
    training.train()
    table = pl.read_parquet(tmp_path / "losses.parquet")
    assert table["id"].to_list() == [f"{number:012d}" for number in range(10)]
    assert table["tokens"].to_list() == [len(each.ids) for each in rendered]
    np.testing.assert_allclose(table["loss_before"], mean_losses(model, rendered), rtol=1e-4)
    training.model.save_pretrained(tmp_path / "after")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path / "after")
    after = LanguageModel(ModelRef(name=str(tmp_path / "after"), dtype="float32", device="cpu"))
    np.testing.assert_allclose(table["loss_after"], mean_losses(after, rendered), rtol=1e-4)


def test_select_takes_the_table(tiny, rendered, tmp_path):
    ids = [each.id for each in rendered]
    trainer(tiny, rendered, tmp_path, ids=ids).train()
    chosen = commands.select(
        str(tmp_path / "losses.parquet"),
        before="loss_before",
        after="loss_after",
        budget="3",
        output=str(tmp_path / "selection"),
    )
    kept = pl.read_parquet(chosen.folder / "kept.parquet")["id"].to_list()
    table = pl.read_parquet(tmp_path / "losses.parquet")
    fall = (table["loss_before"] - table["loss_after"]) / table["loss_before"]
    assert kept == [ids[place] for place in np.argsort(-fall.to_numpy())[:3]]


def test_it_does_not_change_the_training(tiny, rendered, tmp_path):
    plain, watched = (trainer(tiny, rendered, tmp_path / name) for name in ("plain", "watched"))
    plain.callback_handler.callbacks = [
        each for each in plain.callback_handler.callbacks if not isinstance(each, RecordLosses)
    ]
    for training in (plain, watched):
        training.train()
    for one, other in zip(plain.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_training_that_goes_on_keeps_the_losses_from_before_its_first_step(tiny, rendered, tmp_path):
    trainer(tiny, rendered, tmp_path).train()
    first = pl.read_parquet(tmp_path / "losses.parquet")
    trainer(tiny, rendered, tmp_path).train(resume_from_checkpoint=True)
    assert pl.read_parquet(tmp_path / "losses.parquet")["loss_before"].equals(first["loss_before"])
    (tmp_path / "losses.parquet").unlink()
    with pytest.raises(TrainError, match="goes on from step"):
        trainer(tiny, rendered, tmp_path).train(resume_from_checkpoint=True)


def test_a_row_without_a_label_has_no_loss(tiny, rendered, tmp_path):
    training = trainer(tiny, rendered, tmp_path)
    rows = training.train_dataset.to_list()
    rows[1]["labels"] = [-100] * len(rows[1]["labels"])
    training.train_dataset = datasets.Dataset.from_list(rows)
    training.train()
    table = pl.read_parquet(tmp_path / "losses.parquet")
    assert table["response_tokens"][1] == 0
    assert table["loss_after"].is_nan().to_list() == [number == 1 for number in range(10)]


def test_what_cannot_be_recorded_is_refused_with_a_sentence(tiny, rendered, tmp_path):
    with pytest.raises(UsageError, match=r"written as \.parquet"):
        RecordLosses(tmp_path / "losses.csv")
    with pytest.raises(UsageError, match="given twice"):
        RecordLosses(tmp_path / "losses.parquet", ids=["a", "a"])
    with pytest.raises(UsageError, match="2 ids for 10 rows"):
        trainer(tiny, rendered, tmp_path, ids=["a", "b"]).train()
    joined = trainer(tiny, rendered, tmp_path)
    collate = joined.data_collator
    joined.data_collator = lambda rows: {name: each.reshape(1, -1) for name, each in collate(rows).items()}
    with pytest.raises(UsageError, match="without packing"):
        joined.train()
