"""The same client and server over a network: a SuperLink and two SuperNodes, processes of their own on this machine."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("flwr") is None, reason='the rounds go over Flower: pip install "learnable[federated]"'
    ),
]
APP = '''
import json
from pathlib import Path

import numpy as np
from flwr.serverapp import ServerApp

from learnable.federation import Update
from learnable.flower import client_app, rounds_on


def train(task, client):
    """Add the client's number; it has one row more than that."""
    return Update(arrays={"w": task.arrays["w"] + np.float32(client)}, rows=client + 1)


client = client_app(train)
server = ServerApp()


@server.main()
def main(grid, context):
    told = []

    def after(number, values, lines):
        told.append([number, float(values["w"][0]), sorted(line["rows"] for line in lines)])

    first = {"w": np.zeros(1, np.float32)}
    rounds_on(grid, "lora", clients=2, values=first, rounds=range(1, 3), after=after)
    Path(context.run_config["out"]).write_text(json.dumps(told))
'''
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "rounds"
version = "1.0.0"
description = "Two clients that add their number."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "nobody"

[tool.flwr.app.components]
serverapp = "rounds:server"
clientapp = "rounds:client"

[tool.flwr.app.config]
out = ""
"""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def beside(name):
    """Return a program that Flower's package brings, beside this Python or on the path."""
    own = Path(sys.executable).with_name(name)
    return str(own) if own.is_file() else shutil.which(name)


def test_two_rounds_over_a_superlink_and_two_supernodes(tmp_path):
    if not all(map(beside, ("flower-superlink", "flower-supernode", "flwr"))):
        pytest.skip("Flower's programs are not on the path")
    app, home, out = tmp_path / "app", tmp_path / "home", tmp_path / "out.json"
    app.mkdir()
    home.mkdir()
    (app / "pyproject.toml").write_text(PROJECT)
    (app / "rounds.py").write_text(APP)
    port = free_port()
    connection = (
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    (home / "config.toml").write_text(connection)
    given = os.environ | {"FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0"}
    given["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    programs = [
        [
            "flower-superlink",
            "--insecure",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--disable-runtime-dependency-installation",
        ]
    ]
    programs += [
        [
            "flower-supernode",
            "--insecure",
            "--superlink",
            f"127.0.0.1:{port}",
            "--host",
            "127.0.0.1",
            "--port",
            str(free_port()),
            "--node-config",
            f"partition-id={client}",
        ]
        for client in range(2)
    ]
    running, logs = [], []
    try:
        for number, (name, *words) in enumerate(programs):
            logs.append(tmp_path / f"{number}.log")
            with logs[-1].open("wb") as log:
                running.append(
                    subprocess.Popen(
                        [beside(name), *words], env=given, stdout=log, stderr=log, start_new_session=True
                    )
                )
        asked = [beside("flwr"), "run", str(app), "here", "--run-config", f'out="{out}"']
        until = time.monotonic() + 600
        while (
            begun := subprocess.run(asked, env=given, capture_output=True, text=True, check=False)
        ).returncode:
            assert time.monotonic() < until, begun.stdout + begun.stderr
            time.sleep(1)
        while not (out.is_file() and out.read_text()):
            assert time.monotonic() < until, "\n".join(log.read_text()[-2_000:] for log in logs)
            time.sleep(0.5)
    finally:
        for process in reversed(running):  # nodes first; each is the first of a session, with what it started
            os.killpg(process.pid, 15)
            process.wait(timeout=60)
    # Clients 0 and 1 have one and two rows: (1 * 0 + 2 * 1) / 3 in each round.
    assert json.loads(out.read_text()) == [
        [1, pytest.approx(2 / 3), [1, 2]],
        [2, pytest.approx(4 / 3), [1, 2]],
    ]
