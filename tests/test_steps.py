"""A step is done once: its record tells what was done, and a folder never holds two results."""

import json
import time
from pathlib import Path

import pytest

from learnable.errors import DiskError, StoreError
from learnable.runs import outputs
from learnable.runs import step as steps
from learnable.runs.step import Step, peak_memory_bytes, read_json, read_outcome, waiting_lock

STEP = Step(verb="score", parameters={"max_length": 64, "scorers": ("loss",)}, inputs={"pool": "p1"})


def finish(step, folder, **given):
    step.begin(folder)
    return step.finish(folder, **({"facts": {"examples": 3}, "started": time.monotonic()} | given))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "out"


def interrupted(folder):
    """Leave the folder as a run does that was killed with part of its work done."""
    STEP.begin(folder)
    (folder / "half.parquet").touch()


def test_folder_of_a_command_that_failed_before_it_wrote_anything_is_free(folder):
    STEP.begin(folder)
    assert Step(verb="select", parameters={}).begin(folder) is None


def test_new_folder_is_claimed_before_work_starts(folder):
    assert STEP.begin(folder) is None
    assert {path.name for path in folder.iterdir()} == {"begun.json", "run.lock"}


def test_empty_folder_can_be_claimed(folder):
    folder.mkdir()
    assert STEP.begin(folder) is None


def test_folder_of_a_run_killed_at_its_very_start_can_be_claimed(folder):
    folder.mkdir()
    (folder / "begun.json.1a2b3c4d.part").touch()
    assert STEP.begin(folder) is None


def test_interrupted_step_goes_on_in_its_folder(folder):
    STEP.begin(folder)
    (folder / "half.parquet").touch()
    assert STEP.begin(folder) is None


def test_interrupted_step_keeps_what_is_in_its_folder(folder):
    STEP.begin(folder)
    (folder / "half.parquet").touch()
    STEP.begin(folder)
    assert (folder / "half.parquet").exists()


def test_finished_step_is_not_run_again(folder):
    finish(STEP, folder)
    assert STEP.begin(folder).ran is False


def test_finished_step_is_remembered_whole(folder):
    done = finish(STEP, folder, links={"pool": folder.parent / "pool"}, tokens=7, passes=0.5)
    again = STEP.begin(folder)
    assert (again.verb, again.folder, again.identity, again.facts, again.links, again.cost) == (
        "score",
        folder,
        STEP.identity,
        {"examples": 3},
        {"pool": folder.parent / "pool"},
        done.cost,
    )


def test_finished_step_ran(folder):
    assert finish(STEP, folder).ran is True


def test_cost_counts_the_seconds_since_the_start(folder):
    assert finish(STEP, folder, started=time.monotonic() - 100).cost.seconds == pytest.approx(100, abs=5)


def test_cost_counts_tokens_and_passes(folder):
    cost = finish(STEP, folder, tokens=7, passes=0.5).cost
    assert (cost.tokens, cost.passes) == (7, 0.5)


def test_peak_memory_is_in_bytes():
    assert 10 * 2**20 < peak_memory_bytes() < 100 * 2**30


def test_links_hold_after_the_runs_are_moved(tmp_path):
    finish(STEP, tmp_path / "runs" / "scores", links={"pool": tmp_path / "runs" / "pool"})
    (tmp_path / "runs").rename(tmp_path / "moved")
    assert read_outcome(tmp_path / "moved" / "scores").links == {"pool": tmp_path / "moved" / "pool"}


def test_outcome_can_be_used_as_a_path(folder):
    assert Path(finish(STEP, folder)) == folder


def test_identity_can_be_that_of_the_content(folder):
    finish(STEP, folder, identity="content")
    assert read_outcome(folder).identity == "content"


@pytest.mark.parametrize(
    "other",
    [
        Step(verb="select", parameters=STEP.parameters, inputs=STEP.inputs),
        Step(verb="score", parameters={**STEP.parameters, "max_length": 65}, inputs=STEP.inputs),
        Step(verb="score", parameters=STEP.parameters, inputs={"pool": "p2"}),
        Step(verb="score", parameters=STEP.parameters),
    ],
    ids=["verb", "parameter", "input", "no input"],
)
def test_identity_depends_on(other):
    assert other.identity != STEP.identity


