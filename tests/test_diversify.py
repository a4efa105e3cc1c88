"""``learnable diversify``: rows out, with a record, figures and clear errors; and that a killed run goes on."""

import json
import signal
import time
from dataclasses import replace

import polars as pl
import pytest

from learnable import commands as verbs
from learnable.cli import app as cli
from learnable.data import read
from learnable.diversifiers import Diversified
from learnable.diversifiers.kinds import Ledger
from learnable.errors import DataError, ModelError, StoreError, UsageError
from learnable.models import generation
from learnable.models import static_embedding as vectors
from learnable.models.language_model import LanguageModel
from learnable.settings import Loading, Reading, Sampling
from learnable.testing import toy_examples, write_messages
from learnable.types import Answer
from processes import OFTEN, at_work
from serving import asked_of, completion

FLOAT = Loading(dtype="float32")


@pytest.fixture
def rows(tmp_path):
    return str(write_messages(toy_examples(8), tmp_path / "rows.jsonl"))


@pytest.fixture
def asked(monkeypatch):
    """Let the model write whole sentences, and count them."""
    asked = []

    def answers(self, conversations, *, sampling, seeds, only=None):
        places = [place for place in range(len(conversations)) if only is None or place in only]
        asked.extend(places)
        yield places, [Answer(f"The answer to it is {seeds[place]}.", finished=True) for place in places]

    def questions(self, count, *, sampling, seeds, only=None):
        places = [place for place in range(count) if only is None or place in only]
        asked.extend(places)
        yield places, [Answer(f"Who said {seeds[place]} to the cat?", finished=True) for place in places]

    monkeypatch.setattr(LanguageModel, "answers", answers)
    monkeypatch.setattr(LanguageModel, "questions", questions)
    return asked


@pytest.fixture
def diversify(tiny, tmp_path):
    def run(*data, method, output="made", **given):
        # The tiny model takes 256 tokens.
        short = {"max_new_tokens": 16} if method.startswith("self_") else {}
        return verbs.diversify(
            list(data) or None,
            method=method,
            **({"model": str(tiny), "loading": FLOAT} | short | given),
            store=str(tmp_path / "store"),
            output=str(tmp_path / output),
        )

    return run


def generated(outcome):
    return pl.read_parquet(outcome.folder / "generated.parquet")


@pytest.mark.usefixtures("asked")
def test_a_buffer_is_written_with_its_record(diversify):
    outcome = diversify(method="self_sample", n=5)
    frame = generated(outcome)
    assert frame.columns == ["id", "messages", "source", "parent", "by", "seed"]
    assert frame.schema["parent"] == pl.String
    assert (frame.height, frame["by"].unique().to_list()) == (5, ["self_sample"])
    assert pl.read_parquet(outcome.folder / "dropped.parquet").columns == ["parent", "seed", "reason", "text"]
    assert (outcome.facts["kept"], outcome.facts["refused"], outcome.facts["drawn in this run"]) == (5, 0, 10)
    assert outcome.inputs.keys() == {"generator"}
    assert outcome.cost.tokens > 0


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("name", ["buffer.parquet", "buffer.jsonl"])
def test_a_file_as_output_holds_the_rows_for_the_next_command(diversify, tmp_path, name):
    outcome = diversify(method="self_sample", n=4, output=name)
    assert outcome.folder == tmp_path / "buffer-step"
    pool = read([str(tmp_path / name)], source_column="source")
    assert [example.id for example in pool.iter_examples()] == generated(outcome)["id"].to_list()
    assert pool.examples["source"].unique().to_list() == ["self_sample"]


@pytest.mark.usefixtures("asked")
def test_rows_are_answered_again(diversify, rows, tmp_path):
    outcome = diversify(rows, method="self_answer", n=3)
    ids = {example.id for example in toy_examples(8)}
    assert set(generated(outcome)["parent"]) <= ids
    assert outcome.links["pool"] == tmp_path / "made-pool"
    assert outcome.inputs.keys() == {"generator", "pool"}


def test_what_is_stored_is_not_drawn_again(diversify, rows, asked):
    diversify(rows, method="self_answer", n=3)
    assert len(asked) == 3
    diversify(rows, method="self_answer", n=5, output="more")
    assert len(asked) == 5


