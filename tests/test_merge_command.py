"""The commands ``merge`` and ``order``, from trainings of the same rows in several orders."""

import json

import polars as pl
import pytest

from learnable import commands
from learnable.cli import app as cli
from learnable.commands.merge import figures
from learnable.errors import StoreError, UsageError
from learnable.merging import AverageMerger
from learnable.settings import Loading, Reference
from learnable.testing import toy_examples, write_messages
from learnable.training.merging import Merged

HOW = Reference(epochs=2, batch_size=4, rank=2, learning_rate=1e-2)


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """Train the tiny model on one pool in two orders."""
    root = tmp_path_factory.mktemp("orders")
    pool = commands.load(
        [str(write_messages(toy_examples(20), root / "rows.jsonl"))], output=str(root / "pool")
    )
    loading = Loading(dtype="float32")
    for seed in (0, 1):
        reference = Reference(**{**vars(HOW), "order_seed": seed})
        commands.train(
            [pool.path], model=str(tiny), reference=reference, loading=loading, output=str(root / str(seed))
        )
    return root


def test_trainings_merge_into_a_folder_that_evaluate_takes(trained, tiny, tmp_path):
    merged = commands.merge(
        [str(trained / "0"), str(trained / "1")], base=str(tiny), by="average", output=str(tmp_path / "out")
    )
    assert merged.facts["lowest cosine between changes"] > 0.2
    assert merged.facts["warnings"] == []
    found = commands.evaluate(
        [f"heldout:{trained / 'rows.jsonl'}"],
        model=merged.path,
        store=str(tmp_path / "store"),
        output=str(tmp_path / "evaluation"),
    )
    assert pl.read_parquet(found.folder / "results.parquet").height == 20
    assert not commands.merge(
        [str(trained / "0"), str(trained / "1")], base=str(tiny), by="average", output=str(tmp_path / "out")
    ).ran


def test_selection_of_adapters_says_that_resampling_changes_nothing(trained, tiny, tmp_path):
    names = [str(trained / "0"), str(trained / "1")]
    merged = commands.merge(names, base=str(tiny), rank=4, output=str(tmp_path / "out"))
    assert "resampling changes nothing" in merged.facts["note"]
    assert float(merged.facts["energy kept"].rstrip("%")) < 100


@pytest.mark.parametrize(("rounding", "warned"), [(0.09, False), (0.5, True)])
def test_changes_that_the_dtype_does_not_hold_are_warned_of(rounding, warned):
    seen = Merged(scalars=9, zero=0, replaceable=0, cosines=[[1, 0.5], [0.5, 1]], equal=[], rounding=rounding)
    warnings = figures(seen, ["one", "two"], AverageMerger())["warnings"]
    assert any("--dtype float32" in each for each in warnings) == warned


def test_a_model_that_is_the_base_is_warned_of(trained, tiny, tmp_path):
    merged = commands.merge([str(trained / "0"), str(tiny)], base=str(tiny), output=str(tmp_path / "out"))
    assert merged.facts["lowest cosine between changes"] is None
    assert "is the base itself" in merged.facts["warnings"][0]


def test_a_model_merged_with_itself_is_warned_of(trained, tiny, tmp_path):
    merged = commands.merge([str(trained / "0")] * 2, base=str(tiny), output=str(tmp_path / "out"))
    assert "equal to the bit" in merged.facts["warnings"][0]


def test_changes_that_go_different_ways_are_warned_of(trained, tiny, tmp_path):
    """An adapter, and one that takes away what it adds."""
    from safetensors.torch import load_file, save_file

    one, other = trained / "0" / "part-0", tmp_path / "other"
    other.mkdir()
    (other / "adapter_config.json").write_text((one / "adapter_config.json").read_text())
    factors = load_file(one / "adapter_model.safetensors")
    turned = {name: -value if "lora_B" in name else value for name, value in factors.items()}
    save_file(turned, other / "adapter_model.safetensors")
    merged = commands.merge([str(one), str(other)], base=str(tiny), output=str(tmp_path / "out"))
    assert merged.facts["lowest cosine between changes"] == pytest.approx(-1)
    assert "did not go the same way" in merged.facts["warnings"][0]


def test_merge_on_the_command_line(trained, tiny, tmp_path, capsys):
    words = [
        "merge",
        str(trained / "0"),
        str(trained / "1"),
        "--base",
        str(tiny),
        "-o",
        str(tmp_path / "out"),
    ]
    assert cli.call([*words, "--by", "select@p=0.7,0.3,resample=yes", "--dry-run", "--json"]) == 0
    priced = json.loads(capsys.readouterr().out)
    assert priced["price"]["disk_gib"] > 0
    assert not (tmp_path / "out").exists()
    assert cli.call([*words, "--by", "select@p=0.7,0.4"]) == 2
    assert cli.call(["merge", str(trained / "0"), "--base", str(tiny), "-o", str(tmp_path / "out")]) == 2


def test_the_order_of_trainings_is_looked_at_row_by_row(trained, tmp_path):
    names = [str(trained / "0"), str(trained / "1")]
    looked = commands.order(
        names, loading=Loading(dtype="float32"), store=str(tmp_path / "store"), output=str(tmp_path / "out")
    )
    frame = pl.read_parquet(looked.folder / "order.parquet")
    assert frame.height == 40
    assert frame["loss"].is_finite().all()
    assert sorted(frame["first"].unique()) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert set(looked.facts) == {"slope, first epoch", "slope, last epoch", "report"}
    assert "Does the order show?" in (looked.folder / "report.html").read_text()


def test_one_order_alone_and_what_is_no_training_are_refused(trained, tmp_path):
    with pytest.raises(UsageError, match="2 or more"):
        commands.order([str(trained / "0")], output=str(tmp_path / "out"))
    with pytest.raises(UsageError, match="the same order"):
        commands.order([str(trained / "0")] * 2, output=str(tmp_path / "out"))
    with pytest.raises(StoreError, match="output of `learnable load`"):
        commands.order([str(trained / "0"), str(trained / "pool")], output=str(tmp_path / "out"))


def test_trainings_that_differ_in_more_than_their_order_are_refused(trained, tiny, tmp_path):
    other = Reference(**{**vars(HOW), "order_seed": 2, "epochs": 1.0})
    loading = Loading(dtype="float32")
    commands.train(
        [str(trained / "pool")], model=str(tiny), reference=other, loading=loading, output=str(tmp_path / "2")
    )
    with pytest.raises(UsageError, match=r"epochs was 2 and 1\.0"):
        commands.order(
            [str(trained / "0"), str(tmp_path / "2")], loading=loading, output=str(tmp_path / "out")
        )
