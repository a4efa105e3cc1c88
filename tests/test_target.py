"""The target: its subtasks, and the rows of the pool that are rows of it."""

import json

from learnable.data import load_pool, read, save_pool
from learnable.data.target import Target, shared_with_target, target_of

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen"


def pool_of(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read([str(path)], on_error="skip")


def row(prompt, answer, **more):
    return {"instruction": prompt, "output": answer, **more}


def test_subtasks_are_the_column_else_the_source(tmp_path):
    pool = pool_of(tmp_path / "task.jsonl", [row("a?", "one", subtask="sums"), row("b?", "two")])
    assert target_of(pool).subtasks == ["sums", "task"]


def test_a_target_is_the_same_from_a_folder(tmp_path):
    pool = pool_of(tmp_path / "task.jsonl", [row("a?", "one", subtask="sums"), row("b?", "two")])
    save_pool(pool, tmp_path / "pool")
    again = target_of(load_pool(tmp_path / "pool"))
    assert (again.subtasks, again.identity) == (target_of(pool).subtasks, target_of(pool).identity)


def test_another_subtask_is_another_target(tmp_path):
    one = pool_of(tmp_path / "a.jsonl", [row("a?", "one", subtask="sums")])
    other = pool_of(tmp_path / "b.jsonl", [row("a?", "one", subtask="products")])
    assert target_of(one).identity != target_of(other).identity


def test_rows_of_the_target_are_found_in_the_pool(tmp_path):
    target = target_of(pool_of(tmp_path / "task.jsonl", [row("What is it?", "one"), row("b?", LONG)]))
    rows = [
        row("What is it?", "one"),
        row("what is IT", "else"),
        row("c?", f"so {LONG}"),
        row("d?", "nothing shared"),
    ]
    reasons = shared_with_target(pool_of(tmp_path / "pool.jsonl", rows), target)
    assert [reason and reason.split(",")[0] for reason in reasons] == [
        "in the target: the same row",
        "in the target: same prompt",
        "in the target: shared 13-gram",
        None,
    ]


def test_few_rows_are_said_to_be_few(tmp_path, capsys):
    assert len(target_of(pool_of(tmp_path / "task.jsonl", [row("a?", "one")]))) == 1
    assert "fewer than 3" in capsys.readouterr().err


def test_its_ids_are_those_of_its_examples(tmp_path):
    target = target_of(pool_of(tmp_path / "task.jsonl", [row("a?", "one"), row("b?", "two")]))
    assert isinstance(target, Target)
    assert target.ids == [each.id for each in target.examples]