def test_a_second_run_does_nothing(diversify, rows, asked):
    diversify(rows, method="self_answer", n=3, output="a.jsonl")
    assert not diversify(rows, method="self_answer", n=3, output="a.jsonl").ran
    assert len(asked) == 3


@pytest.mark.usefixtures("asked")
def test_a_file_that_is_gone_is_written_again(diversify, rows, tmp_path):
    diversify(rows, method="self_answer", output="a.jsonl")
    before = (tmp_path / "a.jsonl").read_text()
    (tmp_path / "a.jsonl").unlink()
    assert not diversify(rows, method="self_answer", output="a.jsonl").ran
    assert (tmp_path / "a.jsonl").read_text() == before


@pytest.mark.usefixtures("asked")
def test_another_setting_is_another_step(diversify, rows):
    diversify(rows, method="self_answer")
    with pytest.raises(StoreError, match=r"settings was .*True.*False"):
        diversify(rows, method="self_answer@show_reference=false")
    with pytest.raises(StoreError, match=r"temperature was 0\.7, now 0\.9"):
        diversify(rows, method="self_answer", temperature=0.9)


@pytest.mark.usefixtures("asked")
def test_diversity_before_and_after_is_shown(diversify, rows):
    outcome = diversify(rows, method="self_answer", n=4)
    figures = pl.read_parquet(outcome.folder / "diversity.parquet")
    assert figures.select("what", "set", "texts").rows() == [
        ("questions", "before", 4),
        ("questions", "after", 4),
        ("answers", "before", 4),
        ("answers", "after", 4),
    ]
    # Sentences that differ in a number only.
    answers = figures.filter(pl.col("what") == "answers")
    assert answers["mean_distance"][1] < answers["mean_distance"][0]
    assert outcome.facts["diversity of answers"].count("distinct-1") == 2
    drawn = pl.read_parquet(outcome.folder / "map.parquet")
    assert drawn.columns == ["what", "set", "text", "x", "y"]
    assert drawn.height == 2 * (8 + 4)


@pytest.mark.usefixtures("asked")
def test_without_word_vectors_the_figures_are_missing_and_that_is_said(diversify, monkeypatch):
    monkeypatch.setattr(vectors, "PACKAGE", "no-such-package")
    outcome = diversify(method="self_sample", n=2)
    assert outcome.facts["notes"][0].startswith("no figures of diversity: the word vectors are not installed")


@pytest.mark.usefixtures("asked")
def test_files_to_avoid_are_kept_away_from(diversify, rows, tmp_path):
    first = toy_examples(8)[2]
    held = write_messages([first], tmp_path / "task.jsonl")
    evaluation = tmp_path / "evaluation.jsonl"
    evaluation.write_text(json.dumps({"prompt": toy_examples(8)[5].messages[0].content, "key": 1}) + "\n")
    outcome = diversify(rows, method="self_answer", reading=Reading(avoid=(str(held), str(evaluation))))
    assert outcome.facts["kept"] == 6
    assert outcome.facts["refused because"] == "2 row in a file to avoid"
    assert "avoid" in outcome.inputs


@pytest.mark.usefixtures("asked")
def test_an_evaluation_is_avoided_as_its_evaluator_reads_it(diversify, rows, tmp_path):
    test = tmp_path / "test.jsonl"
    row = {"source": toy_examples(8)[4].messages[0].content, "reference": "is"}
    test.write_text(json.dumps(row) + "\n")
    outcome = diversify(
        rows, method="self_answer", reading=Reading(avoid=(f"translation:{test}@prompt_column=source",))
    )
    assert outcome.facts["refused because"] == "1 row in a file to avoid"


class Repeating:
    """A method that gives the rows back."""

    needs_examples, needs_generator, sampling = True, False, Sampling()

    def __call__(self, examples, *, n, draw, seed):
        kept = [replace(each, meta=self.meta(each)) for each in examples]
        return Diversified(kept=kept, dropped=Ledger().frame)

    def meta(self, example):
        return {"parent": example.id, "by": "repeating", "seed": 1}


class Reworded(Repeating):
    """The same, as if instructions had been reworded."""

    def meta(self, example):
        rewrite = f"Say what {example.id} is about."
        return {**super().meta(example), "instruction": rewrite, "original": "Tell me the topic."}


class FromFile(Repeating):
    """The same, with a file that it reads."""

    def __init__(self):
        self.files = ("words.txt",)


