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
from learnable.objectives import DPO
from learnable.settings import Tuning
from learnable.testing import toy_examples
from learnable.training import checkpoints, devices, fine_tune, fine_tuning, loop
from learnable.training.loop import Loop
from learnable.types import ModelRef

LOOKED_FOR = (
    "brotli",
    "deepspeed",
    "bitsandbytes",
    "triton",
    "torchvision",
    "wandb",
    "tensorflow",
    "xarray",
    "zstandard",
)
"""Modules that libraries of ours use where they are installed."""
TWICE = Tuning(learning_rate=1e-2, batch_size=4, rank=4, epochs=2)
SLOW = replace(TWICE, learning_rate=1e-3)


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


def in_pairs(rows):
    """Return rows two by two as pairs, and a reference of so many nats for each token."""
    ordered = sorted(rows, key=lambda row: row.id)
    pairs = list(zip(ordered[::2], ordered[1::2], strict=False))
    nats = {row.id: 6.0 * row.mask.sum() for pair in pairs for row in pair}
    return pairs, pl.DataFrame({"id": list(nats), "reference_nll": list(nats.values())})


def preferring(job):
    """Train on the rows of a job as pairs."""
    pairs, columns = in_pairs(job.rows)
    needed = fine_tuning._needed(columns, pairs, DPO())
    fine_tuning._fine_tune(replace(job, examples=pairs, objective=DPO(), columns=needed, keep_losses=False))


def both(job):
    """Train in all ways, in the folders beside each other."""
    trained = saving_often(job)
    preferring(replace(job, folder=job.folder.with_name("pairs") / "two"))
    parts = replace(job, folder=job.folder.parent / "parts" / "two" / "lora", tuning=SLOW, keep_losses=False)
    sharded(parts)
    return trained


def raising(_):
    raise TrainError("no", hint="yes")


@pytest.fixture(scope="module")
def ref(tiny):
    return ModelRef(name=str(tiny), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def rendered(ref):
    return Renderer.of(ref).render(toy_examples(21), max_length=128)  # a batch of one leaves a process idle


@pytest.fixture(scope="module")
def launched(ref, rendered, tmp_path_factory):
    """Two processes, started once, go on with what one began and was killed at; return the folder and what they say."""
    folder = tmp_path_factory.mktemp("processes")
    for name in LOOKED_FOR:
        (folder / f"{name}.py").write_text("open('ran', 'a').write(__name__); raise ImportError")
    step = Loop.step

    def killed(self):
        if self.done == 3:
            raise KeyboardInterrupt
        return step(self)

    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr(checkpoints, "CHECKPOINT_EVERY_S", 0.0)
        for inside, tuning in (("", TWICE), ("lora", SLOW), ("full", replace(SLOW, method="full"))):
            one, two = (folder / ("parts" if inside else "") / each / inside for each in ("one", "two"))
            options = {"tuning": tuning, "label": "training", "keep_losses": not inside}
            fine_tune(ref, rendered, one, **options)
            with patched.context() as dying:
                dying.setattr(Loop, "step", killed)
                with pytest.raises(KeyboardInterrupt):
                    fine_tune(ref, rendered, two, **options)
        pairs, columns = in_pairs(rendered)
        options = {"tuning": TWICE, "label": "training", "objective": DPO(), "columns": columns}
        fine_tune(ref, pairs, folder / "pairs" / "one", **options)
        patched.setattr(fine_tuning, "_fine_tune", both)
        patched.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        options = {"tuning": TWICE, "label": "training", "keep_losses": True}
        return folder, fine_tune(ref, rendered, folder / "two", **options, processes=2)


def weights(folder):
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def test_a_training_that_one_process_began_two_end_to_the_same_adapter(launched):
    folder, trained = launched
    one, two = folder / "one", folder / "two"
    assert trained.steps == 12
    expected, found = weights(one), weights(two)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5)
    losses = [pl.read_parquet(each / fine_tuning.LAST_EPOCH)["nll"] for each in (one, two)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_pairs_end_in_two_processes_as_in_one(launched):
    expected, found = (weights(launched[0] / "pairs" / each) for each in ("one", "two"))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-4)


def test_the_main_process_writes_and_no_other_machine_reaches_any(launched):
    two = launched[0] / "two"
    seen = [json.loads((two / f"seen-{rank}.json").read_text()) for rank in range(2)]
    assert seen == [[11, ["last.pt"] * 8], [11, []]]
    heard = [json.loads((two / f"ports-{rank}.json").read_text()) for rank in range(2)]
    assert {*heard[0], *heard[1]} <= {"127.0.0.1", "::1"}
    assert not (two / "checkpoints").exists()
    assert not list(two.rglob("*.pickle"))


def test_no_process_runs_what_lies_in_the_working_folder(launched):
    assert not (launched[0] / "ran").exists()


@pytest.mark.parametrize("method", ["full", "lora"])
def test_processes_that_hold_a_part_of_the_weights_each_go_on_to_the_same_model(launched, method):
    expected, found = (weights(launched[0] / "parts" / each / method) for each in ("one", "two"))
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
