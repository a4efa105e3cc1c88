"""A step is done once: its record tells what was done, and a folder never holds two results."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from learnable.errors import DiskError, StoreError
from learnable.runs import outputs
from learnable.runs import step as steps
from learnable.runs.locks import locked
from learnable.runs.price import Price, peak_memory_bytes
from learnable.runs.records import read_json, read_outcome
from learnable.runs.step import Finished, Step, run


class Killed(BaseException):
    """Ends the work of a step on its way, as a kill does."""


def killed(folder, *, half=False):
    """Do a part of a step's work, or nothing, and die."""
    if half:
        (folder / "half.parquet").touch()
    raise Killed


STEP = Step(
    verb="score",
    parameters={"max_length": 64, "scorers": ("loss",)},
    inputs={"pool": "p1"},
    work=lambda folder: Finished(facts={"examples": 3}),
)
SELECT = Step(verb="select", parameters={}, work=lambda folder: Finished(facts={}))


def finish(step, folder, *, links=None, **done):
    """Do a step, and say so."""

    def work(folder):
        return Finished(**({"facts": {"examples": 3}} | done))

    return run(replace(step, links=links or {}, work=work), folder)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "out"


def interrupted(folder, *, half=True):
    """Leave the folder as a run does that was killed with part of its work done, or with nothing."""
    with pytest.raises(Killed):
        run(replace(STEP, work=lambda folder: killed(folder, half=half)), folder)


def test_folder_of_a_command_that_failed_before_it_wrote_anything_is_free(folder):
    interrupted(folder, half=False)
    assert run(SELECT, folder).ran


def test_new_folder_is_claimed_before_work_starts(folder):
    claimed = set()

    def work(folder):
        claimed.update(path.name for path in folder.iterdir())
        return Finished(facts={})

    run(replace(STEP, work=work), folder)
    assert claimed == {"begun.json", "run.lock"}


def test_empty_folder_can_be_claimed(folder):
    folder.mkdir()
    assert run(STEP, folder).ran


def test_folder_of_a_run_killed_at_its_very_start_can_be_claimed(folder):
    folder.mkdir()
    (folder / "begun.json.1a2b3c4d.part").touch()
    assert run(STEP, folder).ran


def test_a_folder_that_another_run_works_in_is_refused(folder):
    def work(folder):
        with pytest.raises(StoreError, match="another run is at work"):
            run(STEP, folder)
        return Finished(facts={})

    assert run(replace(STEP, work=work), folder).ran


def test_interrupted_step_goes_on_with_what_is_in_its_folder(folder):
    interrupted(folder)
    found = []

    def work(folder):
        return found.append((folder / "half.parquet").exists()) or Finished(facts={})

    assert run(replace(STEP, work=work), folder).ran
    assert found == [True]


def test_finished_step_is_not_run_again(folder):
    finish(STEP, folder)
    assert run(replace(STEP, work=killed), folder).ran is False


def test_finished_step_is_remembered_whole(folder):
    done = finish(STEP, folder, links={"pool": folder.parent / "pool"}, tokens=7, passes=0.5)
    again = run(replace(STEP, links={"pool": folder.parent / "pool"}), folder)
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
        replace(STEP, verb="select"),
        replace(STEP, parameters={**STEP.parameters, "max_length": 65}),
        replace(STEP, inputs={"pool": "p2"}),
        replace(STEP, inputs={}),
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
            replace(STEP, verb="select"),
            "holds the result of `learnable score`",
        ),
        (
            replace(STEP, parameters={**STEP.parameters, "max_length": 65}),
            "max_length was 64, now 65",
        ),
        (
            replace(STEP, parameters={**STEP.parameters, "seed": 1}),
            "seed was None, now 1",
        ),
        (
            replace(STEP, parameters={"max_length": 64}),
            r"scorers was \['loss'\], now None",
        ),
        (replace(STEP, inputs={"pool": "p2"}), "pool was 'p1', now 'p2'"),
    ],
    ids=["verb", "changed", "added", "left out", "input"],
)
def test_folder_of_another_step_is_refused_with_what_differs(folder, other, said, ended):
    if ended:
        finish(STEP, folder)
    else:
        interrupted(folder)
    with pytest.raises(StoreError, match=said):
        run(other, folder)


