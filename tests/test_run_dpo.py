"""The recipe ``dpo`` on a tiny model, from pairs to a page; and a training on pairs alone."""

import json
import math
import re
import shutil
from pathlib import Path

import polars as pl
import pytest

from asking import texts_of
from learnable import recipes
from learnable.commands import report, train
from learnable.commands.answer_lengths import AnswerLengths
from learnable.commands.prefer import Preferring
from learnable.data.pairs import answers_of, pairs_of
from learnable.data.pool import load_pool, prompt_key
from learnable.data.reading import read
from learnable.errors import DataError, UsageError
from learnable.experiments.preferences import enough_words
from learnable.models.language_model import LanguageModel
from learnable.models.rendering import Renderer
from learnable.objects.given import opened
from learnable.recipes import Run
from learnable.runs.records import DONE
from learnable.settings import Reference, Tuning
from learnable.testing import toy_examples, write_messages
from learnable.types import ModelRef


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Pairs whose chosen answer is the longer one, of two sources."""
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    chosen, rejected = toy_examples(30, seed=1), toy_examples(30, seed=2)
    rows = [
        {
            "prompt": f"{number} {one.messages[0].content}",
            "chosen": f"{one.messages[1].content} sun moon sea water fire one two three four five six",
            "rejected": two.messages[1].content,
            "set": one.source,
        }
        for number, (one, two) in enumerate(zip(chosen, rejected, strict=True))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def options(tiny):
    return {
        "model": str(tiny),
        "preferring": Preferring(
            loss=["sigmoid,davir"], fractions=["0.5", "1"], pairs_by=["random", "small_gap"], seeds=1
        ),
        "tuning": Tuning(learning_rate=1e-2, batch_size=4, epochs=2),
    }


@pytest.fixture(scope="module")
def ran(file, options, tmp_path_factory):
    run = Run(output=str(tmp_path_factory.mktemp("runs")))
    return recipes.dpo([file], run=run, **options), run


def table(ran):
    found = pl.read_parquet(ran[0]["preferences"].folder / "table.parquet")
    return found.filter(evaluation="preference accuracy")


def test_every_way_and_loss_has_a_line(ran):
    found = table(ran).sort("budget_tokens", "method", nulls_last=True)
    assert found["method"].to_list() == ["sigmoid", "small_gap", "davir", "sigmoid", "untuned"]
    assert found["examples"].to_list() == pytest.approx([12, 12, 24, 24, 0], abs=2)


def test_the_table_says_what_the_model_does(ran, tiny):
    """The share of the held-out pairs whose chosen answer gained more, by the model itself."""
    outcomes, run = ran
    pairs = list(pairs_of(read([str(outcomes["pool"].folder / "heldout.jsonl")])))
    ref = ModelRef(name=str(tiny), dtype="float32", device="cpu")
    rows = Renderer.of(ref).render([one for pair in pairs for one in answers_of(pair)], max_length=256)
    arms = pl.read_parquet(outcomes["preferences"].folder / "arms.parquet")
    largest = arms.filter(method="sigmoid").sort("budget_tokens")[-1]
    model = LanguageModel(ref)
    before = model.nll(rows)
    with model.adapter(Path(run.store) / "arms" / largest["model"][0]):
        gain = before - model.nll(rows)
    accuracy = float((gain[0::2] > gain[1::2]).mean())
    found = table(ran).filter(method="sigmoid", budget_tokens=largest["budget_tokens"][0])
    assert found["value"][0] == pytest.approx(accuracy)
    assert accuracy > 0.5  # it has learned that longer is better


def test_a_pair_is_judged_and_trained_on_only_once(ran):
    outcomes, _ = ran
    pool = {pair.id for pair in pairs_of(load_pool(outcomes["pool"].folder))}
    chosen = pl.read_parquet(outcomes["preferences"].folder / "selections.parquet")
    margins = pl.read_parquet(outcomes["preferences"].folder / "margins.parquet")
    assert set(chosen["id"]) == pool
    assert not pool & set(margins["id"])


def test_a_gap_is_by_a_model_that_has_not_seen_the_pair(ran):
    outcomes, run = ran
    scores = pl.read_parquet(outcomes["preferences"].folder / "scores.parquet")
    (reference,) = run.folder.parent.glob("store/reference-*")
    parts = pl.read_parquet(reference / "assignment.parquet")
    assert parts["part"].n_unique() == 2
    assert parts.height == 2 * scores.height
    assert scores["gap"].is_finite().all()


def test_the_length_of_greedy_answers_is_that_of_the_model(ran, tiny):
    outcomes, _ = ran
    answers = pl.read_parquet(outcomes["preferences"].folder / "answers.parquet")
    pairs = list(pairs_of(read([str(outcomes["pool"].folder / "heldout.jsonl")])))
    prompts = {prompt_key(pair, draw="lengths"): pair.prompt for pair in pairs}
    model = opened(ModelRef(name=str(tiny)))
    texts = texts_of(model, list(prompts.values()), max_new_tokens=64)
    written = model.renderer.tokenizer(texts, add_special_tokens=False)["input_ids"]
    expected = dict(zip(prompts, map(len, written), strict=True))
    untuned = answers.filter(method="untuned")
    assert dict(untuned.select("id", "answer_tokens").iter_rows()) == expected
    assert answers["method"].n_unique() == 4
    assert (
        outcomes["preferences"]
        .facts["findings"][-1]
        .startswith("mean tokens of greedy answers to 6 held-out")
    )


def test_lengths_are_said_at_the_largest_budget_with_what_was_cut_off():
    lines = [("untuned", None, 10, True), ("untuned", None, 20, True)]
    lines += [("random", 50, 1, True), ("random", 100, 64, False), ("random", 100, 20, True)]
    answers = pl.DataFrame(lines, schema=["arm", "budget_tokens", "answer_tokens", "finished"], orient="row")
    (said,) = AnswerLengths(prompts={}, store=Path()).words(
        {"answers": answers.with_columns(id=pl.lit("one"))}
    )
    assert said.endswith("of 64 at most: untuned 15.0, random 42.0 (50% cut off)")


def test_no_prompts_ask_for_no_answers():
    lengths = AnswerLengths.of([], most=0, store=Path())
    assert (lengths.looks, lengths.words({})) == ({}, [])


def test_what_misleads_is_said(ran):
    facts = ran[0]["preferences"].facts
    assert any(note.startswith("The chosen answer is the longer one in") for note in facts["notes"])
    assert any("6 pairs are few" in note for note in facts["notes"])
    assert set(facts["notes"]) <= set(ran[0]["report"].facts["warnings"])
    assert facts["losses"]["davir"].startswith("DavIR(beta=")


def test_fewer_pairs_stand_beside_all_of_them(ran):
    curve = pl.read_parquet(ran[0]["preferences"].folder / "curve.parquet")
    found = curve.filter(evaluation="preference accuracy")
    assert found["method"].to_list() == ["50%", "100%"]
    assert found["difference"][0] == pytest.approx(found["value"][0] - found["value"][1])
    assert found["verdict"][1] is None


def test_a_folder_of_a_version_without_an_answer_still_gets_its_page(ran, tmp_path):
    done = ran[0]["preferences"].folder
    folder = Path(shutil.copytree(done, done.with_name("earlier")))
    step = json.loads((folder / DONE).read_text(encoding="utf-8"))
    del step["facts"]["answer"]
    (folder / DONE).write_text(json.dumps(step), encoding="utf-8")
    assert (report(str(folder), output=str(tmp_path / "page")).folder / "report.html").is_file()


@pytest.mark.parametrize(
    ("verdicts", "lows", "said"),
    [
        (["no difference seen"] * 2, [-0.4, -0.05], "25 of 100 pairs .* 40 points"),
        (["worse", "no difference seen"], [-0.4, -0.05], "50 of 100 pairs .* 5 points"),
        (["worse", "better"], [-0.4, 0.01], "50 of 100 pairs .* 0 points"),
        (["no difference seen", "worse"], [-0.4, -0.2], "Fewer than 100 pairs were worse"),
        (["not graded"] * 2, [math.nan] * 2, "Too little was graded"),
        (["no difference seen"] * 2, [-3.0, -2.0], "25 of 100 pairs .* 100 points"),
    ],
)
def test_the_heading_says_how_many_pairs_are_enough(verdicts, lows, said):
    table = pl.DataFrame(
        {
            "evaluation": ["preference accuracy"] * 3,
            "examples": [25.0, 50.0, 100.0],
            "verdict": [*verdicts, None],
            "low": [*lows, None],
        }
    )
    assert re.search(said, enough_words(table))


def test_a_second_run_does_nothing(ran, file, options):
    again = recipes.dpo([file], run=ran[1], **options)
    assert not any(outcome.ran for outcome in again.values())


def test_a_dry_run_prices_the_trainings(file, options, tmp_path):
    planned = recipes.dpo([file], run=Run(output=str(tmp_path), dry_run=True), **options)["preferences"]
    assert "4 trainings by sigmoid, davir" in planned.facts["would run"]
    assert planned.price.tokens > 0
    assert not any(tmp_path.glob("store/*"))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"loss": ["sigmod"]}, "no loss called 'sigmod'"),
        ({"loss": ["ipo", "ipo"]}, "there twice"),
        ({"fractions": ["0.2", "2"]}, "above 0 and at most 1"),
        ({"fractions": ["half"]}, "fractions are numbers"),
        ({"pairs_by": ["smallest"]}, "no way to choose pairs called"),
    ],
)
def test_what_cannot_be_read_is_said_before_any_file(wrong, says, tmp_path):
    with pytest.raises(UsageError, match=says):
        recipes.dpo(["nowhere.jsonl"], preferring=Preferring(**wrong), run=Run(output=str(tmp_path)))


def test_conversations_are_refused(options, tmp_path):
    rows = str(write_messages(toy_examples(9), tmp_path / "rows.jsonl"))
    with pytest.raises(DataError, match="conversations"):
        recipes.dpo([rows], run=Run(output=str(tmp_path / "runs")), **options)


class TestTrain:
    def test_a_loss_of_pairs_leaves_an_adapter(self, file, tiny, tmp_path):
        reference = Reference(batch_size=4)
        trained = train(
            [file], model=str(tiny), loss="davir", reference=reference, output=str(tmp_path / "r")
        )
        assert (trained.folder / "part-0" / "adapter_model.safetensors").is_file()
        assert trained.facts["loss"].startswith("DavIR(beta=")
        assert trained.facts["learning rate"] == 5e-5
        assert trained.cost.tokens > 0

    def test_pairs_without_a_loss_are_refused(self, file, tiny, tmp_path):
        with pytest.raises(DataError, match="preference pairs"):
            train([file], model=str(tiny), output=str(tmp_path / "r"))

    def test_a_loss_of_pairs_on_conversations_is_refused(self, tiny, tmp_path):
        rows = str(write_messages(toy_examples(9), tmp_path / "rows.jsonl"))
        with pytest.raises(DataError, match="conversations with one answer"):
            train([rows], model=str(tiny), loss="ipo", output=str(tmp_path / "r"))

    def test_kept_epochs_do_not_go_with_pairs(self, file, tiny, tmp_path):
        with pytest.raises(UsageError, match="of pairs, which train adapters"):
            train([file], model=str(tiny), loss="ipo", keep_epochs=True, output=str(tmp_path / "r"))
