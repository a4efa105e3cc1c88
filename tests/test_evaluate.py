"""``learnable evaluate`` on a tiny model: its numbers, adapters, and what it refuses."""

import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from learnable import commands as verbs
from learnable.cli import app as cli
from learnable.errors import DataError, ModelError, UsageError
from learnable.models.language_model import LanguageModel
from learnable.models.rendering import Renderer
from learnable.settings import Loading, Tuning
from learnable.testing import toy_examples, write_messages
from learnable.training import fine_tune
from learnable.types import ModelRef

FLOAT = Loading(dtype="float32")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    write_messages(toy_examples(8, turns=2), folder / "rows.jsonl")
    choices = [
        {"question": f"{word}?", "A": "red", "B": "blue", "C": "green", "answer": "B"}
        for word in ("sky", "sea")
    ]
    (folder / "choices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in choices))
    return folder


@pytest.fixture(scope="module")
def adapter(place, tiny):
    ref = ModelRef(name=str(tiny), dtype="float32")
    rendered = Renderer.of(ref).render(toy_examples(8, turns=2), max_length=256)
    tuning = Tuning(learning_rate=0.02, batch_size=2, rank=2)
    return fine_tune(ref, rendered, place / "adapter", tuning=tuning, label="training").folder


@pytest.fixture
def evaluate(place, tiny, tmp_path):
    def run(*evaluations, output="evaluation", **given):
        return verbs.evaluate(
            list(evaluations or [f"heldout:{place / 'rows.jsonl'}"]),
            **({"model": str(tiny), "loading": FLOAT} | given),
            store=str(place / "store"),
            output=str(tmp_path / output),
        )

    return run


def values(outcome):
    return pl.read_parquet(outcome.folder / "results.parquet")["value"].to_numpy()


def test_the_heldout_loss_is_the_loss_of_score(evaluate, place, tiny, tmp_path):
    scored = verbs.score(
        [str(place / "rows.jsonl")],
        model=str(tiny),
        loading=FLOAT,
        store=str(tmp_path / "store"),
        output=str(tmp_path / "scores"),
    )
    losses = pl.read_parquet(scored.folder / "scores.parquet")["loss_before"].to_numpy()
    outcome = evaluate()
    np.testing.assert_allclose(values(outcome), losses, rtol=1e-6)
    (shown,) = [fact for name, fact in outcome.facts.items() if name.startswith("heldout")]
    assert shown.startswith(f"{losses.astype(np.float64).mean():.4g} (")
    assert shown.endswith("nats per token, 8 items")


def test_an_adapter_changes_the_loss(evaluate, adapter):
    base, worn = values(evaluate()), values(evaluate(output="worn", adapter=str(adapter)))
    assert worn.mean() < base.mean() - 0.1


def test_an_adapter_is_evaluated_as_the_reference_is_scored(evaluate, adapter, place, tiny, tmp_path):
    scored = verbs.score(
        [str(place / "rows.jsonl")],
        model=str(tiny),
        reference=str(adapter),
        loading=FLOAT,
        store=str(tmp_path / "store"),
        output=str(tmp_path / "scores"),
    )
    losses = pl.read_parquet(scored.folder / "scores.parquet")["loss_after"].to_numpy()
    np.testing.assert_allclose(values(evaluate(adapter=str(adapter))), losses, rtol=1e-6)


def test_a_whole_model_is_no_adapter(evaluate, tiny_models, tmp_path):
    with pytest.raises(ModelError, match="is a whole model, not an adapter") as caught:
        evaluate(adapter=str(tiny_models["generation"]))
    assert (
        f"learnable evaluate {tiny_models['generation']}" in caught.value.hint
        or "--model" in caught.value.hint
    )
    assert not (tmp_path / "evaluation").exists()


def test_a_folder_that_is_not_there_is_no_adapter(evaluate, tmp_path):
    with pytest.raises(ModelError):
        evaluate(adapter=str(tmp_path / "nothing"))


def test_several_evaluations_stand_in_one_table(evaluate, place):
    outcome = evaluate(f"heldout:{place / 'rows.jsonl'}", f"multiple_choice:{place / 'choices.jsonl'}")
    frame = pl.read_parquet(outcome.folder / "results.parquet")
    assert frame.group_by("evaluation", maintain_order=True).len().rows() == [
        ("heldout:rows.jsonl", 8),
        ("multiple_choice:choices.jsonl", 2),
    ]


def test_what_is_stored_is_not_measured_twice(evaluate, monkeypatch):
    evaluate()
    monkeypatch.setattr(LanguageModel, "begin", lambda *_: pytest.fail("measured again"))
    assert evaluate(output="again").ran


def test_a_second_run_does_nothing(evaluate):
    evaluate()
    assert not evaluate().ran


def test_an_adapter_is_another_evaluation(evaluate, adapter):
    evaluate()
    with pytest.raises(Exception, match="holds the result of another `learnable evaluate`: adapter was None"):
        evaluate(adapter=str(adapter))


def test_what_could_not_be_graded_is_counted(evaluate):
    # A limit so low that the prompts of some fill it.
    outcome = evaluate(max_length=12)
    (shown,) = [fact for name, fact in outcome.facts.items() if name.startswith("heldout")]
    lost = int(np.isnan(values(outcome)).sum())
    assert lost > 0
    assert shown.endswith(f"{lost} could not be graded")


def test_an_unknown_evaluator_is_an_error(evaluate, place):
    with pytest.raises(UsageError, match="no evaluator called 'heldot'") as caught:
        evaluate(f"heldot:{place / 'rows.jsonl'}")
    assert "heldout" in caught.value.hint


def test_names_are_looked_at_before_any_data(evaluate, tmp_path):
    with pytest.raises(UsageError, match="no evaluator called 'heldot'"):
        evaluate(f"heldout:{tmp_path / 'nothing.jsonl'}", f"heldot:{tmp_path / 'nothing.jsonl'}")


@pytest.mark.parametrize(("written", "code"), [("heldot:x.jsonl", 2), ("heldout:nothing.jsonl", 1)])
def test_a_mistyped_evaluation_is_said_before_torch_is_imported(tmp_path, written, code):
    script = (
        "import sys; from learnable.cli import app; code = app.call(['evaluate', sys.argv[1]]); "
        "print(*{'torch', 'transformers'} & set(sys.modules)); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, written], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (code, ""), done.stderr


def test_a_missing_file_is_an_error(evaluate, tmp_path):
    with pytest.raises(DataError):
        evaluate(f"heldout:{tmp_path / 'nothing.jsonl'}")
    assert not (tmp_path / "evaluation").exists()


def test_the_command_prints_the_value(place, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", f"heldout:{place / 'rows.jsonl'}", "--model", str(tiny), "--dtype", "float32"]
    assert cli.call(words) == 0
    assert "heldout:rows.jsonl: " in capsys.readouterr().out
