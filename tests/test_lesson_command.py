"""``learnable report`` of a lesson, and what the command line shows of one."""

import json
import re
import shutil

import pytest

from finished_steps import finished_step
from learnable.cli import printing
from learnable.commands import load, report
from learnable.runs.outputs import recorded
from test_lesson_report import ARMS, LOSS, QUESTIONS, usual
from test_reporting import Page


@pytest.fixture(scope="module")
def made_lesson(tmp_path_factory):
    """Write the folder of a lesson, as `learnable teach` does."""
    tmp_path, facts = tmp_path_factory.mktemp("made"), usual()
    lines = [json.dumps({"messages": [dict(turn) for turn in facts.example["seen"]]})]
    (tmp_path / "task.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    pool = load([str(tmp_path / "task.jsonl")], output=str(tmp_path / "pool"))
    sampled = {"method": "self_sample", "written by": "starter", "kept": 80}
    buffer = finished_step("diversify", tmp_path / "buffer", facts=sampled, tokens=9_000)
    links = {"pool": pool.folder, "buffer": buffer.folder, "facts": pool.folder}

    def write(folder):
        for name in ("table", "results", "arms", "concepts", "samples", "buffering", "wordings"):
            getattr(facts, name).write_parquet(folder / f"{name}.parquet")
        (folder / "seen_wording.jsonl").write_text(lines[0] + "\n", encoding="utf-8")

    known = {
        "model": "tiny",
        "task": 20,
        "tests": 40,
        "buffer": 80,
        "arms": list(ARMS),
        "baseline": "common",
        "evaluations": [each.label for each in QUESTIONS],
        "seeds": 3,
        "confidence": 0.95,
        "tokens": ["<sep>"],
        "diversity": facts.diversity,
        "kept model": "delia",
        "tuning": {"method": "lora", "seed": 0},
        "notes": ["something was not asked"],
        "inits": dict.fromkeys(ARMS, "random"),
    }
    depends = {"inputs": {"task": pool.identity}, "links": links}
    return finished_step("teach", tmp_path / "lesson", facts=known, write=write, **depends)


@pytest.fixture(scope="module")
def reported(made_lesson, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reported") / "report"
    outcome = report(made_lesson.path, output=str(folder))
    return outcome, Page((folder / "report.html").read_text("utf-8"))


def test_report_takes_a_lesson(reported) -> None:
    outcome, page = reported
    assert "delia against common on 2 evaluations in unseen wordings: 2 better" in page.plain
    assert "Something was not asked." in outcome.facts["warnings"]


def test_evaluations_are_told_apart_by_how_they_ask(reported) -> None:
    _, page = reported
    assert "Values on format (share correct, higher is better)" in page.tables
    assert f"Values on {LOSS} on general rows (nats per token, lower is better)" in page.tables


def test_ways_to_train_are_said_in_words(reported) -> None:
    _, page = reported
    assert "the task in many wordings and the buffer, one shuffle" in page.plain
    assert "<sep> begins as a random row." in page.plain


def test_what_made_the_buffer_is_read_from_its_step(reported) -> None:
    _, page = reported
    (rows,) = (rows for caption, rows in page.tables.items() if caption.startswith("What the material"))
    assert [row[:3] for row in rows[1:]] == [["buffer", "self_sample, starter: 80 kept", "9,000"]]


def test_a_row_that_was_asked_is_shown(reported) -> None:
    _, page = reported
    assert re.search(
        r"In the wording of the task ?Question ?Is it so\? Answer in <sep>\. Answer ?yes", page.plain
    )


def test_tables_that_are_not_there_or_empty_leave_their_sections_out(made_lesson, tmp_path) -> None:
    poor = shutil.copytree(made_lesson.folder, tmp_path / "made" / "lesson")
    for name in ("concepts", "buffering"):
        (poor / f"{name}.parquet").unlink()
    for name in ("samples", "wordings"):
        usual().samples.clear().write_parquet(poor / f"{name}.parquet")
    record = json.loads((poor / "step.json").read_text())
    record["outputs"] = recorded(poor, leave_out=["step.json", "begun.json"])
    (poor / "step.json").write_text(json.dumps(record))
    for folder in set(made_lesson.links.values()):
        shutil.copytree(folder, tmp_path / "made" / folder.name)
    report(str(poor), output=str(tmp_path / "report"))
    page = Page((tmp_path / "report" / "report.html").read_text("utf-8"))
    assert {name for name in page.chart_data["charts"] if not name.startswith("values")} == set()


def test_a_lesson_is_shown_as_a_table_for_each_evaluation(made_lesson, capsys) -> None:
    printing.show(made_lesson)
    shown = capsys.readouterr().out
    assert f"{QUESTIONS[0].label} (share correct, higher is better, 40 items)" in shown
    assert "15 trainings, 3 of each arm" in shown
    assert "note: something was not asked" in shown
    assert f"model: {made_lesson.folder / 'model'} (delia, seed 0)" in shown


def test_a_run_with_a_lesson_shows_its_table_warnings_and_page(made_lesson, reported, capsys) -> None:
    outcome, _ = reported
    printing.show({"lesson": made_lesson, "report": outcome})
    shown = capsys.readouterr().out
    assert "note: " not in shown
    assert "warning: Something was not asked." in shown
    assert f"report: {outcome.facts['report']}" in shown
