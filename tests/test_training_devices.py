"""Training in several processes: the same as in one, and only the main process writes."""

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import pytest
import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from safetensors.torch import load_file

from learnable.errors import TrainError, UsageError
from learnable.models.rendering import Renderer
from learnable.settings import Tuning
from learnable.testing import toy_examples
from learnable.training import checkpoints, devices, fine_tune, fine_tuning, loop
from learnable.training.loop import Loop
from learnable.types import ModelRef

TWICE = Tuning(learning_rate=1e-2, batch_size=4, rank=4, epochs=2)


def saving_often(job):
    """Train with a checkpoint after every step, and write down what was written, by process."""
    written, replacing = [], checkpoints.replacing
    checkpoints.replacing = lambda path: written.append(path.name) or replacing(path)
    checkpoints.CHECKPOINT_EVERY_S = 0.0
    trained = fine_tuning._fine_tune(job)
    last = torch.load(job.folder / "checkpoints" / "last.pt")
    (job.folder / f"seen-{os.environ['RANK']}.json").write_text(json.dumps([last["done"], written]))
    # What other machines could reach, of this process and of the one that has started it.
    ports = [
        each
        for process in (psutil.Process(), psutil.Process().parent())
        for each in process.net_connections()
    ]
    heard = [each.laddr.ip for each in ports if each.status == psutil.CONN_LISTEN]
    (job.folder / f"ports-{os.environ['RANK']}.json").write_text(json.dumps(heard))
    return trained


def sharded(job):
    """Train with a part of the weights in each process: FSDP, which accelerate chooses by itself on GPUs alone."""
    make = loop.Accelerator

    def sharding(**options):
        accelerator = make(**options)
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=["LlamaDecoderLayer"],
            state_dict_type="FULL_STATE_DICT",
        )
        accelerator.state.distributed_type = DistributedType.FSDP
        return accelerator

    loop.Accelerator, checkpoints.CHECKPOINT_EVERY_S = sharding, 0.0
    whole = replace(job, folder=job.folder.with_name("full"), tuning=replace(job.tuning, method="full"))
    fine_tuning._fine_tune(whole)
    return fine_tuning._fine_tune(job)


def raising(_):
    raise TrainError("no", hint="yes")


@pytest.fixture(scope="module")
def ref(tiny):
    return ModelRef(name=str(tiny), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def rendered(ref):
    return Renderer.of(ref).render(toy_examples(21), max_length=128)  # a batch of one leaves a process idle


def test_a_training_that_one_process_began_two_end_to_the_same_adapter(ref, rendered, tmp_path, monkeypatch):
    one, two = tmp_path / "one", tmp_path / "two"
    monkeypatch.setattr(checkpoints, "CHECKPOINT_EVERY_S", 0.0)
    options = {"tuning": TWICE, "label": "training", "keep_losses": True}
    fine_tune(ref, rendered, one, **options)
    step = Loop.step

    def killed(self):
        if self.done == 3:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as dying:
        dying.setattr(Loop, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(ref, rendered, two, **options)
    monkeypatch.setattr(fine_tuning, "_fine_tune", saving_often)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    trained = fine_tune(ref, rendered, two, **options, processes=2)
    assert trained.steps == 12
    expected, found = (load_file(folder / "adapter_model.safetensors") for folder in (one, two))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5)
    losses = [pl.read_parquet(folder / fine_tuning.LAST_EPOCH)["nll"] for folder in (one, two)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    seen = [json.loads((two / f"seen-{rank}.json").read_text()) for rank in range(2)]
    assert seen == [[11, ["last.pt"] * 8], [11, []]], "the main process writes"
    assert not (two / "checkpoints").exists()
    heard = [json.loads((two / f"ports-{rank}.json").read_text()) for rank in range(2)]
    assert {*heard[0], *heard[1]} <= {"127.0.0.1", "::1"}, "no other machine can reach them"
    assert not list(two.rglob("*.pickle"))


def test_processes_that_hold_a_part_of_the_weights_each_go_on_to_the_same_model(
    ref, rendered, tmp_path, monkeypatch
):
    monkeypatch.setattr(checkpoints, "CHECKPOINT_EVERY_S", 0.0)
    step = Loop.step

    def killed(self):
        if self.done == 3:
            raise KeyboardInterrupt
        return step(self)

    for method in ("full", "lora"):
        options = {"tuning": replace(TWICE, method=method, learning_rate=1e-3), "label": "training"}
        fine_tune(ref, rendered, tmp_path / "one" / method, **options)
        with monkeypatch.context() as dying:
            dying.setattr(Loop, "step", killed)
            with pytest.raises(KeyboardInterrupt):
                fine_tune(ref, rendered, tmp_path / "parts" / method, **options)
    monkeypatch.setattr(fine_tuning, "_fine_tune", sharded)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    fine_tune(ref, rendered, tmp_path / "parts" / "lora", **options, processes=2)
    for method in ("full", "lora"):
        (expected,), (found,) = (
            [load_file(file) for file in (tmp_path / each / method).glob("*.safetensors")]
            for each in ("one", "parts")
        )
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, atol=1e-5)


def test_what_fails_in_the_main_process_is_told_to_the_one_that_started_it(tmp_path):
    call = tmp_path / "call.pickle"
    call.write_bytes(pickle.dumps((raising, (1,))))
    with pytest.raises(SystemExit):
        devices.work(call)
    error = pickle.loads((tmp_path / "call.outcome").read_bytes())
    assert isinstance(error, TrainError)
    assert error.hint == "yes"


@pytest.mark.parametrize("processes", [0, -1])
def test_no_process_is_refused(ref, rendered, tmp_path, processes):
    with pytest.raises(UsageError, match="processes cannot train"):
        fine_tune(ref, rendered, tmp_path, tuning=TWICE, label="training", processes=processes)
