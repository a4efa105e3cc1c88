"""The recipe ``rft`` on a tiny model: a reward that tells demonstrations apart, and a policy trained by it."""

import json

import polars as pl
import pytest

from learnable.cli import app as cli
from learnable.commands.reinforce import Rewarding, _warnings
from learnable.errors import UsageError
from learnable.models.rendering import Renderer
from learnable.settings import Tuning
from learnable.testing import toy_examples
from learnable.training import rewards
from learnable.training.rewards import rewards_of, train_reward, write_whole
from learnable.types import ModelRef

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL's
FAST = {"batch-size": 4, "rank": 4, "learning-rate": 0.01}


@pytest.fixture(scope="module")
def words(tiny, tmp_path_factory):
    """The command, but for its output."""
    path = tmp_path_factory.mktemp("demonstrations") / "rows.jsonl"
    asked = [(one, two) for one in ("sky", "blue", "red", "sun") for two in ("moon", "sea", "fire", "dog")]
    lines = [
        {"prompt": " ".join(both), "completion": ("one", "two")[place % 2]}
        for place, both in enumerate(asked)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    words = ["run", "rft", str(path), "--model", str(tiny), "--dtype=float32", "--holdout=0.25", "--steps=1"]
    words += [
        f"--{group}.{name}={value}" for group in ("sft", "reward", "policy") for name, value in FAST.items()
    ]
    return [*words, "--sft.epochs=12", "--new-tokens=6"]


@pytest.fixture(scope="module")
def ran(words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rft")
    assert cli.call([*words, "-o", str(folder)]) == cli.DONE
    return folder


def test_a_round_has_its_figures_and_leaves_a_model(ran):
    (folder,) = ran.glob("rft/policy-*")
    (line,) = pl.read_parquet(folder / "rounds.parquet").to_dicts()
    assert line["pairs"] + line["dropped"] == 12
    assert abs(line["kl_nats"]) < 5
    assert (folder / "model" / "config.json").is_file()
    own = pl.read_parquet(folder / "own.parquet")
    assert own["arm"].value_counts().sort("arm").rows() == [("policy", 4), ("start", 4)]


def test_nothing_is_done_twice(ran, words, monkeypatch):
    monkeypatch.setattr(rewards, "_run", None)
    assert cli.call([*words, "-o", str(ran)]) == cli.DONE


def test_a_reward_learns_which_answer_is_better(tiny, tmp_path):
    ref = ModelRef(name=str(tiny), dtype="float32", device="cpu")
    seen = Renderer.of(ref).render(toy_examples(16), max_length=128)
    pairs = list(zip(seen[:8], seen[8:], strict=True))
    whole = write_whole(ref, tmp_path / "whole")
    tuning = Tuning(learning_rate=1e-2, epochs=8, batch_size=4)
    found = rewards_of(train_reward(whole, pairs, tmp_path / "reward", tuning=tuning), seen)
    better = [one > two for one, two in zip(found[:8], found[8:], strict=True)]
    assert sum(better) >= 7


def test_a_reward_that_tells_nothing_and_a_policy_that_went_far_are_told():
    line = {"round": 1, "accuracy": 0.6, "kl_nats": 1.0}
    assert _warnings([line]) == []
    assert [said[:36] for said in _warnings([line | {"accuracy": 0.59}])] == [
        "Round 1: the reward hardly tells hel"
    ]
    assert len(_warnings([{"round": 2, "accuracy": None, "kl_nats": 1.1}])) == 2


def test_a_number_below_1_is_refused():
    with pytest.raises(UsageError, match="steps must be at least 1"):
        Rewarding(steps=0)
