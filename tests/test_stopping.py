"""A command that is asked to end does so soon, in one line, with the exit code of the signal, and goes on when said again."""

import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import psutil
import pytest

from learnable.cli import app as cli
from learnable.testing import toy_examples, write_messages
from processes import at_work as forked

STOPPED = "stopped; the same command goes on from here"
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
GRACE_S = 0.3
"""Less than usual, for what does not end by itself; what does may take as long as a busy machine does."""
SOON_S = 30.0
"""Far above what a busy machine takes, and below the minute for which the work here would go on."""

COMMAND = """
import os, signal, subprocess, sys, time
from types import SimpleNamespace
from learnable.cli import app as cli
from learnable.runs import stopping

def work(*_, **__):
    {work}

stopping.GRACE_S = {grace_s}
stopping.listen()
cli.app = SimpleNamespace(meta=work)
cli.main()
"""
SLEEPING = "print('at work', flush=True); time.sleep(60)"
DEAF = """print('at work', flush=True)
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass"""
OF_ITS_OWN_MIND = f"signal.signal(signal.SIGTERM, lambda *_: sys.exit(15)); {SLEEPING}"


@contextmanager
def started(command, **options):
    """Start a process and wait for its first line; it is gone at the end, come what may."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **pipes, **options)
    try:
        process.first = process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def at_work(work):
    grace_s = GRACE_S if DEAF in work else SOON_S
    return started([sys.executable, "-c", COMMAND.format(work=work, grace_s=grace_s)])


@pytest.mark.parametrize(
    ("number", "work"),
    [*((number, SLEEPING) for number in SIGNALS), (signal.SIGTERM, DEAF)],
    ids=[*map("listening-{}".format, SIGNALS), "deaf"],
)
def test_each_signal_ends_a_command_in_one_line(number, work):
    with at_work(work) as process:
        process.send_signal(number)
        _, said = process.communicate(timeout=SOON_S)
    assert (process.returncode, said) == (SIGNALS[number], STOPPED + "\n")


def test_an_exit_code_of_a_library_does_not_hide_the_signal():
    with at_work(OF_ITS_OWN_MIND) as process:
        process.terminate()
        _, said = process.communicate(timeout=SOON_S)
    assert (process.returncode, said) == (143, STOPPED + "\n")


def test_signals_that_come_twice_are_one():
    ending = "\n    ".join(["try:", "    " + SLEEPING, "finally:", "    time.sleep(1)"])
    with at_work(ending) as process:
        for _ in range(3):
            process.terminate()
            time.sleep(0.2)
        _, said = process.communicate(timeout=SOON_S)
    assert (process.returncode, said) == (143, STOPPED + "\n")


@pytest.mark.parametrize("work", [SLEEPING, DEAF], ids=["listening", "deaf"])
def test_processes_that_a_command_started_end_with_it(work):
    child = "[sys.executable, '-c', 'import time; time.sleep(60)']"
    start = f"child = subprocess.Popen({child}, start_new_session=True); print(child.pid, flush=True)\n    "
    with at_work(start + work) as process:
        child = psutil.Process(int(process.first))
        process.stdout.readline()
        process.terminate()
        process.communicate(timeout=SOON_S)
    psutil.wait_procs([child], timeout=SOON_S)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_forked_process_that_is_ended_does_not_end_the_command():
    fork = "child = os.fork()\n    if not child: time.sleep(60)\n    time.sleep(1); "
    fork += "os.kill(child, signal.SIGTERM); print(os.waitpid(child, 0)[1], flush=True); time.sleep(1)"
    with at_work(fork) as process:
        _, said = process.communicate(timeout=SOON_S)
    assert (int(process.first), process.returncode, said) == (signal.SIGTERM, 0, "")


def test_a_command_under_nohup_hears_no_hangup():
    ignoring = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    command = [sys.executable, "-c", COMMAND.format(work=SLEEPING, grace_s=GRACE_S)]
    with started(command, **ignoring) as process:
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        process.terminate()
        assert process.wait(timeout=SOON_S) == 143


def test_a_command_that_is_still_being_imported_ends_in_one_line():
    slow = "import sys; sys.modules['learnable.cli.app'] = None; from learnable import __main__ as entry\n"
    slow += "import builtins, time; real = builtins.__import__\n"
    slow += "def waiting(name, *rest):\n    if name == 'learnable.cli.app': print('at work', flush=True); time.sleep(60)\n"
    slow += "    return real(name, *rest)\n"
    slow += "builtins.__import__ = waiting; entry.main()"
    with started([sys.executable, "-c", slow]) as process:
        process.terminate()
        _, said = process.communicate(timeout=SOON_S)
    assert (process.returncode, said) == (143, STOPPED + "\n")


def test_a_training_of_several_processes_ends_with_all_of_them_and_goes_on(tiny, tmp_path, monkeypatch):
    write_messages(toy_examples(20), tmp_path / "mine.jsonl")
    words = ["train", "mine.jsonl", "--model", str(tiny), "-o", "ref", "--dtype", "float32"]
    process = forked([*words, "--processes", "2"], tmp_path, {}, said=tmp_path / "said")
    try:
        while len(children := psutil.Process(process.pid).children()) < 2:
            time.sleep(0.05)
        process.terminate()
        process.join(SOON_S)
    finally:
        process.kill()
    said = (tmp_path / "said").read_text()
    assert process.exitcode == 143
    assert said.splitlines()[-1] == STOPPED
    assert "Traceback" not in said
    assert not psutil.wait_procs(children, timeout=SOON_S)[1]
    monkeypatch.chdir(tmp_path)
    assert cli.call(words) == 0
    assert (tmp_path / "ref" / "part-0" / "training.json").is_file()
