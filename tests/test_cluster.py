"""A model on the workers of a Ray cluster: the same numbers as here, also when a worker is killed; errors in one line.

Each pass starts worker processes that import torch, which takes seconds: few passes, and what needs none comes first.
"""

import functools
import os
import pickle
import signal
import socket
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import peft
import polars as pl
import psutil
import pytest
import torch
from polars.testing import assert_frame_equal

from learnable.commands import evaluate, score
from learnable.errors import ModelError, UsageError
from learnable.measures import measure_of, take
from learnable.models import cluster, generation
from learnable.models.cluster import ClusterModel, connected, pool_of_workers
from learnable.models.cluster_worker import Worker, ran
from learnable.models.cluster_worker import opened as result_of
from learnable.models.language_model import LanguageModel
from learnable.models.source import adapter_key
from learnable.objects.given import opened
from learnable.runs import progress
from learnable.runs.store import Store
from learnable.settings import Loading, Sampling
from learnable.testing import toy_examples, write_messages
from learnable.types import ModelRef

# Ray Data 2.60 fills in settings of its own that it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")

QUESTIONS = [example.messages[:1] for example in toy_examples(9)]


@pytest.fixture(scope="module")
def ray():
    """Give a cluster of this machine with two workers of one thread; nothing of it is left at the end."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_worker_niceness", "0")  # else workers wait for whatever else runs on the machine
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # listens on 127.0.0.1 alone
        import ray

        ray.init(
            "local",
            num_cpus=2,
            num_gpus=0,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
        yield ray
        ray.shutdown()
    torch.set_num_threads(threads)


def test_a_connection_leaves_signals_and_standard_error_alone(monkeypatch, capfd):
    class Connecting:
        @staticmethod
        def is_initialized():
            return False

        @staticmethod
        def init(**_):
            os.write(2, b"Set ray log level from environment variable")
            signal.signal(signal.SIGTERM, lambda *_: None)

    needed = cluster._needed
    monkeypatch.setattr(cluster, "_needed", lambda name: Connecting if name == "ray" else needed(name))
    before = signal.getsignal(signal.SIGTERM)
    connected("ray:local")
    assert signal.getsignal(signal.SIGTERM) is before
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"


@pytest.fixture(scope="module")
def ref(tiny):
    return ModelRef(name=str(tiny), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def here(ref):
    return LanguageModel(ref)


@pytest.fixture(scope="module")
def there(ray, ref):
    return ClusterModel(ref, on="ray")


@pytest.fixture(scope="module")
def rendered(here):
    return here.renderer.render(toy_examples(160), max_length=64)


def workers():
    started = psutil.Process().children(recursive=True)
    return {process.pid: process for process in started if process.name().startswith("ray::MapWorker")}


def test_a_place_that_is_no_cluster(ref):
    with pytest.raises(UsageError, match="cannot run on 'slurm'"):
        opened(ref, on="slurm")


def test_a_cluster_that_does_not_answer(ref):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        with pytest.raises(ModelError, match=r"cannot reach the Ray cluster 127\.0\.0\.1:\d+: .*refused"):
            opened(ref, on=f"ray:127.0.0.1:{taken.getsockname()[1]}")


def test_workers_import_nothing_from_the_working_folder(monkeypatch, tmp_path):
    import ray

    places = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: places.append(Path.cwd()))  # gives its folder to the workers
    connected("ray")
    assert places == [Path(tmp_path.anchor)]
    assert Path.cwd() == tmp_path


def test_an_outside_benchmark_needs_the_model_here():
    with pytest.raises(UsageError, match=r"lm_eval.* runs the model itself"):
        evaluate(["lm_eval:arc.yaml"], on="ray")


def test_one_model_on_each_cpu(there):
    assert (there._pool.device, there._pool.workers) == ("cpu", 2)


def test_a_worker_that_no_machine_has_room_for(ray, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    with pytest.raises(ModelError, match=r"takes 3 CPUs.*more than 2"):
        pool_of_workers(ray, "cpu")


def test_a_gpu_that_the_cluster_has_not(ray):
    with pytest.raises(ModelError, match="no GPU"):
        pool_of_workers(ray, "cuda")


def test_the_store_is_the_same_although_a_worker_is_killed(here, there, rendered, monkeypatch, tmp_path):
    first, replaced = {}, set()

    def measure(launch, batches):
        for found in ClusterModel.measure(there, launch, batches):
            if not first:
                first.update(workers())
                next(iter(first.values())).kill()
            replaced.update(workers().keys() - first.keys())
            yield found

    monkeypatch.setattr(there, "measure", measure)
    frames = []
    for model in (here, there):
        store = Store(tmp_path / type(model).__name__)
        monkeypatch.setattr(type(model), "batch_tokens", 128)
        passed = measure_of(model.key, rendering=model.renderer.key, max_length=64)
        take(lambda model=model: nullcontext(model), [passed], rendered, store=store, label="loss")
        frames.append(store.read(passed, pl.Series("id", [example.id for example in rendered])))
    assert len(replaced) == 1
    assert_frame_equal(*frames, check_exact=True)


class Rows:
    """What Ray Data would give, computed in this process."""

    def __init__(self, worker, tasks):
        self._worker, self._tasks = worker, tasks

    def iter_rows(self):
        rows = [{"number": number, "task": task} for number, task in enumerate(self._tasks)]
        yield from map(self._worker, rows)


def test_answers_of_an_adapter(here, there, monkeypatch, tmp_path):
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    network = LanguageModel(here.ref).network
    peft.get_peft_model(network, config).save_pretrained(tmp_path)
    key = adapter_key(here.key, tmp_path)
    worker = Worker(ref=here.ref, adapter=tmp_path, key=key, threads=torch.get_num_threads())
    monkeypatch.setattr(there, "_results", lambda tasks: Rows(worker, tasks))
    monkeypatch.setitem(generation.BATCH_TOKENS, "cpu", 200)
    asked = {"sampling": Sampling(max_new_tokens=24), "seeds": range(9), "only": {1, 2, 3, 5, 8}}

    def answers(model):
        found = list(model.answers(QUESTIONS, **asked))
        assert len(found) > 1
        return sorted(found)

    with here.adapter(tmp_path), there.adapter(tmp_path):
        assert there.key == here.key
        assert answers(there) == answers(here)
    assert there.key == here.key


def test_scores_and_their_identity_do_not_tell_where_they_were_measured(ray, ref, tmp_path):
    rows = write_messages(toy_examples(12), tmp_path / "rows.jsonl")
    settings = {
        "model": ref.name,
        "loading": Loading(device="cpu"),  # what dtype that is, a worker says
        "scorers": ["length"],
        "vectors": "model",
    }
    found = {
        on: score(
            [str(rows)],
            **settings,
            on=on,
            store=str(tmp_path / f"store {on}"),
            output=str(tmp_path / f"{on}"),
        )
        for on in (None, "ray")
    }
    assert found[None].identity == found["ray"].identity
    vectors = [(outcome.folder / "vectors.parquet").read_bytes() for outcome in found.values()]
    assert vectors[0] == vectors[1]


def failing(network, rendered, layout):
    raise KeyError("no such kind")


def test_an_error_of_a_worker_is_one_line_here(here, there, rendered, monkeypatch):
    worker = Worker(ref=here.ref, adapter=None, key=here.key, threads=1)
    monkeypatch.setattr(there, "_results", lambda tasks: Rows(worker, tasks))
    with pytest.raises(
        ModelError, match=r"^the worker \S+ failed: KeyError: 'no such kind'\nhint: "
    ) as caught:
        list(there.measure(failing, [rendered[:2]]))
    assert "language_model.py" in caught.value.__notes__[0]


def test_what_a_worker_says_is_said_once(there, monkeypatch, capsys):
    say = functools.partial(progress.say, "batches are padded")
    monkeypatch.setattr(
        there, "_results", lambda tasks: Rows(lambda row: row | {"done": pickle.dumps(ran(say))}, tasks)
    )
    assert list(there.each([print, print])) == [(0, None), (1, None)]
    assert capsys.readouterr().err == "batches are padded\n"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"name": "/no/such/model"}, "there is no /no/such/model on the worker"),
        ({"dtype": "bfloat16"}, "are others"),
    ],
)
def test_a_worker_without_the_same_model(here, changed, why):
    worker = Worker(
        ref=replace(here.ref, **changed), adapter=None, key=here.key, threads=torch.get_num_threads()
    )
    with pytest.raises(ModelError, match=why):
        result_of(worker({"number": 0, "task": pickle.dumps(None)})["done"])
