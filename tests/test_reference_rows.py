"""Which rows a reference is trained on: all, the share with the lowest loss, or rows that the user trusts."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

import learnable as ln
from learnable import commands as verbs
from learnable import recipes
from learnable.commands.select import Selecting
from learnable.errors import DataError, UsageError
from learnable.experiments import parse_method
from learnable.objects.trimming import trimmed
from learnable.recipes.lobass import CHOICE, REFERENCE, ByLearnability, TrimmedReference, held
from learnable.runs.store import Store
from learnable.settings import Loading, Reference, Tuning, WarmUp, told
from learnable.testing import toy_examples, write_messages
from learnable.training import fine_tuning, read_reference
from learnable.training.reference import train_reference
from learnable.types import ModelRef, Rendered

FAST = {"learning_rate": 1e-2, "batch_size": 4, "rank": 2}
ROWS = 12


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": "trimmed", "share": 0.0},
        {"rows": "trimmed", "share": 1.5},
        {"rows": "trimmed", "rounds": 0},
        {"share": 0.25},
        {"rounds": 2},
        {"rows": "mine.jsonl", "rounds": 2},
        {"rows": "trimmed", "fraction": 0.5},
        {"rows": "mine.jsonl", "model": "mine"},
        {"rows": "trimmed", "last_epoch_loss": True},
    ],
    ids=str,
)
def test_what_has_no_effect_or_no_meaning_is_refused(wrong):
    with pytest.raises(UsageError):
        Reference(**wrong)


def test_a_reference_of_all_rows_is_what_it_was_before_rows_could_be_named():
    assert set(told(Reference())) & {"rows", "share", "rounds"} == set()
    assert set(told(WarmUp())) & {"rows", "share", "rounds"} == set()


def test_the_cost_is_that_of_the_share_in_each_round():
    assert Reference(rows="trimmed", share=0.25).passes == 0.25
    assert Reference(rows="trimmed", rounds=3, epochs=2).passes == 3
    assert Reference(rows="trimmed", folds=3).passes == 1
    assert Reference(rows="trimmed", rounds=3).choosing_passes == (1, 2)
    assert Reference().choosing_passes == (0, 0)


def test_a_method_says_which_rows_its_reference_has():
    method = parse_method("learnability@rows=trimmed,share=0.25,rounds=2", reference=Reference())
    assert method.reference == Reference(rows="trimmed", share=0.25, rounds=2)
    assert parse_method("learnability@rows=a/b.jsonl", reference=Reference()).reference.trusted == "a/b.jsonl"


def row(identity, mask=(False, True)):
    ids = np.arange(len(mask), dtype=np.int32)
    return Rendered(id=identity, ids=ids, mask=np.array(mask), truncated=False)


def test_each_round_trains_on_what_the_one_before_has_found_learnable(monkeypatch, tmp_path):
    before = {"a": 1.0, "b": 2.0, "c": 4.0, "d": 8.0, "e": float("nan")}
    after = {"round-1": {"a": 0.9, "b": 2.0, "c": 1.0, "d": 8.0, "e": 0.1}}

    class Told:
        renderer, tokens = SimpleNamespace(end_ids=frozenset()), 7

        def __init__(self, ref, references=None, **_):
            self.references = references

        def columns(self, role, names, rendered, frame, **_):
            losses = before if role == "base" else after[self.references.name]
            return pl.DataFrame({names[0]: [losses[each] for each in frame["id"]]})

    monkeypatch.setattr("learnable.objects.trimming.Passes", Told)
    monkeypatch.setattr("learnable.training.read_reference", lambda place: place)
    trained = []

    def train(place, ids):
        trained.append((place.name, set(ids)))
        return [f"training of {place.name}"]

    given = {"max_length": 8, "store": Store(tmp_path), "train": train}
    rows, ref = [row(name) for name in "edcba"], ModelRef(name="none")
    once = Reference(rows="trimmed", share=0.4)
    assert trimmed(ref, rows, tmp_path, reference=once, **given) == ({"a", "b"}, [], 7)
    # Learnability after the first round is 0.1, 0, 0.75, 0 and not defined.
    twice = replace(once, rounds=2)
    assert trimmed(ref, rows, tmp_path, reference=twice, **given) == (
        {"a", "c"},
        ["training of round-1"],
        14,
    )
    assert trained == [("round-1", {"a", "b"})]


def test_folds_are_cut_over_all_rows_and_only_the_named_ones_are_trained_on(monkeypatch, tmp_path):
    seen = {}

    def remember(ref, examples, folder, **_):
        seen[folder.name] = {answer.id for example in examples for answer in example}
        return fine_tuning.Trained(folder=folder, tokens=1, steps=1, seconds=0.0)

    monkeypatch.setattr("learnable.training.reference.fine_tune", remember)
    names = [f"{number:02}" for number in range(12)]
    given = {"prompts": names, "reference": Reference(folds=2), "only": names[:6]}
    train_reference(ModelRef(name="none"), [row(name) for name in names], ["a"] * 12, tmp_path, **given)
    parts = dict(read_reference(tmp_path).assignment.iter_rows())
    assert set(parts) == set(names)
    for number in (0, 1):
        assert seen[f"part-{number}"] == {name for name in names[:6] if parts[name] != number}


@pytest.fixture(scope="module")
def place(tiny, tmp_path_factory):
    """A folder with rows, trusted rows that are two of them and two others, and references on either choice."""
    folder = tmp_path_factory.mktemp("rows")
    examples = toy_examples(ROWS + 2)
    write_messages(examples[:ROWS], folder / "mine.jsonl")
    write_messages(examples[ROWS - 2 :], folder / "trusted.jsonl")
    return folder


@pytest.fixture
def train(place, tiny):
    def run(name, **reference):
        return verbs.train(
            [str(place / "mine.jsonl")],
            model=str(tiny),
            loading=Loading(dtype="float32"),
            reference=Reference(**FAST, **reference),
            store=str(place / "store"),
            output=str(place / name),
        )

    return run


def test_a_trimmed_reference_keeps_its_losses_for_the_scores(train, place, tiny):
    outcome = train("trimmed", rows="trimmed", rounds=2)
    facts = {name: outcome.facts[name] for name in ("rows", "share", "rounds", "trimmed to")}
    assert facts == {"rows": "trimmed", "share": 0.5, "rounds": 2, "trimmed to": ROWS // 2}
    assert (outcome.folder / "round-1" / "reference.json").is_file()
    scored = verbs.score(
        [str(place / "trimmed-pool")],
        model=str(tiny),
        loading=Loading(dtype="float32"),
        reference=outcome.path,
        store=str(place / "store"),
        output=str(place / "scores"),
    )
    # The base's pass is there already; so is the reference's where both rounds chose the same rows.
    assert scored.cost.tokens in (0, scored.facts["tokens"])
    assert not train("trimmed", rows="trimmed", rounds=2).ran


def test_trusted_rows_are_trained_on_in_place_of_the_pool(train, place):
    outcome = train("by-trust-{fingerprint}", rows=str(place / "trusted.jsonl"))
    assert outcome.facts["rows"] == "trusted"
    assert (outcome.facts["trusted rows"], outcome.facts["trusted rows in the pool"]) == (4, 2)
    trained = json.loads((outcome.folder / "part-0" / "training.json").read_text(encoding="utf-8"))
    assert trained["tokens"] == outcome.facts["trusted tokens"]
    moved = place / "elsewhere" / "trusted.jsonl"
    moved.parent.mkdir()
    moved.write_bytes((place / "trusted.jsonl").read_bytes())
    again = train("by-trust-{fingerprint}", rows=str(moved))
    assert (again.ran, again.folder) == (False, outcome.folder)


def test_trusted_rows_in_memory_are_those_of_a_file(place, tiny, train):
    trusted = [
        json.loads(line) for line in (place / "trusted.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    model = ln.Model(str(tiny), dtype="float32")
    here = ln.train(str(place / "mine.jsonl"), model, rows=trusted, **FAST)
    there = train("by-trust-{fingerprint}", rows=str(place / "trusted.jsonl"))
    weights = "part-0/adapter_model.safetensors"
    assert (here.folder / weights).read_bytes() == (there.folder / weights).read_bytes()


def test_rows_that_are_called_trusted_need_a_file(place, tiny):
    with pytest.raises(UsageError, match="no trusted rows"):
        ln.train(str(place / "mine.jsonl"), str(tiny), rows="trusted")


def test_a_comparison_prices_the_rows_of_each_reference(place, tiny, tmp_path):
    outcome = verbs.compare(
        [str(place / "mine.jsonl")],
        model=str(tiny),
        loading=Loading(dtype="float32"),
        by=[f"learnability@rows={place / 'trusted.jsonl'}", "learnability@rows=trimmed,share=0.25"],
        evaluate=[f"heldout:{place / 'trusted.jsonl'}"],
        reference=Reference(**FAST),
        tuning=Tuning(rank=2),
        store=str(tmp_path / "store"),
        output=str(tmp_path / "comparison"),
        dry_run=True,
    )
    assert f"{4 / ROWS + 0.25:g} reference training passes" in outcome.facts["would run"][0]


def test_the_papers_form_holds_whatever_the_defaults_are():
    assert held(Reference(epochs=3), REFERENCE) == Reference(epochs=3)
    assert held(Selecting(seed=1), CHOICE) == Selecting(seed=1)
    for settings, paper in ((Reference(folds=2), REFERENCE), (Selecting(by="difference"), CHOICE)):
        with pytest.raises(UsageError, match="the paper's form has"):
            held(settings, paper)


def test_the_papers_form_trains_on_all_rows_and_takes_the_highest_learnability():
    assert held(TrimmedReference(), REFERENCE).rows == "all"
    assert held(ByLearnability(), CHOICE).by == "learnability"


@pytest.mark.parametrize(
    "own", [{"folds": 2}, {"fraction": 0.5}, {"model": "mine"}, {"last_epoch_loss": True}]
)
def test_a_reference_of_ones_own_kind_is_not_trimmed(own):
    assert TrimmedReference(**own).rows == "all"
    assert TrimmedReference(share=0.3).rows == "trimmed"


def test_the_papers_form_goes_by_learnability_whatever_is_scored(tiny, tmp_path):
    given = {"model": str(tiny), "scorers": ["difference"], "run": recipes.Run(output=str(tmp_path))}
    missing = [str(tmp_path / "missing.jsonl")]
    with pytest.raises(UsageError, match="--by is 'length_matched'"):
        recipes.lobass(missing, **given)
    with pytest.raises(DataError, match=r"missing\.jsonl"):  # what comes next
        recipes.lobass(missing, form="paper", **given)