def test_refused_folder_is_left_as_it_is(folder):
    finish(STEP, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(StoreError):
        run(SELECT, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("ended", [True, False], ids=["finished", "interrupted"])
def test_result_in_an_older_form_is_refused(folder, monkeypatch, ended):
    if ended:
        finish(STEP, folder)
    else:
        interrupted(folder)
    monkeypatch.setattr(steps, "FORMAT", steps.FORMAT + 1)
    with pytest.raises(StoreError, match="another version of learnable: its format was 1, now 2"):
        run(STEP, folder)


@pytest.mark.parametrize("ended", [True, False], ids=["finished", "interrupted"])
def test_record_tells_the_form_it_was_written_in(folder, monkeypatch, ended):
    monkeypatch.setattr(steps, "FORMAT", steps.FORMAT + 1)
    if ended:
        finish(STEP, folder)
    else:
        interrupted(folder)
    assert run(STEP, folder).ran is not ended


def test_folder_with_the_users_files_is_refused(folder):
    folder.mkdir()
    (folder / "thesis.tex").touch()
    with pytest.raises(StoreError, match="holds something else"):
        run(STEP, folder)


def test_file_in_the_place_of_the_folder_is_refused(folder):
    folder.touch()
    with pytest.raises(StoreError, match="holds something else"):
        run(STEP, folder)


def test_folder_that_cannot_be_made_is_a_disk_error(folder):
    folder.touch()
    with pytest.raises(DiskError, match="cannot write"):
        run(STEP, folder / "below")


def test_fingerprint_in_the_output_name_is_filled_in():
    assert STEP.folder("runs/score-{fingerprint}") == Path(f"runs/score-{STEP.identity[:8]}")


def test_output_name_without_fingerprint_is_taken_as_it_is():
    assert STEP.folder("scores") == Path("scores")


def test_output_may_be_a_path(tmp_path):
    assert STEP.folder(tmp_path / "{fingerprint}") == tmp_path / STEP.identity[:8]


def test_reading_an_interrupted_step_says_to_run_again(folder):
    interrupted(folder)
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
    now = [time.monotonic()]

    def work(folder):
        now[0] += seconds
        steps.note(tokens)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(time, "monotonic", lambda: now[0])
        with pytest.raises(Killed):
            run(replace(STEP, work=work), folder)


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
    assert finish(SELECT, folder).cost.tokens == 0


def test_a_step_within_another_counts_for_both(tmp_path, monkeypatch):
    def work(folder):
        killed_after(tmp_path / "inner", tokens=40, seconds=10, monkeypatch=monkeypatch)
        assert finish(STEP, tmp_path / "inner", tokens=60).cost.tokens == 100
        raise Killed

    outer = Step(verb="compare", parameters={}, work=work)
    with pytest.raises(Killed):
        run(outer, tmp_path / "outer")
    assert finish(outer, tmp_path / "outer", tokens=5).cost.tokens == 105


def test_a_step_that_failed_lets_others_in_and_is_not_charged_for_them(tmp_path):
    failed = Step(verb="score", parameters={"a": 1}, work=killed)
    with pytest.raises(Killed):
        run(failed, tmp_path / "failed")
    finish(replace(failed, parameters={"b": 1}), tmp_path / "other", tokens=1_000)
    assert finish(failed, tmp_path / "failed", tokens=3).cost.tokens == 3


def test_seconds_known_from_elsewhere_count(folder):
    assert finish(STEP, folder, at_least_s=1e4).cost.seconds == 1e4


def write_outputs(folder):
    """Write outputs into a folder and into two parts of it."""
    for name in ("a.txt", "b.txt", "part-0/weights", "part-1/weights", "part-1/settings"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"content of {name}")
    return Finished(facts={})


WRITING = replace(STEP, work=write_outputs)


def with_outputs(folder):
    """Leave a finished step with outputs."""
    run(WRITING, folder)
    return folder


def seen(folder):
    """Return all that a write would change, times of folders included."""
    return {str(path): path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_second_run_writes_nothing(folder):
    with_outputs(folder)
    before = seen(folder)
    assert run(STEP, folder).ran is False
    assert seen(folder) == before


def test_a_finished_step_leaves_no_lock(folder):
    assert files(with_outputs(folder)) >= {"begun.json", "step.json", "a.txt"}
    assert "run.lock" not in files(folder)


def test_a_lock_that_was_waited_for_leaves_nothing(tmp_path):
    with locked(tmp_path / "x.lock"):
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
    found = set()
    run(replace(STEP, work=lambda folder: found.update(files(folder)) or Finished(facts={})), folder)
    assert f"{removed} is missing, and is made again" in capsys.readouterr().err
    assert found == left | {"begun.json", "run.lock"}


@pytest.mark.parametrize("content", ["", "content of A.txt", "content of a.txt and more"])
def test_a_changed_output_is_made_again_and_the_change_is_kept(folder, capsys, content):
    (with_outputs(folder) / "a.txt").write_text(content)
    assert run(WRITING, folder).ran
    assert "a.txt has changed, and is made again" in capsys.readouterr().err
    assert (folder / "a.txt").read_text() == "content of a.txt"
    assert (folder / "changed" / "a.txt").read_text() == content
    assert run(WRITING, folder).ran is False


def test_what_is_made_again_stays_claimed_by_its_step_after_a_kill(folder):
    (with_outputs(folder) / "a.txt").unlink()
    with pytest.raises(Killed):
        run(replace(STEP, work=killed), folder)
    assert run(WRITING, folder).ran
    assert (folder / "a.txt").exists()


def test_what_others_put_beside_the_outputs_stays(folder):
    (with_outputs(folder) / "recipe.yaml").touch()
    (folder / "a.txt").unlink()
    run(STEP, folder)
    assert (folder / "recipe.yaml").exists()


def test_a_copy_with_other_times_is_whole(folder):
    (with_outputs(folder) / "a.txt").write_text("content of a.txt")
    assert run(STEP, folder).ran is False


def test_outputs_are_not_read_again_while_size_and_time_hold(folder, monkeypatch):
    with_outputs(folder)
    monkeypatch.setattr(outputs, "file_digest", lambda path: pytest.fail(f"read {path}"))
    assert run(STEP, folder).ran is False


def test_a_change_at_either_end_of_a_large_output_is_found_without_reading_all_of_it(folder, monkeypatch):
    monkeypatch.setattr(outputs, "WHOLE_BYTES", 128)
    monkeypatch.setattr(outputs, "file_digest", lambda path: pytest.fail(f"read {path}"))
    content = bytearray(100_000)
    run(replace(STEP, work=lambda f: (f / "large").write_bytes(content) and Finished(facts={})), folder)
    (folder / "large").write_bytes(content)
    assert STEP.is_done(folder)
    for place in (0, -1):
        changed = content.copy()
        changed[place] = 1
        (folder / "large").write_bytes(changed)
        assert not STEP.is_done(folder)


def test_a_step_whose_record_is_damaged_is_made_again(folder, capsys):
    (with_outputs(folder) / "step.json").write_text("")
    assert run(STEP, folder).ran
    assert "step.json is damaged" in capsys.readouterr().err
    assert run(STEP, folder).ran is False


def test_a_record_of_before_outputs_were_recorded_is_taken_as_it_is(folder):
    record = read_json(with_outputs(folder) / "step.json")
    del record["outputs"]
    (folder / "step.json").write_text(json.dumps(record))
    (folder / "a.txt").unlink()
    assert run(STEP, folder).ran is False


def test_a_step_whose_input_is_not_whole_any_more_does_not_start(folder, tmp_path):
    (with_outputs(folder) / "a.txt").unlink()
    with pytest.raises(StoreError, match=r"a\.txt is missing since `learnable score` wrote it") as caught:
        run(replace(SELECT, links={"scores": folder}), tmp_path / "next")
    assert "run that command again" in caught.value.hint
    assert not (tmp_path / "next").exists()


def test_inputs_that_were_moved_are_found_where_that_cannot_be_noted(folder, tmp_path, monkeypatch, capsys):
    finish(STEP, folder, links={"pool": tmp_path / "pool"})

    def refused(path, value):
        raise DiskError(f"cannot write {path}: Read-only file system")

    monkeypatch.setattr(steps, "write_json", refused)
    assert run(replace(STEP, links={"pool": tmp_path / "moved"}), folder).links == {
        "pool": tmp_path / "moved"
    }
    assert "Read-only file system" in capsys.readouterr().err


# What a step would cost.


def test_a_dry_run_does_nothing_and_says_the_price(folder):
    step = replace(STEP, says=["1 base pass"], plan=lambda: Price(rows=3, tokens=60, seconds=12), work=killed)
    planned = run(step, folder, dry_run=True)
    assert not folder.exists()
    assert planned.price == Price(rows=3, tokens=60, seconds=12)
    assert planned.facts == {"would run": ["1 base pass"], "price": ["3 rows, 60 tokens", "12 s"]}
    assert (planned.ran, planned.folder, planned.identity) == (False, folder, STEP.identity)


def test_a_dry_run_of_a_finished_step_costs_nothing(folder):
    done = finish(STEP, folder, identity="content")
    planned = run(replace(STEP, plan=killed), folder, dry_run=True)
    assert planned.facts["would run"] == ["done already"]
    assert (planned.price, planned.identity) == (Price(), done.identity)


def test_a_dry_run_after_an_output_was_removed_is_priced_again(folder):
    (with_outputs(folder) / "a.txt").unlink()
    assert run(replace(STEP, plan=lambda: Price(rows=1)), folder, dry_run=True).price == Price(rows=1)


def test_prices_add_up_but_for_the_memory():
    one = Price(rows=1, tokens=10, passes=1, seconds=2, peak_gib=3, disk_gib=1, unknown=("a",))
    other = Price(rows=2, tokens=20, passes=0.5, seconds=3, peak_gib=1, unknown=("a", "b"))
    assert one + other == Price(
        rows=3, tokens=30, passes=1.5, seconds=5, peak_gib=3, disk_gib=1, unknown=("a", "b")
    )


def test_a_price_with_something_unknown_is_a_least_one():
    assert Price(tokens=20, rows=2, seconds=7_200, unknown=("the buffer is made first",)).words == [
        "at least 2 rows, 20 tokens",
        "at least 2.0 h",
        "the buffer is made first",
    ]
