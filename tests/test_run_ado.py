"""The recipe ``ado``, from files to a page on a tiny model."""

import polars as pl
import pytest

from learnable.cli.printing import show
from learnable.commands.mixtures import MEAN, SourceArms, shares_found
from learnable.errors import UsageError
from learnable.proportions import Schedule
from learnable.recipes import ado
from learnable.recipes.run import Run
from learnable.settings import Loading, Tuning
from learnable.testing import toy_examples, write_messages


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return two files of rows, one half as long as the other."""
    folder, rows = tmp_path_factory.mktemp("rows"), toy_examples(75)
    parts = {"a.jsonl": rows[:50], "b.jsonl": rows[50:]}
    return [str(write_messages(part, folder / name)) for name, part in parts.items()]


@pytest.fixture(scope="module")
def run_ado(files, tiny, tmp_path_factory):
    """Return what a run of few steps came to, and a function that runs it again."""
    folder, monkeypatch = tmp_path_factory.mktemp("runs"), pytest.MonkeyPatch()
    soon = Schedule(start=4, every=5, thin=1, points=6, first=10)
    monkeypatch.setattr(Schedule, "of", lambda steps, *, heldout: soon)
    how = {
        "model": str(tiny),
        "mixing": SourceArms(steps=14, arms=("ado@curve=training", "a=0.3,b=0.7"), rows=6, seeds=1),
        "loading": Loading(dtype="float32"),
        "tuning": Tuning(learning_rate=1e-2, batch_size=2, rank=2),
    }

    def again(**more):
        return ado(files, **how, run=Run(output=str(folder), **more))

    yield again(), again
    monkeypatch.undo()


def test_every_mixture_trains_on_as_many_tokens_and_is_asked_of_each_source(run_ado):
    outcomes, _ = run_ado
    folder = outcomes["mixtures"].folder
    costs = pl.read_parquet(folder / "cost.parquet").filter(pl.col("arm") != "untuned")
    assert costs["arm"].to_list() == ["natural", "ado@curve=training", "a=0.3,b=0.7"]
    assert costs["tokens"].max() - costs["tokens"].min() < 60
    table = pl.read_parquet(folder / "table.parquet")
    assert table["evaluation"].unique(maintain_order=True).to_list() == [MEAN, "loss on a", "loss on b"]
    assert table.filter(pl.col("arm") != "natural")["difference"].is_finite().all()


def test_tokens_are_those_that_were_trained_on(run_ado):
    folder, report = (run_ado[0][name].folder for name in ("mixtures", "report"))
    drawn = pl.read_parquet(folder / "proportions.parquet").group_by("arm").agg(pl.col("tokens").sum())
    shown = pl.read_parquet(folder / "table.parquet").filter(evaluation=MEAN).join(drawn, on="arm")
    assert shown["tokens"].to_list() == shown["tokens_right"].to_list()
    page = (report / "report.html").read_text(encoding="utf-8")
    assert f"on {drawn['tokens'].sum():,} tokens" in page


def test_the_mean_counts_sources_alike(run_ado):
    asked = pl.read_parquet(run_ado[0]["mixtures"].folder / "results.parquet").filter(
        evaluation=MEAN, arm="untuned"
    )
    assert asked["source"].value_counts()["count"].n_unique() == 1
    assert asked["source"].n_unique() == 2


def test_what_was_drawn_follows_the_shares(run_ado):
    shares = pl.read_parquet(run_ado[0]["mixtures"].folder / "shares.parquet")
    given = shares.filter(arm="a=0.3,b=0.7")
    assert given["first"].to_list() == given["last"].to_list() == pytest.approx([0.3, 0.7])
    assert given["share"].to_list() == pytest.approx([0.3, 0.7], abs=0.2)
    moved = shares.filter(arm="ado@curve=training")
    assert moved["first"].to_list() != moved["last"].to_list()


def test_the_shares_that_were_found_are_said_first(run_ado, capsys):
    outcomes, _ = run_ado
    mixed = pl.read_parquet(outcomes["mixtures"].folder / "mixtures.parquet")
    assert mixed.columns == ["source", "natural", "ado@curve=training", "a=0.3,b=0.7"]
    assert mixed.sort("source")["a=0.3,b=0.7"].to_list() == pytest.approx([0.3, 0.7])
    page = (outcomes["report"].folder / "report.html").read_text(encoding="utf-8")
    source, natural, found, _ = mixed.row(0)
    assert f"<h1>{source} {found:.0%}, " in page
    assert page.index("Share of the tokens by source") < page.index('class="chart"') < page.index("<nav")
    show(outcomes)
    printed = capsys.readouterr().out
    assert "share of the tokens by source" in printed
    assert f"{natural:.1%}" in printed


def test_a_heading_names_the_largest_sources_and_counts_the_others():
    mixed = pl.DataFrame(
        {"source": list("abcde"), "natural": [0.1, 0.2, 0.3, 0.2, 0.2], "ado": [0.4, 0.3, 0.1, 0.1, 0.1]}
    )
    assert shares_found(mixed, "ado") == "a 40%, b 30%, c 10% and 2 more by ado (natural 10, 20 and 30)"


def test_the_help_says_how_many_steps_the_first_fit_needs():
    for heldout in (False, True):
        first = Schedule._of(100, heldout=heldout).first
        assert Schedule._of(first + 1, heldout=heldout).first == first
        assert str(first) in str(SourceArms.__doc__)
        assert str(first + 1) in str(SourceArms.__doc__)


def test_a_run_ends_in_a_page_and_does_nothing_twice(run_ado):
    outcomes, again = run_ado
    page = (outcomes["report"].folder / "report.html").read_text(encoding="utf-8")
    assert "Aioli" in page
    assert "Proportions of ado" in page
    assert not any(each.ran for each in again().values())


def test_a_dry_run_says_a_price(files, tiny, tmp_path):
    outcomes = ado(files, model=str(tiny), run=Run(output=str(tmp_path), dry_run=True))
    assert outcomes["mixtures"].price.rows > 0
    assert not (tmp_path / "ado").exists()


def test_mixtures_that_cannot_be_trained_are_refused_at_once(files, tiny, tmp_path):
    for mixing in (SourceArms(arms=()), SourceArms(steps=0), SourceArms(arms=("a=1",))):
        with pytest.raises(UsageError):
            ado(files, model=str(tiny), mixing=mixing, run=Run(output=str(tmp_path)))