class Confusing(Repeating):
    """The same, but what it makes of each row is the first of all toy rows."""

    def __call__(self, examples, *, n, draw, seed):
        first = toy_examples(8)[0]
        kept = [replace(first, meta=self.meta(each)) for each in examples]
        return Diversified(
            kept=[*kept, *super().__call__(examples, n=n, draw=draw, seed=seed).kept], dropped=Ledger().frame
        )


def test_what_any_method_made_is_kept_away_from_files(diversify, rows, tmp_path):
    held = write_messages(toy_examples(8)[:1], tmp_path / "task.jsonl")
    outcome = diversify(rows, method=f"{__name__}:Confusing", reading=Reading(avoid=(str(held),)))
    assert outcome.facts["kept"] == 7
    assert outcome.facts["notes"][1] == "7 of 14 are left out: they overlap with a file to avoid"


def test_nothing_is_made_of_rows_that_stand_in_a_file_to_avoid(diversify, rows, tmp_path):
    held = write_messages(toy_examples(8)[:3], tmp_path / "task.jsonl")
    outcome = diversify(rows, method=f"{__name__}:Repeating", reading=Reading(avoid=(str(held),)))
    assert outcome.facts["kept"] == 5
    assert outcome.facts["notes"] == ["3 of 8 rows are left out: they stand in a file to avoid"]
    assert pl.read_parquet(outcome.folder / "dropped.parquet")["parent"].to_list() == [
        example.id for example in toy_examples(8)[:3]
    ]


def test_rows_that_all_stand_in_a_file_to_avoid_are_an_error(diversify, rows, tmp_path):
    held = write_messages(toy_examples(8), tmp_path / "task.jsonl")
    with pytest.raises(DataError, match="all 8 rows stand in a file to avoid"):
        diversify(rows, method=f"{__name__}:Repeating", reading=Reading(avoid=(str(held),)))


def test_of_rewritten_instructions_the_diversity_is_that_of_the_wordings(diversify, rows):
    outcome = diversify(rows, method=f"{__name__}:Reworded")
    figures = pl.read_parquet(outcome.folder / "diversity.parquet")
    assert figures["what"].to_list() == ["instructions"] * 2
    assert figures["texts"].to_list() == [8, 8]
    assert figures["mean_distance"][0] == pytest.approx(0, abs=1e-6)
    # Four words, eight times the same; then eight more that differ.
    assert figures["distinct_1"].to_list() == pytest.approx([4 / 32, (4 + 8) / 40])
    assert {"instruction", "original"} <= set(generated(outcome).columns)


def test_a_file_that_a_method_reads_counts_by_its_content(diversify, rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"there is no file words\.txt"):
        diversify(rows, method=f"{__name__}:FromFile")
    (tmp_path / "words.txt").write_text("one")
    first = diversify(rows, method=f"{__name__}:FromFile")
    (tmp_path / "words.txt").write_text("two")
    with pytest.raises(StoreError, match="file 0 was"):
        diversify(rows, method=f"{__name__}:FromFile")
    assert first.inputs.keys() == {"generator", "pool", "file 0"}


def test_a_method_by_rules_needs_no_model(diversify, rows, monkeypatch):
    monkeypatch.setattr(LanguageModel, "__init__", lambda *_: pytest.fail("loaded"))
    outcome = diversify(rows, method=f"{__name__}:Repeating", model="nowhere/to-be-found")
    assert outcome.facts["written by"] == "rules"


@pytest.fixture
def answering(server):
    """Return a server that answers everything with its seed, but for the questions in ``refused``."""

    def reply(body):
        if any(text in asked_of(body) for text in server.refused):
            return 400, b""
        return 200, completion(f"The seed is {body['seed']}.")

    server.refused, server.reply = set(), reply
    return server


def test_a_server_writes_instead_of_the_model(diversify, rows, answering, monkeypatch):
    monkeypatch.setattr(LanguageModel, "__init__", lambda *_: pytest.fail("loaded"))
    name = f"openai:{answering.url}#m"
    outcome = diversify(rows, method="self_answer", generator=name)
    assert outcome.facts["written by"] == name
    frame = generated(outcome)
    assert [row["messages"][-1]["content"] for row in frame.iter_rows(named=True)] == [
        f"The seed is {seed}." for seed in frame["seed"]
    ]


