"""A pool is scored window by window: the numbers are those of one window, and nothing of a window is held after it."""

import gc

import numpy as np
import polars as pl
import pytest

import learnable as ln
from learnable import pools
from learnable.commands import load, score
from learnable.errors import ModelError
from learnable.models.language_model import LanguageModel
from learnable.settings import Loading
from learnable.testing import CHATML, tiny_model, toy_examples, write_messages
from learnable.types import Rendered

FLOAT32 = Loading(dtype="float32", device="cpu")
ROWS, WINDOW = 22, 8


@pytest.fixture
def pool(tmp_path, monkeypatch):
    """Return the folder of a pool of three windows."""
    monkeypatch.chdir(tmp_path)
    for module in ("pools", "data.building"):
        monkeypatch.setattr(f"learnable.{module}.WINDOW_ROWS", WINDOW)
    return load([str(write_messages(toy_examples(ROWS), tmp_path / "my.jsonl"))], output="pool").folder


def scored(pool, tiny, output, **given):
    given = {"scorers": ["loss", "length"], "loading": FLOAT32, "store": f"{output}-store"} | given
    return pl.read_parquet(
        score([str(pool)], model=str(tiny), output=output, **given).folder / "scores.parquet"
    )


def test_three_windows_give_the_scores_of_one(pool, tiny, monkeypatch):
    parts = scored(pool, tiny, "parts", vectors="model")
    monkeypatch.setattr(pools, "WINDOW_ROWS", 100)
    whole = scored(pool, tiny, "whole", vectors="model")
    assert parts.height == ROWS
    assert parts.schema == whole.schema
    exact = ["id", "source", "tokens", "response_tokens", "truncated", "undefined", "length"]
    assert parts.select(exact).equals(whole.select(exact))
    np.testing.assert_allclose(parts["loss"], whole["loss"], rtol=1e-5)
    vectors = [pl.read_parquet(f"{name}/vectors.parquet") for name in ("parts", "whole")]
    assert vectors[0]["id"].equals(vectors[1]["id"])
    np.testing.assert_allclose(*(frame["vector"].to_list() for frame in vectors), atol=1e-4)


@pytest.mark.parametrize("folds", [0, 2])
def test_a_reference_of_any_parts_is_asked_in_each_window(pool, tiny, folds, monkeypatch):
    from learnable.commands import train
    from learnable.settings import Reference

    settings = Reference(folds=folds, epochs=1)
    trained = train([str(pool)], model=str(tiny), loading=FLOAT32, reference=settings, output="reference")
    given = {"reference": str(trained.folder), "scorers": ["learnability", "length_matched", "ifd"]}
    parts = scored(pool, tiny, "parts", **given)
    monkeypatch.setattr(pools, "WINDOW_ROWS", 100)
    whole = scored(pool, tiny, "whole", **given)
    assert parts.columns == whole.columns
    for name in ("loss_before", "loss_after", "learnability", "ifd", "end_nll_after"):
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-3, atol=1e-5)
    assert parts["length_matched"].is_finite().all()


def test_a_run_that_is_killed_in_the_second_window_goes_on_to_the_same_bits(pool, tiny, monkeypatch):
    small = Loading(dtype="float32", device="cpu", batch_tokens=100)
    whole = scored(pool, tiny, "unbroken", loading=small)
    done = []

    def killed(model, launch, given, measure=LanguageModel.measure):
        for number, values in measure(model, launch, given):
            done.extend(values)
            yield number, values
            if len(done) > WINDOW:
                raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(LanguageModel, "measure", killed)
        with pytest.raises(KeyboardInterrupt):
            scored(pool, tiny, "killed", loading=small)
    parts = (pool.parent / "killed-store").rglob("*.parquet")
    assert WINDOW < sum(pl.read_parquet(part).height for part in parts) < 2 * WINDOW
    assert scored(pool, tiny, "killed", loading=small).equals(whole, null_equal=True)


def test_tokens_of_a_window_are_let_go(pool, tiny, monkeypatch):
    held = []

    def counted(model, launch, given, measure=LanguageModel.measure):
        gc.collect()
        held.append(sum(isinstance(each, Rendered) for each in gc.get_objects()))
        yield from measure(model, launch, given)

    gc.collect()
    before = sum(isinstance(each, Rendered) for each in gc.get_objects())
    monkeypatch.setattr(LanguageModel, "measure", counted)
    scored(pool, tiny, "scores")
    assert [count - before for count in held] == [WINDOW, WINDOW, ROWS - 2 * WINDOW]


def test_conversations_of_a_pool_stay_on_disk(pool, tiny, monkeypatch):
    def refused(_):
        raise AssertionError("the whole pool is read")

    monkeypatch.setattr(pools.Pool, "rows", property(refused))
    monkeypatch.setattr(
        pools.Pool,
        "examples",
        property(lambda own: own.conversations.collect() if len(own) <= WINDOW else refused(own)),
    )
    assert scored(pool, tiny, "scores").height == ROWS


def test_the_share_that_a_template_refuses_is_of_all_windows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pools, "WINDOW_ROWS", 4)
    refusing = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    )
    model = ln.Model(str(tiny_model(tmp_path / "model", template=refusing)), dtype="float32", device="cpu")
    turns = [{"role": "user", "content": "one?"}, {"role": "assistant", "content": "two"}]
    rows = [{"messages": [{"role": "system", "content": f"red {i}"}, *turns]} for i in range(3)]
    rows += [{"messages": [turns[0] | {"content": f"one {i}?"}, turns[1]]} for i in range(9)]
    table = ln.score(ln.read(rows, on_error="50%"), model, scorers=["length"])
    assert table.frame["undefined"].count() == 3
    assert "refuses 3 of 12 examples" in capsys.readouterr().err
    with pytest.raises(ModelError, match="refuses 3 of 12 examples, more than 20%"):
        ln.score(ln.read(rows, on_error="20%"), model, scorers=["length"])
