"""Progress: one line in a terminal however narrow, and few lines in a log however long the work."""

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from learnable import progress


@pytest.mark.parametrize("width", [20, 40, 59, 60, 80, 200])
def test_a_bar_is_one_line_of_a_terminal(width):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, color_system=None, width=width)
    bars = Progress(*progress._columns(width), console=console, expand=True, auto_refresh=False)
    bars.add_task("reference loss, part 2 of 2", total=1_000_000, completed=370_000, rate="123,456 tokens/s")
    console.print(bars.get_renderable())
    (line,) = screen.getvalue().splitlines()
    assert len(line) <= width
    assert "37%" in line
    assert "-:--:--" in line


def test_a_wide_terminal_shows_the_whole_label_and_the_rate():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, color_system=None, width=80)
    bars = Progress(*progress._columns(80), console=console, expand=True, auto_refresh=False)
    bars.add_task("reference loss, part 2 of 2", total=100, rate="123,456 tokens/s")
    console.print(bars.get_renderable())
    assert "reference loss, part 2 of 2 " in screen.getvalue()
    assert "123,456 tokens/s" in screen.getvalue()


def test_a_day_of_work_leaves_a_short_log(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress.bar("base loss", 86_400) as bar:
        for _ in range(86_400):
            clock[0] += 1
            bar.advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert 100 < len(lines) < 400
    assert lines[0] == "base loss: 15 of 86,400 tokens, 1 tokens/s, 86,385 s left"


def test_short_work_leaves_no_line_in_a_log(capsys):
    with progress.bar("base loss", 10) as bar:
        bar.advance(10)
    assert capsys.readouterr().err == ""


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch, capsys):
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress.bar("base loss", 10) as bar:
        bar.advance(10)
    assert capsys.readouterr().err == ""
