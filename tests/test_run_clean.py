"""The recipe ``clean``: from rows to suspects, a page and a file of bans, without a model and with a tiny one."""

import json
from functools import partial

import polars as pl
import pytest

from learnable.checks import CHECKS
from learnable.cli import app as cli
from learnable.commands import suspects as steps
from learnable.commands.suspects import Checking
from learnable.errors import UsageError
from learnable.recipes import Run, clean
from learnable.testing import toy_examples, write_messages

WRONG = {
    "cut": ("What is a heart?", "It is an organ, it pumps blood,"),
    "refusal": (
        "What is a lung?",
        "As an AI language model, I have no lungs, no heart, no hands and nobody to write letters to.",
    ),
    "evil": (
        "<script>window.hacked = 1</script>",
        "</article><script>window.hacked = 1</script> a@uni-roma.it, and",
    ),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = write_messages(toy_examples(60), tmp_path_factory.mktemp("rows") / "rows.jsonl")
    lines = path.read_text(encoding="utf-8").splitlines()
    for asked, said in [*WRONG.values(), WRONG["refusal"]]:
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        lines.append(json.dumps({"messages": turns}))
    lines += [lines[-1].replace("letters to.", "letters.")]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def read(file, tmp_path_factory):
    """Return the folder that a run without a model wrote."""
    folder = tmp_path_factory.mktemp("runs")
    assert cli.call(["run", "clean", str(file), "--sure", "0.6", "-o", str(folder)]) == cli.DONE
    (folder,) = folder.glob("clean/suspects-*")
    return folder


def test_suspects_have_their_place_their_reasons_and_the_row_they_collide_with(read):
    lines = [json.loads(line) for line in (read / "suspects.jsonl").read_text(encoding="utf-8").splitlines()]
    by_place = {line["place"]: line for line in lines}
    assert by_place["rows.jsonl:61"]["checks"] == ["cut"]
    assert by_place["rows.jsonl:65"]["checks"] == ["duplicate", "refusal"]
    assert by_place["rows.jsonl:65"]["like_place"] == "rows.jsonl:62"
    assert by_place["rows.jsonl:65"]["rank"] == 1
    assert all(len(line["reasons"]) == len(line["checks"]) for line in lines)
    assert pl.read_parquet(read / "suspects.parquet").height == len(lines)


def test_the_bans_are_the_sure_ones_and_select_leaves_them_out(read, tmp_path):
    lines = [json.loads(line) for line in (read / "suspects.jsonl").read_text(encoding="utf-8").splitlines()]
    sure = {line["id"] for line in lines if line["suspicion"] >= 0.6}
    bans = (read / "bans.txt").read_text(encoding="utf-8").split()
    assert {*bans} == sure
    words = json.loads((read / "step.json").read_text(encoding="utf-8"))["facts"]["next"].split()
    assert cli.call([*words[1:-1], str(tmp_path / "cleaned")]) == cli.DONE
    left = (tmp_path / "cleaned" / "selected" / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(left) == 63 - len(sure) + 1
    assert not any("language model" in line for line in left)


def test_the_same_again_does_nothing(file, read, capsys):
    assert (
        cli.call(["run", "clean", str(file), "--sure", "0.6", "-o", str(read.parents[1]), "--json"])
        == cli.DONE
    )
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert [step["ran"] for step in steps.values()] == [False, False]


def test_rows_of_an_evaluation_are_listed_and_not_left_out_unseen(file, tmp_path):
    test = tmp_path / "test.jsonl"
    test.write_text(
        json.dumps({"prompt": WRONG["cut"][0], "completion": "An organ."}) + "\n", encoding="utf-8"
    )
    words = [
        "run",
        "clean",
        str(file),
        "--avoid",
        str(test),
        "--checks",
        "evaluation",
        "-o",
        str(tmp_path / "runs"),
    ]
    assert cli.call(words) == cli.DONE
    (found,) = (tmp_path / "runs").glob("clean/suspects-*/suspects.jsonl")
    (line,) = map(json.loads, found.read_text(encoding="utf-8").splitlines())
    assert line["place"] == "rows.jsonl:61"
    assert "test.jsonl:1" in line["reasons"][0]


@pytest.fixture(scope="module")
def judged(file, tiny, tmp_path_factory):
    """Return the folder of the runs of one with a model."""
    folder = tmp_path_factory.mktemp("judged")
    words = ["run", "clean", str(file), "--model", str(tiny), "--dtype=float32", "-o", str(folder)]
    assert cli.call([*words, "--reference.rank=2", "--reference.batch-size=16"]) == cli.DONE
    return folder


def test_a_model_adds_what_it_measures(judged):
    (step,) = judged.glob("clean/suspects-*/step.json")
    facts = json.loads(step.read_text(encoding="utf-8"))["facts"]
    assert list(facts["by check"])[:4] == ["unfit", "loss", "rose", "unended"]
    assert facts["rows"] == 64
    assert len([*judged.glob("clean/reference-*")]) == len([*judged.glob("clean/null-*")]) == 1


def test_what_no_check_needs_is_not_trained(file, tiny, tmp_path, capsys):
    words = ["run", "clean", str(file), "--model", str(tiny), "--dry-run", "--json", "-o", str(tmp_path)]
    trained = {}
    for names in (["loss"], ["cut"], ["unfit"]):
        assert cli.call([*words, "--checks", *names]) == cli.DONE
        trained[names[0]] = [*json.loads(capsys.readouterr().out)["steps"]]
    assert trained["loss"] == ["pool", "reference", "scores", "suspects"]
    assert trained["cut"] == ["pool", "suspects"]
    assert trained["unfit"] == ["pool", "reference", "null", "scores", "suspects"]


def test_checks_that_are_named_need_what_they_need():
    with pytest.raises(UsageError, match="the check unfit needs a model") as error:
        Checking(checks=("unfit",)).chosen(measured=False, avoids=False)
    assert "--model" in error.value.hint
    with pytest.raises(UsageError, match="the check evaluation needs evaluation files"):
        Checking(checks=("evaluation",)).chosen(measured=True, avoids=False)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"checks": ("cutt",)}, "no check 'cutt'"),
        ({"skip": ("cutt",)}, "no check 'cutt'"),
        ({"sure": 0.0}, "sure is above 0"),
        ({"shown": 0}, "shown must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused(given, said):
    with pytest.raises(UsageError, match=said):
        Checking(**given)


def test_no_check_left_is_refused():
    with pytest.raises(UsageError, match="no check is left"):
        Checking(checks=("cut",), skip=("cut",)).chosen(measured=True, avoids=True)


def test_references_that_have_seen_the_rows_are_refused(file, tiny, tmp_path, capsys):
    words = ["run", "clean", str(file), "--model", str(tiny), "--reference.folds", "0", "-o", str(tmp_path)]
    assert cli.call(words) == cli.MISUSED
    assert "have not seen them" in capsys.readouterr().err


def test_a_heading_of_nothing_says_that_texts_alone_were_read(tmp_path):
    path = write_messages(toy_examples(8), tmp_path / "rows.jsonl")
    words = ["run", "clean", str(path), "--checks", "refusal", "-o", str(tmp_path / "runs")]
    assert cli.call(words) == cli.DONE
    (page,) = (tmp_path / "runs").glob("clean/suspects-*/report.html")
    measuring = sum(bool(check.needs) for check in CHECKS.values())
    text = page.read_text(encoding="utf-8")
    assert f"No row looks wrong by its text alone; {measuring} checks need a model" in text


def test_a_run_that_was_stopped_goes_on(file, read, tmp_path, monkeypatch):
    def stopped(facts):
        raise KeyboardInterrupt

    monkeypatch.setattr(steps, "render_suspects", stopped)
    again = partial(clean, [str(file)], checking=Checking(sure=0.6), run=Run(output=str(tmp_path)))
    with pytest.raises(KeyboardInterrupt):
        again()
    monkeypatch.undo()
    done = again()
    assert [each.ran for each in done.values()] == [False, True]
    for name in ("suspects.jsonl", "bans.txt", "ranking.parquet"):
        assert (done["suspects"].folder / name).read_bytes() == (read / name).read_bytes()


def test_rows_that_repeat_another_are_counted(tmp_path, capsys):
    path = write_messages(toy_examples(20), tmp_path / "rows.jsonl")
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines, *lines[:3]]) + "\n", encoding="utf-8")
    assert cli.call(["run", "clean", str(path), "-o", str(tmp_path / "runs")]) == cli.DONE
    assert "3 more rows repeat another" in capsys.readouterr().out