def test_identity_depends_on_the_format(monkeypatch):
    before = STEP.identity
    monkeypatch.setattr(steps, "FORMAT", steps.FORMAT + 1)
    assert STEP.identity != before


@pytest.mark.parametrize("ended", [True, False], ids=["finished", "interrupted"])
@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            Step(verb="select", parameters=STEP.parameters, inputs=STEP.inputs),
            "holds the result of `learnable score`",
        ),
        (
            Step(verb="score", parameters={**STEP.parameters, "max_length": 65}, inputs=STEP.inputs),
            "max_length was 64, now 65",
        ),
        (
            Step(verb="score", parameters={**STEP.parameters, "seed": 1}, inputs=STEP.inputs),
            "seed was None, now 1",
        ),
        (
            Step(verb="score", parameters={"max_length": 64}, inputs=STEP.inputs),
            r"scorers was \['loss'\], now None",
        ),
        (Step(verb="score", parameters=STEP.parameters, inputs={"pool": "p2"}), "pool was 'p1', now 'p2'"),
    ],
    ids=["verb", "changed", "added", "left out", "input"],
)
def test_folder_of_another_step_is_refused_with_what_differs(folder, other, said, ended):
    if ended:
        finish(STEP, folder)
    else:
        interrupted(folder)
    with pytest.raises(StoreError, match=said):
        other.begin(folder)


