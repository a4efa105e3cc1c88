"""The recipe ``slora``, from files to a page on a tiny model, and what no federation can be."""

import json
from importlib.util import find_spec
from types import SimpleNamespace

import polars as pl
import pytest

from learnable.commands.federated_arms import ClientTuning, FederatedTrainings, Federating, counted, labels_of
from learnable.commands.network import Network
from learnable.errors import DataError, UsageError
from learnable.objects.rows import read
from learnable.recipes import slora
from learnable.recipes.run import Run
from learnable.settings import Loading
from learnable.testing import toy_examples

needs_flower = pytest.mark.skipif(
    find_spec("flwr") is None, reason='the rounds go over Flower: pip install "learnable[federated]"'
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Return a file of rows of three categories."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [
        {"instruction": one.messages[0].content, "output": one.messages[1].content, "category": "abc"[n % 3]}
        for n, one in enumerate(toy_examples(40))
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"alpha": 0.0}, "alpha must be above 0"),
        ({"clients": 1}, "2 clients or more"),
        ({"min_rows": 0}, "2 clients or more"),
        ({"density": 0.0}, "density is a share"),
        ({"density": 1.5}, "density is a share"),
        ({"rounds": (0, 4)}, "rounds are of a sparse stage and of a LoRA stage"),
        ({"rounds": (2, 0)}, "rounds are of a sparse stage and of a LoRA stage"),
        ({"arms": ()}, "arms are one or more"),
        ({"arms": ("lora", "lora@aggregate=factors")}, "each once"),
        ({"arms": ("sloar",)}, "no arm called 'sloar'"),
        ({"full_rate": 0.0}, "full_rate"),
        ({"seeds": 0}, "seeds must be at least 1"),
    ],
    ids=lambda value: (
        " ".join(f"{name} {each}" for name, each in value.items()) if isinstance(value, dict) else ""
    ),
)
def test_what_no_federation_can_be_is_refused(how, said):
    with pytest.raises(UsageError, match=said):
        Federating(**how).federated(ClientTuning())


def test_what_moves_is_said_by_arms_alone():
    with pytest.raises(UsageError, match="method has no effect"):
        Federating().federated(ClientTuning(method="full"))


def test_a_column_that_rows_lack_is_refused(rows, tmp_path):
    with pytest.raises(DataError, match="no row has a column 'kind'"):
        labels_of(read(rows), "kind")
    lines = [{"instruction": "one?", "output": "two", "kind": "a"}, {"instruction": "sun?", "output": "red"}]
    (path := tmp_path / "rows.jsonl").write_text(
        "\n".join(json.dumps(line) for line in lines), encoding="utf-8"
    )
    with pytest.raises(DataError, match="1 of 2 rows have nothing in 'kind'"):
        labels_of(read(str(path)), "kind")


def test_rows_are_divided_by_clusters_of_their_vectors(rows, tiny, tmp_path):
    pytest.importorskip("faiss")
    network = Network.of(str(tiny), Loading(dtype="float32", device="cpu"), max_length=128, dry_run=False)
    labels = FederatedTrainings(
        experiment=SimpleNamespace(network=network, store=tmp_path, data=SimpleNamespace(rows=read(rows))),
        federating=Federating(clients=3, by="cluster"),
        arms=(),
    ).labels
    assert len(labels) == 40
    assert {*labels} == {"0", "1", "2"}


def test_traffic_is_summed_over_rounds_and_averaged_over_clients():
    lines = [("lora", 0, client, 10 * (client + 1), 7, 3, None) for client in (0, 1) for _ in range(2)]
    names = ["arm", "seed", "client", "sent_bytes", "received_bytes", "tokens", "why"]
    frame = pl.DataFrame(lines, schema=names, orient="row", schema_overrides={"why": pl.String})
    assert counted(frame).row(0, named=True) == {
        "arm": "lora",
        "sent_bytes": 30,
        "received_bytes": 14,
        "most_sent": 40,
        "tokens": 6,
        "failures": 0,
    }


@pytest.fixture(scope="module")
def run_slora(rows, tiny, tmp_path_factory):
    """Return what a short run came to, and a function that runs it again."""
    folder = tmp_path_factory.mktemp("runs")
    how = {
        "model": str(tiny),
        "federating": Federating(
            clients=3, alpha=1.0, by="category", rounds=(1, 1), arms=("slora", "lora"), density=0.2
        ),
        "loading": Loading(dtype="float32"),
        "tuning": ClientTuning(learning_rate=1e-2, batch_size=4, rank=2),
    }

    def again(**more):
        return slora([rows], **how, run=Run(output=str(folder), **more))

    return again(), again


@needs_flower
def test_every_arm_stands_beside_central_and_beside_lora(run_slora):
    folder = run_slora[0]["federated"].folder
    table = pl.read_parquet(folder / "table.parquet")
    assert table["arm"].to_list() == ["untuned", "central", "slora", "lora"]
    assert table["tokens"].gt(0).to_list() == [False, True, True, True]
    assert table.filter(pl.col("arm") != "central")["difference"].is_finite().all()
    beside = pl.read_parquet(folder / "against_lora.parquet")
    assert beside.filter(pl.col("difference").is_null())["arm"].to_list() == ["lora"]
    assert (folder / "model" / "config.json").is_file()


@needs_flower
def test_all_trained_arms_see_as_many_tokens(run_slora):
    arms = pl.read_parquet(run_slora[0]["federated"].folder / "arms.parquet").filter(
        pl.col("arm") != "untuned"
    )
    assert arms["tokens"].n_unique() == 1


@needs_flower
def test_the_clients_have_all_rows_between_them(run_slora):
    outcomes, _ = run_slora
    parts = pl.read_parquet(outcomes["federated"].folder / "partition.parquet")
    pool = pl.read_parquet(outcomes["pool"].folder / "examples.parquet")
    assert (parts["rows"].sum(), parts.height) == (pool.height, 3)


@needs_flower
def test_a_run_ends_in_a_page_that_says_what_leaves_a_client_and_does_nothing_twice(run_slora):
    outcomes, again = run_slora
    page = (outcomes["report"].folder / "report.html").read_text(encoding="utf-8")
    assert "No row leaves it" in page
    assert "no privacy is promised" in page
    assert any("keeps" in warning for warning in outcomes["report"].facts["warnings"])
    assert not any(each.ran for each in again().values())


@needs_flower
def test_a_dry_run_says_a_price_and_one_label_is_refused(rows, tiny, tmp_path):
    given = {"model": str(tiny), "run": Run(output=str(tmp_path), dry_run=True)}
    outcomes = slora([rows], federating=Federating(clients=3, alpha=1.0, by="category"), **given)
    assert outcomes["federated"].price.rows > 0
    assert not (tmp_path / "slora" / "federated").exists()
    with pytest.raises(UsageError, match="one label"):
        slora([rows], federating=Federating(clients=3, alpha=1.0), **given)
    with pytest.raises(UsageError, match="too few for 30 clients"):
        slora([rows], federating=Federating(clients=30, by="category"), **given)
