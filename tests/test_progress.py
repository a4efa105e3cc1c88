"""Progress: one line in a terminal however narrow, few lines in a log however long the work, and no step without a word."""

import io
import subprocess
import sys
import time
from itertools import islice

import pytest
from rich.console import Console
from rich.progress import Progress

from learnable.runs import progress


@pytest.fixture
def clock(monkeypatch):
    """Stand for the clock, which a test moves by hand."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def drawn(work, width):
    """Return the line of a terminal of so many columns that shows a piece of work."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, color_system=None, width=width)
    bars = Progress(*progress._columns(width), console=console, expand=True, auto_refresh=False)
    work.show(bars)
    console.print(bars.get_renderable())
    (line,) = screen.getvalue().splitlines()
    return line


def work(total=1_000_000, done=0, label="reference loss, part 2 of 2"):
    return progress.ProgressBar(label, total, done, "tokens")


@pytest.mark.parametrize("width", [20, 40, 59, 60, 80, 200])
def test_a_bar_is_one_line_of_a_terminal(width, clock):
    piece = work()
    clock[0] += 3
    piece.advance(370_000)
    line = drawn(piece, width)
    assert len(line) <= width
    assert "37%" in line
    assert "0:00:05" in line


def test_a_wide_terminal_shows_the_whole_label_and_the_rate(clock):
    piece = work()
    clock[0] += 3
    piece.advance(370_368)
    assert "reference loss, part 2 of 2 " in drawn(piece, 80)
    assert "123,456 tokens/s" in drawn(piece, 80)


def test_the_time_left_is_not_known_before_the_first_step(clock):
    assert "-:--:--" in drawn(work(), 80)


def test_between_slow_steps_the_rate_is_remembered_and_the_time_left_goes_down(clock):
    piece = work()
    clock[0] += 600
    piece.advance(590_000)
    clock[0] += 300
    line = drawn(piece, 80)
    assert "59%" in line
    assert "983 tokens/s" in line
    assert "0:01:57" in line  # of 6:57


def test_what_an_earlier_run_did_counts_as_done_and_not_as_speed(clock):
    piece = work(done=900_000)
    clock[0] += 10
    piece.advance(10_000)
    assert "91%" in drawn(piece, 80)
    assert "1,000 tokens/s" in drawn(piece, 80)
    assert str(piece).endswith("910,000 of 1,000,000 tokens, 1,000 tokens/s, 90 s left")


def test_a_day_of_work_leaves_a_short_log():
    lines, elapsed = 0, 0.0
    for pause in progress.pauses():
        elapsed += pause
        if elapsed > 86_400:
            break
        lines += 1
    assert 100 < lines < 400
    first, *next_ones = islice(progress.pauses(), 10)
    assert first <= 2
    assert set(next_ones) == {15.0}


def test_a_log_tells_of_a_step_that_takes_long_and_how_often_it_will_tell(monkeypatch, capsys):
    monkeypatch.setattr(progress, "pauses", lambda: iter([0.1, 0.1, 60.0]))
    with progress.bar("base loss", 86_400) as bar:
        time.sleep(0.15)
        bar.advance(86_000)
        time.sleep(0.15)
    before, after = capsys.readouterr().err.splitlines()
    assert before == "base loss: 0 of 86,400 tokens; a line every 15 s, then every 5 min"
    assert after.startswith("base loss: 86,000 of 86,400 tokens, ")
    assert after.endswith(" s left")


@pytest.mark.parametrize("how", ["no terminal", "no cursor"])
def test_short_work_leaves_no_line_in_a_log(monkeypatch, capsys, how):
    if how == "no cursor":
        monkeypatch.setenv("TERM", "dumb")
        monkeypatch.setenv("FORCE_COLOR", "1")
    with progress.bar("base loss", 10) as bar:
        bar.advance(10)
    assert capsys.readouterr().err == ""


SILENT = (
    "from learnable.runs import progress; import time; progress.STARTING_S = 0.1; "
    "progress.say_if_silent('at work'); {}; time.sleep(0.5)"
)


@pytest.mark.parametrize(
    ("meanwhile", "said"),
    [("pass", "at work\n"), ("progress.say('this')", "this\n"), ("raise SystemExit", "")],
    ids=["nothing", "something", "it ends"],
)
def test_a_command_that_says_nothing_soon_says_that_it_is_at_work(meanwhile, said):
    code = SILENT.format(meanwhile)
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == said


@pytest.mark.parametrize(
    ("words", "said"),
    [(["help"], "help: starting\n"), ([], "learnable: starting\n"), (["--quiet"], "")],
    ids=["help", "no word", "quiet"],
)
def test_whatever_is_typed_a_slow_start_says_a_word(words, said):
    code = f"import sys, time; sys.argv[1:] = {words}; from learnable.runs import progress; "
    code += "progress.STARTING_S = 0; import learnable.__main__ as entry; entry.main()"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == said


def test_in_silence_warnings_alone_are_said(monkeypatch, capsys):
    monkeypatch.setattr(progress, "pauses", lambda: iter([0.01, 60.0]))
    with progress.silenced():
        progress.say("a note")
        progress.say("warning: half of the rows are in the evaluation")
        with progress.bar("base loss", 10) as bar:
            time.sleep(0.05)
            bar.advance(10)
    assert capsys.readouterr().err == "warning: half of the rows are in the evaluation\n"
    progress.say("a note")
    assert capsys.readouterr().err == "a note\n"


def test_a_notebook_shows_long_work_in_one_place_and_short_work_not_at_all(monkeypatch, capsys):
    shown = []

    class Handle:
        def update(self, work):
            shown[-1] = work._repr_html_()

    def display(work, *, display_id):
        shown.append(work._repr_html_())
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(
        progress, "Console", lambda **_: Console(file=io.StringIO(), force_jupyter=True, force_terminal=False)
    )
    monkeypatch.setattr(progress, "DRAWN_EVERY_S", 0.1)
    with progress.bar("short", 10) as bar:
        bar.advance(10)
    assert shown == []
    with progress.bar("a < b", 200) as bar:
        time.sleep(0.3)
        bar.advance(200)
    (line,) = shown
    assert line.startswith('<div><progress value="200" max="200"></progress> a &lt; b: 100% ')
    assert capsys.readouterr().err == ""
