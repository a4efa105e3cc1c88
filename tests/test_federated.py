"""Federated training: what a client moves, what a server does with failures, and a whole run on a tiny model."""

from importlib.util import find_spec

import numpy as np
import polars as pl
import pytest
import torch

from learnable.errors import TrainError, UsageError
from learnable.federation import FederatedArm, Mean, Task, Update, digest
from learnable.models.rendering import Renderer
from learnable.settings import Tuning
from learnable.testing import toy_examples
from learnable.training.adapters import trainable
from learnable.training.federated import (
    ROUNDS,
    Agreement,
    LocalTraining,
    federate_rounds,
)
from learnable.training.loop import Loop
from learnable.training.moved import linear_weights, put
from learnable.training.samplers import length_grouped
from learnable.types import ModelRef

needs_flower = pytest.mark.skipif(
    find_spec("flwr") is None, reason='the rounds go over Flower: pip install "learnable[federated]"'
)
USUAL = FederatedArm(name="slora")
TUNING = Tuning(learning_rate=5e-3, rank=2, batch_size=4, schedule="constant", warmup=0.0)


def agreed(text, **how):
    return Agreement(
        **{"arm": FederatedArm.parse(text, usual=USUAL), "rounds": (1, 1), "tuning": TUNING, "density": 0.1}
        | how
    )


@pytest.fixture(scope="module")
def ref(tiny):
    return ModelRef(name=str(tiny), dtype="float32")


@pytest.fixture(scope="module")
def rows(ref):
    return Renderer.of(ref).render(toy_examples(18), max_length=64)


@pytest.fixture(scope="module")
def local(ref):
    training = LocalTraining(ref)
    yield training
    training.close()


def trained(local, text, rows, *, stage, start=None, number=1, client=0, **how):
    """Return what a client sends for the first task of a stage."""
    agreement = agreed(text, **how)
    values = local.initial(stage, agreement, start=start)
    return local.train(
        Task(stage=stage, round=number, arrays=values, start=start), rows, agreement, client=client
    )


def outputs(network):
    ids = torch.arange(20, 60)[None]
    with torch.no_grad():
        return network.eval()(input_ids=ids).logits


class TestClients:
    def test_what_is_off_the_mask_never_moves(self, local, rows):
        agreement = agreed("sparse")
        before = {name: weight.clone() for name, weight in linear_weights(local.network).items()}
        sent = trained(local, "sparse", rows, stage="sparse")
        for name, places in local.places("sparse", agreement).items():
            layer = local.network.get_submodule(name).weight.detach().reshape(-1)
            moved = torch.nonzero(layer != before[name].reshape(-1)).reshape(-1).tolist()
            assert set(moved) <= set(places.tolist())
            assert np.abs(sent.arrays[name]).max() > 0

    def test_the_network_is_as_it_was_afterwards(self, local, rows, ref):
        for text, stage in (("sparse", "sparse"), ("lora", "lora"), ("full", "full")):
            trained(local, text, rows, stage=stage)
        local.close()
        fresh = LocalTraining(ref).network.state_dict()
        assert {name: value.tolist() for name, value in local.network.state_dict().items()} == {
            name: value.tolist() for name, value in fresh.items()
        }

    def test_the_same_task_gives_the_same_bits_whatever_came_before(self, local, rows):
        one = trained(local, "lora", rows, stage="lora")
        trained(local, "sparse", rows, stage="sparse")
        trained(local, "lora", rows[:5], stage="lora", client=3)
        assert digest(trained(local, "lora", rows, stage="lora").arrays) == digest(one.arrays)

    def test_one_client_is_a_training_on_its_rows(self, local, rows, ref):
        """The same adapters, the same order: bit for bit what the loop of every training does."""
        agreement = agreed("lora")
        sent = trained(local, "lora", rows, stage="lora")
        network, ordered = trainable(ref, TUNING), sorted(rows, key=lambda row: row.id)
        parameters = dict(network.base_model.model.named_parameters())
        begun = {
            f"{name[: -len('.A')]}.lora_A.default.weight": torch.from_numpy(values)
            for name, values in local.initial("lora", agreement).items()
            if name.endswith(".A")
        }
        for name, values in begun.items():
            parameters[name].data.copy_(values)
        tuning = agreement.of_client("lora", number=1, client=0)
        batches = length_grouped([(row,) for row in ordered], tuning)
        loop = Loop(network, ordered, sampler=batches, tuning=tuning, mixed=False)
        while loop.done < loop.steps:
            loop.step()
        for name, values in sent.arrays.items():
            layer, letter = name.rsplit(".", 1)
            own = parameters[f"{layer}.lora_{letter}.default.weight"].detach().numpy()
            np.testing.assert_array_equal(own, values)

    def test_at_density_one_a_sparse_round_is_full_tuning(self, local, rows):
        one = trained(local, "sparse", rows, stage="sparse", density=1.0)
        other = trained(local, "full", rows, stage="full", full_rate=TUNING.learning_rate)
        assert digest(one.arrays) == digest(other.arrays)

    def test_nothing_leaves_but_values_and_numbers(self, local, rows):
        sent = trained(local, "lora@aggregate=freeze_A", rows, stage="lora")
        assert {name.rsplit(".", 1)[1] for name in sent.arrays} == {"B"}
        assert (sent.rows, sent.tokens) == (len(rows), sum(len(row.ids) for row in rows))
        assert all(isinstance(value, (int, float)) for name, value in vars(sent).items() if name != "arrays")


