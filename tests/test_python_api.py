"""The Python API over objects: rows from anywhere, a model by name or in memory, the numbers of the commands."""

import copy
import json

import datasets
import pandas as pd
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from learnable.errors import DataError, UsageError
from learnable.models import LanguageModel
from learnable.models.memory import NetworkInMemory
from learnable.objects.rows import read
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
        rows = read(KINDS[kind](path, records))
        assert len(rows) == 12
        assert rows.frame["id"].to_list() == [each.id for each in toy_examples(12)]

    @pytest.mark.parametrize("kind", KINDS)
    def test_chosen_rows_come_back_as_they_came(self, kind, path, records):
        rows = read(KINDS[kind](path, records))
        ids = [rows.frame["id"][place] for place in (7, 2)]
        assert rows.chosen(ids) == [records[2], records[7]]
        dataset = rows.dataset(ids)
        assert isinstance(dataset, datasets.Dataset)
        assert dataset["messages"][0] == records[2]["messages"]

    def test_several_are_one_pool(self, path, records):
        extra = [{"prompt": "a colour?", "completion": "blue"}, records[0]]
        rows = read([path, extra])
        assert len(rows) == len(read(path, extra)) == 13
        assert rows.pool.rows["reason"].to_list()[-1].startswith("duplicate of my.jsonl")
        new = rows.frame.filter(source="rows-2")["id"][0]
        assert rows.chosen([new, rows.frame["id"][0]]) == [records[0], extra[0]]

    def test_a_row_that_cannot_be_used_is_named(self):
        with pytest.raises(DataError, match="rows row 2"):
            read([{"prompt": "a", "completion": "b"}, {"prompt": "c"}], on_error="raise")

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
            read(wrong)


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