@pytest.fixture
def moody(answering):
    """Return the name of a server that refuses one of the rows' questions."""
    answering.refused.add(toy_examples(8)[3].messages[0].content)
    return f"openai:{answering.url}#m"


def test_what_a_server_failed_to_answer_is_no_end(diversify, rows, moody, tmp_path):
    with pytest.raises(ModelError, match=r"1 of 8 were not answered; what was is kept\n.*the same command"):
        diversify(rows, method="self_answer", generator=moody)
    assert not (tmp_path / "made" / "step.json").exists()


def test_asked_again_a_server_may_answer(diversify, rows, answering, moody):
    with pytest.raises(ModelError):
        diversify(rows, method="self_answer", generator=moody)
    answering.refused.clear()
    outcome = diversify(rows, method="self_answer", generator=moody)
    assert (outcome.facts["kept"], outcome.facts["drawn in this run"]) == (8, 1)


def test_what_a_server_never_answers_does_not_stop_a_run_for_good(diversify, rows, moody):
    with pytest.raises(ModelError):
        diversify(rows, method="self_answer", generator=moody)
    outcome = diversify(rows, method="self_answer", generator=moody)
    assert outcome.facts["kept"] == 7
    assert outcome.facts["notes"][-1].startswith("1 of 1 were not answered by the server, asked again")


@pytest.mark.usefixtures("asked")
def test_files_to_avoid_are_read_as_the_rows_are(diversify, rows, tmp_path):
    held = write_messages(toy_examples(8)[:2], tmp_path / "task.jsonl")
    held.write_text(held.read_text() + json.dumps({"messages": []}) + "\n")
    outcome = diversify(rows, method="self_answer", reading=Reading(avoid=(str(held),), on_error="skip"))
    assert outcome.facts["refused because"] == "2 row in a file to avoid"


def test_a_pool_beside_a_folder_named_by_its_fingerprint_is_named_by_its_own(diversify, rows, tmp_path):
    diversify(rows, method=f"{__name__}:Repeating", output="made-{fingerprint}")
    other = str(write_messages(toy_examples(5, seed=3), tmp_path / "other.jsonl"))
    diversify(other, method=f"{__name__}:Repeating", output="made-{fingerprint}")
    assert len(list(tmp_path.glob("made-pool-*"))) == 2


def test_a_dry_run_leaves_no_pool(diversify, rows, tmp_path):
    diversify(rows, method="self_answer", dry_run=True)
    assert not list(tmp_path.glob("made*"))


def test_a_dry_run_says_the_price_and_draws_nothing(diversify, rows, asked, tmp_path):
    planned = diversify(rows, method="self_answer", n=3, dry_run=True)
    assert planned.facts["would run"][0].startswith("3 to 8 answers by ")
    assert "at most 16 tokens each" in planned.facts["would run"][0]
    assert asked == []
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("paraphrase", "10 rewrites of each instruction, at most 40 draws for each, by "),
        ("constraints", "at most 3 variants of each of 8 rows by rules alone: no pass"),
    ],
)
def test_a_dry_run_says_what_a_method_makes(diversify, rows, method, said):
    planned = diversify(rows, method=method, dry_run=True)
    assert planned.facts["would run"][0].startswith(said)


def test_nothing_kept_is_an_error_with_the_reasons(diversify, rows, monkeypatch, tmp_path):
    def answers(self, conversations, *, sampling, seeds, only=None):
        yield list(only), [Answer("It goes on and", finished=False) for _ in only]

    monkeypatch.setattr(LanguageModel, "answers", answers)
    with pytest.raises(DataError, match=r"kept nothing .* 8 answer cut off; such as 'It goes on and'"):
        diversify(rows, method="self_answer", output="a.jsonl")
    assert not (tmp_path / "a.jsonl").exists()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"method": "self_sample", "n": 0}, UsageError, "n must be at least 1, got 0"),
        ({"method": "self_sample"}, UsageError, "self_sample needs n"),
        ({"method": "self_answer"}, UsageError, "self_answer needs rows to start from"),
        ({"method": "self_answr"}, UsageError, "no method called 'self_answr'"),
        ({"method": "self_sample", "n": 2, "temperature": -1}, UsageError, "temperature must be at least 0"),
        ({"method": "self_sample", "n": 2, "model": "./nowhere"}, ModelError, "nowhere"),
        ({"method": "self_sample", "n": 2, "generator": "http://x"}, UsageError, "generator"),
        ({"method": "self_sample", "n": 2, "generator": "vllm:"}, UsageError, "names no model"),
        (
            {"method": "self_sample", "n": 2, "reading": Reading(avoid=("nowhere.jsonl",))},
            DataError,
            "nowhere.jsonl",
        ),
        (
            {"method": "self_sample", "n": 2, "generator": "openai:http://127.0.0.1:9/v1#m"},
            UsageError,
            "a server answers, but cannot invent",
        ),
    ],
)
@pytest.mark.usefixtures("asked")
def test_what_cannot_be_done_is_said(diversify, given, error, message):
    with pytest.raises(error, match=message):
        diversify(**given)