def test_refused_folder_is_left_as_it_is(folder):
    finish(STEP, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(StoreError):
        Step(verb="select", parameters={}).begin(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("ended", [True, False], ids=["finished", "interrupted"])
def test_result_in_an_older_form_is_refused(folder, monkeypatch, ended):
    if ended:
        finish(STEP, folder)
    else:
        interrupted(folder)
    monkeypatch.setattr(steps, "FORMAT", steps.FORMAT + 1)
    with pytest.raises(StoreError, match="another version of learnable: its format was 1, now 2"):
        STEP.begin(folder)


@pytest.mark.parametrize("ended", [True, False], ids=["finished", "interrupted"])
def test_record_tells_the_form_it_was_written_in(folder, monkeypatch, ended):
    monkeypatch.setattr(steps, "FORMAT", steps.FORMAT + 1)
    if ended:
        finish(STEP, folder)
    else:
        STEP.begin(folder)
    assert (STEP.begin(folder) is not None) == ended


def test_folder_with_the_users_files_is_refused(folder):
    folder.mkdir()
    (folder / "thesis.tex").touch()
    with pytest.raises(StoreError, match="holds something else"):
        STEP.begin(folder)


def test_file_in_the_place_of_the_folder_is_refused(folder):
    folder.touch()
    with pytest.raises(StoreError, match="holds something else"):
        STEP.begin(folder)


def test_folder_that_cannot_be_made_is_a_disk_error(folder):
    folder.touch()
    with pytest.raises(DiskError, match="cannot write"):
        STEP.begin(folder / "below")


def test_fingerprint_in_the_output_name_is_filled_in():
    assert STEP.folder("runs/score-{fingerprint}") == Path(f"runs/score-{STEP.identity[:8]}")


def test_output_name_without_fingerprint_is_taken_as_it_is():
    assert STEP.folder("scores") == Path("scores")


def test_output_may_be_a_path(tmp_path):
    assert STEP.folder(tmp_path / "{fingerprint}") == tmp_path / STEP.identity[:8]


def test_reading_an_interrupted_step_says_to_run_again(folder):
    STEP.begin(folder)
    with pytest.raises(StoreError, match="was not finished: run the same command again"):
        read_outcome(folder)


def test_reading_a_folder_of_something_else_says_so(tmp_path):
    with pytest.raises(StoreError, match="holds no result of learnable"):
        read_outcome(tmp_path)


@pytest.mark.parametrize(
    "record", [{"name": "theirs"}, {"verb": "score", "identity": "x", "facts": {}, "links": [], "cost": {}}]
)
def test_reading_a_record_of_something_else_says_so(tmp_path, record):
    (tmp_path / "step.json").write_text(json.dumps(record))
    with pytest.raises(StoreError, match="not a record of this learnable"):
        read_outcome(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[1]", b"3"])
def test_damaged_record_is_named(tmp_path, content):
    (tmp_path / "step.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"step\.json"):
        read_json(tmp_path / "step.json")


# What a step costs that was killed and goes on.


def killed_after(folder, *, tokens, seconds, monkeypatch):
    """Begin a step, let it compute for a while, and leave it as a kill does."""
    now = time.monotonic()
    step = Step(verb=STEP.verb, parameters=STEP.parameters, inputs=STEP.inputs)
    with monkeypatch.context() as patched:
        patched.setattr(time, "monotonic", lambda: now)
        assert step.begin(folder) is None
        patched.setattr(time, "monotonic", lambda: now + seconds)
        steps.note(tokens)


def test_cost_counts_all_attempts(folder, monkeypatch):
    killed_after(folder, tokens=100, seconds=50, monkeypatch=monkeypatch)
    killed_after(folder, tokens=30, seconds=20, monkeypatch=monkeypatch)
    cost = finish(STEP, folder, tokens=70, pool_tokens=400).cost
    assert (cost.tokens, cost.passes) == (200, 0.5)
    assert cost.seconds == pytest.approx(70, abs=5)
    assert read_outcome(folder).cost == cost


def test_a_step_that_goes_on_with_nothing_left_to_compute_cost_what_it_cost(folder, monkeypatch):
    killed_after(folder, tokens=100, seconds=50, monkeypatch=monkeypatch)
    cost = finish(STEP, folder, tokens=0, pool_tokens=100).cost
    assert (cost.tokens, cost.passes) == (100, 1.0)


def test_another_step_does_not_inherit_the_cost_whose_place_it_takes(folder, monkeypatch):
    killed_after(folder, tokens=100, seconds=50, monkeypatch=monkeypatch)
    assert finish(Step(verb="select", parameters={}), folder).cost.tokens == 0


def test_a_step_within_another_counts_for_both(tmp_path, monkeypatch):
    outer = Step(verb="compare", parameters={})
    outer.begin(tmp_path / "outer")
    killed_after(tmp_path / "inner", tokens=40, seconds=10, monkeypatch=monkeypatch)
    inner = finish(
        Step(verb="score", parameters=STEP.parameters, inputs=STEP.inputs), tmp_path / "inner", tokens=60
    )
    assert inner.cost.tokens == 100
    del outer  # killed
    outer = Step(verb="compare", parameters={})
    assert finish(outer, tmp_path / "outer", tokens=5).cost.tokens == 105


def test_a_step_that_failed_lets_others_in_and_is_not_charged_for_them(tmp_path):
    failed = Step(verb="score", parameters={"a": 1})
    failed.begin(tmp_path / "failed")
    del failed
    finish(Step(verb="score", parameters={"b": 1}), tmp_path / "other", tokens=1_000)
    again = Step(verb="score", parameters={"a": 1})
    assert finish(again, tmp_path / "failed", tokens=3).cost.tokens == 3


def test_seconds_known_from_elsewhere_count(folder):
    assert finish(STEP, folder, at_least_s=1e4).cost.seconds == 1e4


def with_outputs(folder):
    """Leave a finished step with outputs in its folder and in two parts of it."""
    STEP.begin(folder)
    for name in ("a.txt", "b.txt", "part-0/weights", "part-1/weights", "part-1/settings"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"content of {name}")
    STEP.finish(folder, facts={}, started=time.monotonic())
    return folder


def seen(folder):
    """Return all that a write would change, times of folders included."""
    return {str(path): path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_second_run_writes_nothing(folder):
    with_outputs(folder)
    before = seen(folder)
    assert STEP.begin(folder, links={}).ran is False
    assert seen(folder) == before


def test_a_finished_step_leaves_no_lock(folder):
    assert files(with_outputs(folder)) >= {"begun.json", "step.json", "a.txt"}
    assert "run.lock" not in files(folder)


def test_a_lock_that_was_waited_for_leaves_nothing(tmp_path):
    with waiting_lock(tmp_path / "x.lock"):
        assert files(tmp_path) == {"x.lock"}
    assert files(tmp_path) == set()


@pytest.mark.parametrize(
    ("removed", "left"),
    [
        ("a.txt", {"part-0/weights", "part-1/weights", "part-1/settings"}),
        ("part-1/weights", {"a.txt", "b.txt", "part-0/weights"}),
    ],
)
def test_a_removed_output_is_made_again_with_what_stands_beside_it(folder, capsys, removed, left):
    (with_outputs(folder) / removed).unlink()
    assert STEP.is_done(folder) is False
    assert STEP.begin(folder) is None
    assert f"{removed} is missing, and is made again" in capsys.readouterr().err
    assert files(folder) == left | {"begun.json", "run.lock"}


@pytest.mark.parametrize("content", ["", "content of A.txt", "content of a.txt and more"])
def test_a_changed_output_is_made_again_and_the_change_is_kept(folder, capsys, content):
    (with_outputs(folder) / "a.txt").write_text(content)
    assert STEP.begin(folder) is None
    assert "a.txt has changed, and is made again" in capsys.readouterr().err
    assert not (folder / "a.txt").exists()
    assert (folder / "changed" / "a.txt").read_text() == content
    assert STEP.finish(folder, facts={}, started=0).ran
    assert STEP.begin(folder).ran is False


def test_what_others_put_beside_the_outputs_stays(folder):
    (with_outputs(folder) / "recipe.yaml").touch()
    (folder / "a.txt").unlink()
    STEP.begin(folder)
    assert (folder / "recipe.yaml").exists()


def test_a_copy_with_other_times_is_whole(folder):
    (with_outputs(folder) / "a.txt").write_text("content of a.txt")
    assert STEP.begin(folder).ran is False


def test_outputs_are_not_read_again_while_size_and_time_hold(folder, monkeypatch):
    with_outputs(folder)
    monkeypatch.setattr(outputs, "file_digest", lambda path: pytest.fail(f"read {path}"))
    assert STEP.begin(folder).ran is False


def test_a_change_at_either_end_of_a_large_output_is_found_without_reading_all_of_it(folder, monkeypatch):
    monkeypatch.setattr(outputs, "WHOLE_BYTES", 128)
    monkeypatch.setattr(outputs, "file_digest", lambda path: pytest.fail(f"read {path}"))
    STEP.begin(folder)
    content = bytearray(100_000)
    (folder / "large").write_bytes(content)
    STEP.finish(folder, facts={}, started=0)
    (folder / "large").write_bytes(content)
    assert STEP.is_done(folder)
    for place in (0, -1):
        changed = content.copy()
        changed[place] = 1
        (folder / "large").write_bytes(changed)
        assert not STEP.is_done(folder)


def test_a_step_whose_record_is_damaged_is_made_again(folder, capsys):
    (with_outputs(folder) / "step.json").write_text("")
    assert STEP.begin(folder) is None
    assert "step.json is damaged" in capsys.readouterr().err
    assert STEP.finish(folder, facts={}, started=0).ran
    assert STEP.begin(folder).ran is False


def test_a_record_of_before_outputs_were_recorded_is_taken_as_it_is(folder):
    record = read_json(with_outputs(folder) / "step.json")
    del record["outputs"]
    (folder / "step.json").write_text(json.dumps(record))
    (folder / "a.txt").unlink()
    assert STEP.begin(folder).ran is False


def test_a_step_whose_input_is_not_whole_any_more_does_not_start(folder, tmp_path):
    (with_outputs(folder) / "a.txt").unlink()
    with pytest.raises(StoreError, match=r"a\.txt is missing since `learnable score` wrote it") as caught:
        Step(verb="select", parameters={}).begin(tmp_path / "next", links={"scores": folder})
    assert "run that command again" in caught.value.hint
    assert not (tmp_path / "next").exists()


def test_inputs_that_were_moved_are_found_where_that_cannot_be_noted(folder, tmp_path, monkeypatch, capsys):
    finish(STEP, folder, links={"pool": tmp_path / "pool"})

    def refused(path, value):
        raise DiskError(f"cannot write {path}: Read-only file system")

    monkeypatch.setattr(steps, "write_json", refused)
    assert STEP.begin(folder, links={"pool": tmp_path / "moved"}).links == {"pool": tmp_path / "moved"}
    assert "Read-only file system" in capsys.readouterr().err
