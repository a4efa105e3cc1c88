"""The Python API over objects: rows from anywhere, a model by name or in memory, the numbers of the commands."""

import copy
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import ClassVar

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import learnable as ln
from learnable import commands
from learnable.errors import DataError, ModelError, StoreError, UsageError
from learnable.models.language_model import LanguageModel
from learnable.models.memory import NetworkInMemory
from learnable.settings import Loading, Reference
from learnable.testing import toy_examples, write_messages
from learnable.types import ModelRef


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_messages(toy_examples(12), tmp_path_factory.mktemp("rows") / "my.jsonl")


@pytest.fixture(scope="module")
def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def loaded(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(
        folder
    )


KINDS = {
    "path": lambda path, _: path,
    "text": lambda path, _: str(path),
    "paths": lambda path, _: [str(path)],
    "dicts": lambda _, records: records,
    "dataset": lambda _, records: datasets.Dataset.from_list(records),
    "polars": lambda _, records: pl.DataFrame(records),
    "pandas": lambda _, records: pd.DataFrame(records),
}


class TestReading:
    @pytest.mark.parametrize("kind", KINDS)
    def test_rows_are_the_same_wherever_they_come_from(self, kind, path, records):
        rows = ln.read(KINDS[kind](path, records))
        assert len(rows) == 12
        assert rows.frame["id"].to_list() == [each.id for each in toy_examples(12)]

    @pytest.mark.parametrize("kind", KINDS)
    def test_chosen_rows_come_back_as_they_came(self, kind, path, records):
        rows = ln.read(KINDS[kind](path, records))
        ids = [rows.frame["id"][place] for place in (7, 2)]
        assert rows.chosen(ids) == [records[2], records[7]]
        dataset = rows.dataset(ids)
        assert isinstance(dataset, datasets.Dataset)
        assert dataset["messages"][0] == records[2]["messages"]

    def test_several_are_one_pool(self, path, records):
        extra = [{"prompt": "a colour?", "completion": "blue"}, records[0]]
        rows = ln.read([path, extra])
        assert len(rows) == len(ln.read(path, extra)) == 13
        assert rows.pool.rows["reason"].to_list()[-1].startswith("duplicate of my.jsonl")
        new = rows.frame.filter(source="rows-2")["id"][0]
        assert rows.chosen([new, rows.frame["id"][0]]) == [records[0], extra[0]]

    def test_a_row_that_cannot_be_used_is_named(self):
        with pytest.raises(DataError, match="rows row 2"):
            ln.read([{"prompt": "a", "completion": "b"}, {"prompt": "c"}], on_error="raise")

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            (7, "an object of type int"),
            ({"prompt": "a", "completion": "b"}, "give a list of rows"),
            ((row for row in [{}]), r"give list\(...\)"),
            (pl.LazyFrame({"prompt": ["a"]}), r"frame.collect\(\)"),
            ([{"prompt": "a", "completion": "b"}, "c"], "row 2 is of type str"),
            ([], "no data given"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_what_holds_no_rows_is_refused_with_a_sentence(self, wrong, said):
        with pytest.raises(UsageError, match=said):
            ln.read(wrong)


def test_rows_are_read_without_torch_and_transformers(path):
    code = f"import sys, learnable as ln; ln.read({str(path)!r}); sys.exit(len({{'torch', 'transformers'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


class TestANetworkInMemory:
    def test_it_has_the_losses_of_its_folder(self, tiny):
        held, ordinary = NetworkInMemory(*loaded(tiny)), {"dtype": "float32", "device": "cpu"}
        mine, named = (LanguageModel(ModelRef(name=str(name), **ordinary)) for name in (held.folder(), tiny))
        rendered = named.renderer.render(toy_examples(6), max_length=128)
        assert mine.nll(rendered).tolist() == named.nll(rendered).tolist()

    def test_its_identity_follows_its_weights(self, tiny):
        network, tokenizer = loaded(tiny)
        held = NetworkInMemory(network, tokenizer)
        before = held.folder()
        assert held.folder() == before
        with torch.no_grad():
            network.lm_head.weight[0, 0] += 1
        assert held.folder() != before

    def test_it_is_left_as_it_was(self, tiny):
        network, tokenizer = loaded(tiny)
        network.train()
        weights, modules = copy.deepcopy(network.state_dict()), [type(each) for each in network.modules()]
        held = NetworkInMemory(network, tokenizer)
        model = LanguageModel(ModelRef(name=str(held.folder()), dtype="float32", device="cpu"))
        model.network.requires_grad_(False)
        assert network.training
        assert all(each.requires_grad for each in network.parameters())
        assert [type(each) for each in network.modules()] == modules
        assert all(torch.equal(now, weights[name]) for name, now in network.state_dict().items())
        shared = next(model.network.parameters()).data_ptr()
        assert shared == next(network.parameters()).data_ptr()

    @pytest.mark.parametrize("wrong", [torch.nn.Linear(2, 2), None, "tiny"])
    def test_something_else_is_refused_with_a_sentence(self, wrong, tiny):
        network, tokenizer = loaded(tiny)
        with pytest.raises(UsageError, match="a causal language model of transformers"):
            NetworkInMemory(wrong, tokenizer)
        with pytest.raises(UsageError, match="needs its tokenizer"):
            NetworkInMemory(network, wrong)


@dataclass(frozen=True, kw_only=True)
class MyScorer:
    """Scores by the loss that is left."""

    needs: ClassVar[tuple[str, ...]] = ("loss_after",)
    higher_is_better: ClassVar[bool] = False

    def __call__(self, frame):
        return frame["loss_after"].to_numpy()


SETTINGS = {"learning_rate": 1e-2, "seed": 3}
LOADING = {"dtype": "float32", "device": "cpu"}


@pytest.fixture(scope="module")
def by_command(path, tiny, tmp_path_factory):
    """Return what the commands write of the same rows and settings."""
    root, loading = tmp_path_factory.mktemp("commands"), Loading(**LOADING)
    common = {"model": str(tiny), "loading": loading}
    pool = commands.load([str(path)], output=str(root / "pool"))
    reference = commands.train(
        [pool.path], reference=Reference(**SETTINGS), output=str(root / "ref"), **common
    )
    scores = commands.score(
        [pool.path],
        reference=reference.path,
        store=str(root / "store"),
        output=str(root / "scores"),
        **common,
    )
    chosen = commands.select(scores.path, budget="25%", output=str(root / "selection"))
    return {"reference": reference, "scores": scores, "chosen": chosen}


@pytest.fixture(scope="module")
def model(tiny):
    return ln.Model(tiny, **LOADING)


@pytest.fixture(scope="module")
def after(path, model):
    return ln.train(path, model, **SETTINGS)


@pytest.fixture(scope="module")
def scores(path, model, after):
    return ln.score(path, model, reference=after)


class TestTheExample:
    @pytest.mark.parametrize("kind", ["text", "dicts", "dataset", "polars", "pandas"])
    def test_it_runs_with_rows_from_anywhere(self, kind, path, records, model, after, tmp_path):
        rows = ln.read(KINDS[kind](path, records))
        scores = ln.score(rows, model, reference=after, scorers=["learnability", MyScorer()])
        picked = ln.select(scores, budget=0.25)
        assert scores.to_pandas()["MyScorer"].to_list() == scores.frame["loss_after"].to_list()
        assert picked.kept.height == len(picked.rows) == len(picked.to_dataset()) == 3
        assert picked.kept.height + picked.dropped.height == 12
        assert ln.report(picked, tmp_path / "report.html").read_text().startswith("<!doctype html>")

    def test_it_runs_with_a_network_that_is_loaded(self, path, tiny, scores):
        network, tokenizer = loaded(tiny)
        network.train()
        weights, modules = copy.deepcopy(network.state_dict()), [type(each) for each in network.modules()]
        model = ln.Model(network, tokenizer)
        after = ln.train(path, model, **SETTINGS)
        mine = ln.score(path, model, reference=after)
        assert mine.frame.equals(scores.frame, null_equal=True)
        assert network.training
        assert all(each.requires_grad for each in network.parameters())
        assert [type(each) for each in network.modules()] == modules
        assert all(torch.equal(now, weights[name]) for name, now in network.state_dict().items())

    def test_full_fine_tuning_leaves_a_loaded_network_as_it_was(self, path, tiny):
        network, tokenizer = loaded(tiny)
        weights, model = copy.deepcopy(network.state_dict()), ln.Model(network, tokenizer)
        after = ln.train(path, model, method="full", learning_rate=1e-2)
        assert all(torch.equal(now, weights[name]) for name, now in network.state_dict().items())
        frame = ln.score(path, model, reference=after).frame
        assert (frame["loss_after"] < frame["loss_before"]).all()

    def test_a_network_that_was_changed_is_measured_again(self, path, tiny):
        network, tokenizer = loaded(tiny)
        model = ln.Model(network, tokenizer)
        after, before = ln.train(path, model), ln.score(path, model).frame
        with torch.no_grad():
            network.lm_head.weight.mul_(0.5)
        assert (ln.score(path, model).frame["loss"] != before["loss"]).all()
        with pytest.raises(ModelError, match="which is not the model given"):
            ln.score(path, model, reference=after)


class TestTheNumbers:
    def test_scores_are_those_of_the_command(self, scores, by_command):
        frame = pl.read_parquet(by_command["scores"].folder / "scores.parquet")
        assert scores.frame.equals(frame, null_equal=True)

    def test_a_selection_is_that_of_the_command(self, scores, by_command, records):
        picked, folder = ln.select(scores, "25%"), by_command["chosen"].folder
        assert picked.kept.equals(pl.read_parquet(folder / "kept.parquet"))
        assert picked.dropped.equals(pl.read_parquet(folder / "dropped.parquet"))
        written = (folder / "selected" / "my.jsonl").read_text().splitlines()
        assert picked.rows == [json.loads(line) for line in written]

    def test_a_reference_of_the_command_is_taken(self, path, model, scores, by_command):
        mine = ln.score(path, model, reference=by_command["reference"].folder)
        assert mine.frame.equals(scores.frame, null_equal=True)

    def test_a_reference_that_is_kept_is_one_of_the_command(self, path, tiny, model, by_command, tmp_path):
        kept = ln.train(path, model, output=tmp_path / "kept", **SETTINGS)
        by_name = commands.score(
            [str(path)],
            model=str(tiny),
            loading=Loading(**LOADING),
            reference=str(kept.folder),
            store=str(tmp_path / "store"),
            output=str(tmp_path / "scores"),
        )
        frame = pl.read_parquet(by_command["scores"].folder / "scores.parquet")
        assert pl.read_parquet(by_name.folder / "scores.parquet").equals(frame, null_equal=True)
        marks = {file: file.stat().st_mtime_ns for file in kept.folder.rglob("*")}
        assert ln.train(path, model, output=tmp_path / "kept", **SETTINGS).trained == replace(
            kept.trained, ran=False
        )
        assert {file: file.stat().st_mtime_ns for file in kept.folder.rglob("*")} == marks
        with pytest.raises(StoreError, match="epochs"):
            ln.train(path, model, output=tmp_path / "kept", epochs=2, **SETTINGS)

    def test_a_model_may_be_the_reference(self, path, tiny, model, after, scores):
        from peft import PeftModel

        network, tokenizer = loaded(tiny)
        tuned = PeftModel.from_pretrained(network, after.folder / "part-0").merge_and_unload()
        frame = ln.score(path, model, reference=ln.Model(tuned, tokenizer)).frame
        np.testing.assert_allclose(frame["loss_after"], scores.frame["loss_after"], rtol=1e-4)

    def test_a_store_spares_the_passes(self, path, tiny, tmp_path):
        first = ln.score(path, ln.Model(tiny, **LOADING), store=tmp_path / "store")
        again = ln.score(path, ln.Model(tiny, **LOADING), store=tmp_path / "store")
        assert (first.costs["score"].tokens > 0, again.costs["score"].tokens) == (True, 0)
        assert again.frame.equals(first.frame, null_equal=True)


class TestChoosing:
    def test_budgets_are_shares_counts_or_texts(self, scores):
        heights = [
            ln.select(scores, budget).kept.height for budget in (0.25, 3, "25%", ln.Budget(examples=3))
        ]
        assert heights == [3, 3, 3, 3]

    def test_pinned_ids_are_kept_and_banned_ones_are_not(self, scores):
        best = ln.select(scores, 3).kept["id"].to_list()
        worst = ln.select(scores, 3, lowest=True).kept["id"].to_list()
        kept = ln.select(scores, 3, pin=worst[:1], ban=best[:1]).kept["id"].to_list()
        assert kept == [worst[0], best[1], best[2]]

    def test_conditions_are_those_of_the_command(self, scores):
        limit = float(scores.frame["loss_before"].median())
        kept = ln.select(scores, 3, min_loss_before=limit, where="tokens < 60").kept
        frame = scores.frame.join(kept, on="id", how="semi")
        assert (frame["loss_before"] >= limit).all()
        assert (frame["tokens"] < 60).all()

    def test_vectors_of_the_scores_are_used(self, path, model):
        scores = ln.score(path, model, vectors="model")
        assert ln.select(scores, 3, selector="k_center").kept.height == 3


@pytest.mark.parametrize(("tokens", "shown"), [(2, 2), (0, 0)])
def test_a_report_spells_as_many_examples_out_as_it_is_asked_for(tokens, shown, scores, tmp_path):
    page = ln.report(ln.select(scores, 3), tmp_path / "page.html", tokens=tokens).read_text("utf-8")
    assert page.count("Loss in nats") == shown


def test_a_scorer_that_needs_what_is_not_there_is_refused_before_weights_are_loaded(path, tiny, monkeypatch):
    model = ln.Model(tiny, **LOADING)
    monkeypatch.setattr(model, "opened", lambda: pytest.fail("loaded"))
    with pytest.raises(UsageError, match="reference"):
        ln.score(path, model, scorers=["learnability"])


WRONG = {
    "a model": (lambda of: ln.Model(7), "a causal language model of transformers"),
    "a network without a tokenizer": (lambda of: ln.Model(of["network"]), "needs its tokenizer"),
    "a tokenizer beside a name": (lambda of: ln.Model("starter", of["network"]), "its own tokenizer"),
    "a setting of a model": (lambda of: ln.Model(of["tiny"], dtipe="float32"), "no setting 'dtipe'"),
    "a dtype of a network": (lambda of: ln.Model(*of["loaded"], dtype="float32"), "dtype has no effect"),
    "what is no model": (lambda of: ln.score(of["rows"], of["network"]), "is a learnable.Model or its name"),
    "rows": (lambda of: ln.score(7, of["model"]), "an object of type int"),
    "a reference": (
        lambda of: ln.score(of["rows"], of["model"], reference=7),
        "a reference is what train gave",
    ),
    "a class for a scorer": (
        lambda of: ln.score(of["rows"], of["model"], scorers=[MyScorer]),
        r"MyScorer\(\), not MyScorer",
    ),
    "a scorer twice": (
        lambda of: ln.score(of["rows"], of["model"], scorers=["loss", "loss"]),
        "called 'loss'",
    ),
    "no reference": (lambda of: ln.score(of["rows"], of["model"], scorers=["learnability"]), "reference"),
    "a setting of a training": (
        lambda of: ln.train(of["rows"], of["model"], epoch=2),
        "did you mean 'epochs'",
    ),
    "scores": (lambda of: ln.select(of["rows"]), "from what score gave"),
    "a budget": (lambda of: ln.select(of["scores"], None), "a budget is a share"),
    "a threshold": (lambda of: ln.select(of["scores"], 3, min_scores=1), "did you mean 'min_score'"),
    "a selection": (lambda of: ln.report(of["scores"]), "about what select gave"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_type_or_name_gets_a_sentence(wrong, tiny, path, model, scores):
    call, said = WRONG[wrong]
    pair = loaded(tiny)
    given = {"tiny": tiny, "rows": path, "model": model, "scores": scores, "network": pair[0], "loaded": pair}
    with pytest.raises(UsageError, match=said):
        call(given)


def test_vectors_are_written_where_a_row_has_none(tiny, tmp_path):
    rows = [
        {"instruction": "one two three " * 200, "output": "four"},
        {"instruction": "who?", "output": "cat"},
    ]
    ln.score(rows, ln.Model(str(tiny)), scorers=["length"], vectors="model", output=tmp_path)
    assert pl.read_parquet(tmp_path / "vectors.parquet")["vector"].is_null().to_list() == [True, False]