def test_rows_without_a_user_turn_are_an_error(diversify, tmp_path):
    row = {"messages": [{"role": "system", "content": "be"}, {"role": "assistant", "content": "I am"}]}
    (tmp_path / "odd.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match="user turn"):
        diversify(str(tmp_path / "odd.jsonl"), method="self_answer")


def test_a_setting_without_effect_is_refused(diversify, rows):
    with pytest.raises(UsageError, match="draws nothing: top_p would have no effect"):
        diversify(rows, method=f"{__name__}:Repeating", top_p=0.5)
    with pytest.raises(UsageError, match="no use for a generator"):
        diversify(rows, method=f"{__name__}:Repeating", generator="openai:http://127.0.0.1:9/v1#m")


@pytest.mark.usefixtures("asked")
def test_files_of_others_are_not_written_over(diversify, rows, tmp_path):
    with pytest.raises(UsageError, match="would replace its input"):
        diversify(rows, method="self_answer", output="rows.jsonl")
    (tmp_path / "notes.jsonl").write_text("mine")
    with pytest.raises(StoreError, match="is there already"):
        diversify(rows, method="self_answer", output="notes.jsonl")
    assert (tmp_path / "notes.jsonl").read_text() == "mine"


@pytest.mark.usefixtures("asked")
def test_the_command_prints_what_was_kept_and_refused(rows, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["diversify", rows, "--method", "self_answer", "--n", "20", "--model", str(tiny)]
    assert cli.call([*words, "--dtype", "float32", "--max-new-tokens", "16", "-o", "more.parquet"]) == 0
    printed = capsys.readouterr()
    assert "kept: 8\n" in printed.out
    assert "notes: asked for 20, got 8: of 8 rows, none was refused\n" in printed.out
    assert "diversify: 8 answers by" in printed.err
    assert (tmp_path / "more.parquet").is_file()


def run_until(words, folder, *, parts):
    """Start a command and kill it as soon as so many parts are stored."""
    process = at_work(words, folder, OFTEN | {"learnable.models.generation.BATCH_TOKENS": {"cpu": 600}})
    while process.is_alive() and len(list(folder.glob("runs/store/draw-*/*.parquet"))) < parts:
        time.sleep(0.002)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("kills", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_killing_it_changes_nothing_and_nothing_is_drawn_twice(tiny, tmp_path, monkeypatch, kills):
    work = tmp_path / "killed"
    work.mkdir()
    number = 60 if kills == 1 else 200
    rows = str(write_messages(toy_examples(number), tmp_path / "rows.jsonl"))
    given = {"method": "self_answer", "model": str(tiny), "loading": FLOAT, "max_new_tokens": 32}
    monkeypatch.setattr(generation, "BATCH_TOKENS", {"cpu": 600})
    verbs.diversify([rows], **given, store=str(tmp_path / "store"), output=str(tmp_path / "out.jsonl"))
    words = ["diversify", rows, "--method", "self_answer", "--model", str(tiny)]
    words += ["--dtype", "float32", "--max-new-tokens", "32", "-o", "out.jsonl"]
    hits = [run_until(words, work, parts=kill + 2) for kill in range(kills)]
    assert all(hits)
    monkeypatch.chdir(work)
    assert cli.call(words) == 0
    assert (work / "out.jsonl").read_text() == (tmp_path / "out.jsonl").read_text()
    drawn = pl.concat(pl.read_parquet(part) for part in work.glob("runs/store/draw-*/*.parquet"))
    assert (drawn.height, drawn["id"].n_unique()) == (number, number)