def test_what_the_network_cannot_have_is_refused_before_training(local):
    for text, how, said in (
        ("slora", {"tuning": Tuning(rank=17)}, "rank 17 is more than"),
        ("lora@aggregate=product", {"tuning": Tuning(rank=17)}, "rank 17 is more than"),
        ("sparse", {"density": 1e-4}, "leaves less than one of the"),
    ):
        with pytest.raises(UsageError, match=said):
            local.check(agreed(text, **how))
    local.check(agreed("lora", tuning=Tuning(rank=17)))


@pytest.fixture(scope="module")
def start(local, rows):
    """Return where a sparse stage ended."""
    return dict(trained(local, "slora", rows, stage="sparse").arrays)


class TestTheSwitch:
    @pytest.mark.parametrize("text", ["slora", "slora@aggregate=freeze_A", "slora@mask=rows"])
    def test_where_the_residual_is_kept_the_model_is_unchanged(self, local, rows, text):
        start = dict(trained(local, text, rows, stage="sparse").arrays)
        put(local._moved, start)
        before, agreement = outputs(local.network), agreed(text)
        local._enter("lora", agreement, start=start)
        put(local._moved, local.initial("lora", agreement, start=start))
        torch.testing.assert_close(outputs(local._wearing), before, rtol=0, atol=1e-5)

    def test_where_it_is_dropped_the_model_is_another(self, local, start):
        local._enter("sparse", agreed("slora"), start=None)
        put(local._moved, start)
        before, agreement = outputs(local.network), agreed("slora@residual=drop")
        local._enter("lora", agreement, start=start)
        put(local._moved, local.initial("lora", agreement, start=start))
        assert (outputs(local._wearing) - before).abs().max() > 1e-4

    def test_at_full_rank_dropping_is_keeping(self, local, start):
        small = min(min(shape) for shape in local.shapes.values())
        agreement = agreed("slora", tuning=Tuning(rank=small, learning_rate=1e-3))
        residual = local.residual(agreement, start)
        whole = {name: shape for name, shape in local.shapes.items() if min(shape) == small}
        assert whole
        for name in whole:
            assert np.abs(residual[name]).max() < 1e-6


