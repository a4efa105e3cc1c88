"""What a dry run says of time and memory comes from a trial of the model on this machine, made once."""

from pathlib import Path

import pytest

from learnable import commands as verbs
from learnable.commands.network import Network
from learnable.commands.teach import Teaching
from learnable.diagnosis import pace as pacing
from learnable.diagnosis.pace import pace
from learnable.models.language_model import LanguageModel
from learnable.runs.price import Price
from learnable.settings import Loading, Reference, Tuning
from learnable.testing import tiny_model, toy_examples, write_messages
from learnable.types import ModelRef

ROWS = toy_examples(12)


@pytest.fixture
def ref(tmp_path, monkeypatch):
    monkeypatch.setenv("LEARNABLE_CACHE", str(tmp_path / "cache"))
    return ModelRef(name=str(tiny_model(tmp_path / "tiny")), dtype="float32")


@pytest.fixture
def here(ref, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_messages(ROWS, tmp_path / "rows.jsonl")
    return {"model": ref.name, "loading": Loading(dtype="float32"), "dry_run": True}


def loads_nothing(monkeypatch):
    for owner, name in ((LanguageModel, "__init__"), (pacing, "trainable")):
        monkeypatch.setattr(owner, name, lambda *_, **__: pytest.fail("a model was loaded"))


@pytest.mark.parametrize(
    ("kind", "tuning"),
    [("measuring", None), ("writing", None), ("training", Tuning()), ("training", Tuning(method="full"))],
    ids=["measuring", "writing", "LoRA", "full"],
)
def test_a_trial_finds_speed_and_memory_and_is_made_once(ref, monkeypatch, kind, tuning):
    found = pace(ref, kind, row_tokens=30, tuning=tuning)
    assert min(found.tokens_per_s, found.load_s, found.peak_gib) > 0
    assert (found.disk_gib > 0) == (kind == "training")
    loads_nothing(monkeypatch)
    assert pace(ref, kind, row_tokens=33, tuning=tuning) == found


@pytest.mark.parametrize(("share", "trials"), [(0.1, 2), (0.9, 1)], ids=["busy", "quiet"])
def test_a_trial_on_a_busy_machine_is_made_again_later(ref, monkeypatch, share, trials):
    made = []

    def timed(*_):
        made.append(pacing.Pace(tokens_per_s=1.0, load_s=1.0, peak_gib=1.0, cores=share))
        return made[-1]

    monkeypatch.setattr(pacing, "_measuring", timed)
    clock = [1_000.0]
    monkeypatch.setattr(pacing.time, "time", lambda: clock[0])
    for clock[0] in (1_000.0, 1_001.0, 1_000.0 + pacing.BUSY_S):
        pace(ref, "measuring", row_tokens=30)
    assert len(made) == trials


def test_a_full_fine_tuning_writes_more_than_an_adapter(ref):
    lora, full = (pace(ref, "training", row_tokens=30, tuning=Tuning(method=how)) for how in ("lora", "full"))
    assert full.disk_gib > lora.disk_gib


@pytest.mark.parametrize("step", ["train", "score", "evaluate", "diversify", "compare", "teach"])
def test_a_dry_run_of_every_step_that_runs_a_model_says_tokens_time_and_memory(here, step, tmp_path):
    calls = {
        "train": lambda: verbs.train(["rows.jsonl"], **here),
        "score": lambda: verbs.score(["rows.jsonl"], scorers=["loss"], **here),
        "evaluate": lambda: verbs.evaluate(["heldout:rows.jsonl", "exact_match:rows.jsonl@n=4"], **here),
        "diversify": lambda: verbs.diversify(["rows.jsonl"], method="self_answer", max_new_tokens=8, **here),
        "compare": lambda: verbs.compare(["rows.jsonl"], by=["ifd"], **here),
        "teach": lambda: verbs.teach(["rows.jsonl"], teaching=Teaching(evaluate=["heldout"]), **here),
    }
    before = {path for path in tmp_path.iterdir() if path.name != "cache"}
    planned = calls[step]()
    assert not planned.ran
    assert min(planned.price.rows, planned.price.tokens, planned.price.seconds, planned.price.peak_gib) > 0
    assert "no pass" not in planned.facts["would run"]
    assert {path for path in tmp_path.iterdir() if path.name != "cache"} == before


def test_a_second_dry_run_loads_no_network(here, monkeypatch):
    first = verbs.evaluate(["heldout:rows.jsonl"], **here)
    loads_nothing(monkeypatch)
    assert verbs.evaluate(["heldout:rows.jsonl"], **here).price == first.price


def test_the_tokens_of_a_dry_run_are_those_of_the_run(here):
    planned = verbs.score(["rows.jsonl"], scorers=["loss"], **here)
    assert (
        planned.price.tokens
        == verbs.score(["rows.jsonl"], scorers=["loss"], **here | {"dry_run": False}).cost.tokens
    )


def test_what_is_stored_of_the_model_costs_nothing(here):
    verbs.score(["rows.jsonl"], scorers=["loss"], **here | {"dry_run": False})
    assert verbs.score(["rows.jsonl"], scorers=["perplexity"], output="other", **here).price == Price()
    assert verbs.score(["rows.jsonl"], scorers=["ifd"], output="other", **here).price.rows == len(ROWS)


def test_tokens_of_a_large_pool_are_estimated_by_a_sample(ref, monkeypatch):
    examples = toy_examples(60)
    network = Network(ref=ref, longest=200)
    whole = network.tokens(examples)
    monkeypatch.setattr("learnable.commands.network.SAMPLE", 30)
    assert network.tokens(examples) == pytest.approx(whole, rel=0.2)


def test_of_a_model_that_is_not_here_rows_and_passes_are_known(ref):
    price = Network(ref=ref, longest=200, awaits=["fetch it"]).training(ROWS, Reference(), passes=2)
    assert (price.rows, price.passes, price.tokens, price.seconds) == (24, 2, 0, 0)
    assert "once" in price.words[-1]


def test_of_a_model_elsewhere_the_tokens_are_known(ref, monkeypatch):
    loads_nothing(monkeypatch)
    price = Network(ref=ref, longest=200, on="ray").measuring(ROWS)
    assert price.tokens > 0
    assert price.words[-1] == "time and memory on ray are not known"


def test_a_given_reference_costs_nothing(ref):
    assert Network(ref=ref, longest=200).reference(None, Reference(model=ref.name), passes=0.0) == Price()


def test_load_select_and_report_say_what_they_wait_for(here):
    assert verbs.load(["rows.jsonl"], dry_run=True).facts["would run"] == ["no pass: 12 examples of 12 rows"]
    assert verbs.select("scores", dry_run=True).facts["would run"] == ["no pass: after scores"]
    assert "4 examples" in verbs.report("selection", dry_run=True).facts["would run"][0]
    assert verbs.report("lesson", dry_run=True).facts["would run"] == ["after lesson"]
    assert not Path("pool").exists()