@needs_flower
class TestRounds:
    def adding(self, rounds, *, replies=None, clients=3):
        """Return the values after rounds in which client c adds c, with c + 1 rows, and what was told of them."""
        from learnable.flower import run_rounds

        seen, values = [], {}

        def train(task, client):
            if replies and (reply := replies(task, client)) is not None:
                return reply
            return Update(arrays={"w": task.arrays["w"] + np.float32(client)}, rows=client + 1)

        def after(number, arrays, lines):
            values[number] = float(arrays["w"][0])
            seen.extend({"round": number, **line} for line in lines)

        first = {"w": np.zeros(1, np.float32)}
        run_rounds(train, "lora", clients=clients, values=first, rounds=rounds, after=after)
        return values, pl.DataFrame(seen, schema_overrides={"why": pl.String})

    def test_rounds_by_hand(self):
        values, _ = self.adding(range(1, 3))
        assert values == {1: pytest.approx(8 / 6), 2: pytest.approx(16 / 6)}

    def test_a_client_that_dies_takes_no_part_and_the_round_goes_on(self):
        def replies(task, client):
            if client == 2 and task.round == 1:
                raise MemoryError("no memory left")

        values, lines = self.adding(range(1, 3), replies=replies)
        assert values == {1: pytest.approx(2 / 3), 2: pytest.approx(2 / 3 + 8 / 6)}
        assert lines.filter(pl.col("why").is_not_null()).select("round", "client", "why").rows() == [
            (1, 2, "MemoryError: no memory left")
        ]

    def test_a_client_that_sends_nan_takes_no_part(self):
        def replies(task, client):
            return Update(arrays={"w": np.full(1, np.nan, np.float32)}, rows=9) if client == 0 else None

        values, lines = self.adding(range(1, 2), replies=replies)
        assert values == {1: pytest.approx((2 * 1 + 3 * 2) / 5)}
        assert "not finite" in lines.filter(client=0)["why"].item()

    def test_without_any_update_the_run_ends_and_says_why(self):
        def replies(task, client):
            raise RuntimeError("gone")

        with pytest.raises(TrainError, match=r"no client of round 1.*gone"):
            self.adding(range(1, 3), replies=replies)

    def test_traffic_is_the_bytes_of_the_records(self):
        """A float32 as NumPy writes it: a header of 128 bytes, and 4; names, numbers and settings beside it."""
        _, lines = self.adding(range(1, 2))
        sent, received = lines["sent_bytes"].unique().to_list(), lines["received_bytes"].unique().to_list()
        numbers = sum(8 + len(name) for name in ("num-examples", "tokens", "steps", "loss"))
        assert sent == [128 + 4 + len("w") + numbers]
        assert len(received) == 1
        assert 128 + 4 < received[0] < sent[0]

    def test_flowers_own_mean_is_ours(self):
        from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
        from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

        rng, mean, records = np.random.default_rng(0), Mean(), []
        for rows in (2, 5, 9):
            values = rng.normal(size=6).astype(np.float32)
            mean.add(Update(arrays={"w": values}, rows=rows))
            records.append(
                RecordDict({"a": ArrayRecord({"w": Array(values)}), "m": MetricRecord({"n": rows})})
            )
        theirs = aggregate_arrayrecords(records, "n")["w"].numpy()
        np.testing.assert_allclose(mean.result()["w"], theirs, rtol=1e-6)

    def test_telemetry_is_off(self):
        from flwr.supercore import telemetry

        from learnable import flower

        assert flower.FedAvg is not None
        assert telemetry.FLWR_TELEMETRY_ENABLED == "0"


@needs_flower
class TestFederations:
    def clients(self, rows):
        return [rows[:6], rows[6:12], rows[12:]]

    @pytest.mark.parametrize("text", ["slora", "lora@aggregate=product"])
    def test_a_run_that_is_stopped_goes_on_to_the_same_bits(self, local, rows, tmp_path, monkeypatch, text):
        clients, agreement = self.clients(rows), agreed(text, rounds=(1, 2))
        whole = federate_rounds(local, clients, agreement, tmp_path / "whole", label="whole")
        asked, train = [], local.train

        def stopping(task, *given, **named):
            asked.append((task.round, named["client"]))
            if asked[-1] == (2, 1) and len(asked) == 5:
                raise KeyboardInterrupt
            return train(task, *given, **named)

        monkeypatch.setattr(local, "train", stopping)
        with pytest.raises(KeyboardInterrupt):
            federate_rounds(local, clients, agreement, tmp_path / "again", label="stopped")
        again = federate_rounds(local, clients, agreement, tmp_path / "again", label="again")
        assert asked[5:] == [(number, client) for number in (2, 3) for client in range(3)]
        names = {file.name for file in whole.folder.glob("*.safetensors")}
        assert names
        for name in names:
            assert (whole.folder / name).read_bytes() == (again.folder / name).read_bytes()
        assert (again.tokens, again.steps) == (whole.tokens, whole.steps)
        assert not federate_rounds(local, clients, agreement, tmp_path / "again", label="done").ran

    def test_equal_traffic_sends_as_much_in_sparse_rounds(self, local, rows, tmp_path):
        clients, agreement = self.clients(rows), agreed("slora", density=None)
        done = federate_rounds(local, clients, agreement, tmp_path / "one", label="one")
        sent = pl.read_parquet(done.folder / ROUNDS).group_by("stage").agg(pl.col("sent_bytes").mean())
        sparse, lora = (sent.filter(stage=stage)["sent_bytes"].item() for stage in ("sparse", "lora"))
        headers = 160 * len(local.shapes)  # LoRA has two arrays for each layer
        assert sparse == pytest.approx(lora, abs=2 * headers)
