"""COMET and BLEURT, whose packages and weights are not here: what they are asked, and what can go wrong."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from learnable.errors import ModelError, UsageError
from learnable.evaluators import build_evaluator, parse

ROWS = [
    {"source": "Hrópað á heiminn", "reference": "Screaming at the world"},
    {"source": "já", "reference": "yes"},
    {"source": "nei", "reference": ""},
]
TELL = """
import json, os
def tell(**what):
    with open(os.environ["TOLD"], "a") as out:
        out.write(json.dumps(what) + "\\n")
"""
FAKES = {
    "telling.py": TELL,
    "torch.py": "class cuda:\n    @staticmethod\n    def is_available(): return True\n",
    "comet/__init__.py": """
from types import SimpleNamespace
from telling import tell
def load_from_checkpoint(path):
    tell(loaded=path)
    print("loading")
    return SimpleNamespace(predict=predict)
def predict(rows, batch_size, gpus, progress_bar):
    tell(rows=rows, batch_size=batch_size, gpus=gpus, progress_bar=progress_bar)
    print("predicting")
    return SimpleNamespace(scores=[len(row["mt"]) / len(row["ref"]) - 0.5 for row in rows])
""",
    "bleurt/__init__.py": "",
    "bleurt/score.py": """
from telling import tell
class BleurtScorer:
    def __init__(self, path):
        tell(loaded=path)
    def score(self, *args, references, candidates, batch_size):
        tell(references=references, candidates=candidates, batch_size=batch_size)
        return [len(candidate) / 4 for candidate in candidates]
""",
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Return a folder with rows, made-up weights of both metrics, and made-up packages that the metrics find."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    for name in ("comet/checkpoints/model.ckpt", "comet/hparams.yaml", "bleurt/bleurt_config.json"):
        path = tmp_path / "weights" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name, text in FAKES.items():
        path = tmp_path / "packages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    monkeypatch.setenv("TOLD", str(tmp_path / "told.jsonl"))
    return tmp_path


@pytest.fixture
def translation(place):
    """Return an evaluator with its examples, and what its package was told."""

    def made(metric, settings="", to="to=English,"):
        weights = place / "weights" / {"comet": "comet/checkpoints/model.ckpt"}.get(metric, metric)
        given = settings or f"weights={weights}"
        evaluator = build_evaluator(parse(f"translation:x@{to}metric={metric},{given}"))
        return SimpleNamespace(
            evaluator=evaluator, examples=evaluator.read(str(place / "rows.jsonl")), weights=str(weights)
        )

    return made


def told(place):
    return [json.loads(line) for line in (place / "told.jsonl").read_text().splitlines()]


def values(made, *completions):
    return [grade.value for grade in made.evaluator.grade_all(made.examples[: len(completions)], completions)]


def test_comet_sees_source_translation_and_reference(translation, place):
    made = translation("comet")
    assert values(made, " Shouting at the world\n", "oh") == pytest.approx(
        [100 * (21 / 22 - 0.5), 100 * (2 / 3 - 0.5)]
    )
    rows = [
        {"src": "Hrópað á heiminn", "mt": "Shouting at the world", "ref": "Screaming at the world"},
        {"src": "já", "mt": "oh", "ref": "yes"},
    ]
    assert told(place) == [
        {"loaded": made.weights},
        {"rows": rows, "batch_size": 16, "gpus": 1, "progress_bar": False},
    ]


def test_bleurt_sees_translation_and_reference_and_may_go_beyond_100(translation, place):
    made = translation("bleurt")
    assert values(made, "Shouting", "y") == [200.0, 25.0]
    assert told(place) == [
        {"loaded": made.weights},
        {
            "references": ["Screaming at the world", "yes"],
            "candidates": ["Shouting", "y"],
            "batch_size": 16,
        },
    ]


def test_weights_are_loaded_once(translation, place):
    for made in (translation("bleurt"), translation("bleurt")):
        for completion in ("one", "two"):
            made.evaluator.grade(made.examples[0], completion)
    assert [line for line in told(place) if "loaded" in line] == [{"loaded": made.weights}]


def test_an_empty_answer_is_0_and_one_without_a_reference_nan_and_neither_is_asked(translation, place):
    found = values(translation("bleurt"), "  ", "four", "five")
    assert found[:2] == [0.0, 100.0]
    assert np.isnan(found[2])
    assert told(place)[1]["candidates"] == ["four"]


def test_nothing_to_grade_loads_nothing(translation, place):
    assert values(translation("comet"), "") == [0.0]
    assert not (place / "told.jsonl").exists()


def test_without_a_language_the_source_is_the_whole_question(translation, place):
    path = place / "rows.jsonl"
    path.write_text(json.dumps({"query": "Translate: já", "response": "yes"}) + "\n", encoding="utf-8")
    values(translation("comet", to=""), "oh")
    assert told(place)[1]["rows"] == [{"src": "Translate: já", "mt": "oh", "ref": "yes"}]


def test_other_metrics_grade_all_as_they_grade_one(place):
    evaluator = build_evaluator(parse("translation:x@to=English"))
    examples = evaluator.read(str(place / "rows.jsonl"))
    completions = ["Shouting at the world", "", "no"]
    alone = [evaluator.grade(*pair) for pair in zip(examples, completions, strict=True)]
    assert str(evaluator.grade_all(examples, completions)) == str(alone)


WRONG = {
    "no weights": ("comet", "n=1", "comet needs its weights", "checkpoints/model.ckpt"),
    "weights for chrf": ("chrf", "weights=x", "chrf has no weights", "metric=comet"),
    "weights that are not there": (
        "bleurt",
        "weights=nowhere",
        "no weights of bleurt at nowhere",
        "config.json",
    ),
    "a Python that is not there": (
        "bleurt",
        "python=/nowhere/python",
        "cannot run the Python /nowhere",
        "python=",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_missing_is_said_before_anything_is_generated(translation, place, name):
    metric, settings, said, hint = WRONG[name]
    if settings.startswith("python"):
        settings = f"weights={place / 'weights' / metric},{settings}"
    with pytest.raises(UsageError, match=said) as caught:
        translation(metric, settings)
    assert hint in caught.value.hint


def test_a_folder_is_no_checkpoint_of_comet(translation, place):
    with pytest.raises(UsageError, match="no weights of comet") as caught:
        translation("comet", f"weights={place / 'weights' / 'comet'}")
    assert "the file checkpoints/model.ckpt" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "why"),
    [("raise ImportError('no such thing')", "no such thing"), ("import os\nos.nothing", "AttributeError")],
)
def test_a_package_that_is_missing_or_too_old_is_said_with_what_to_do(translation, place, text, why):
    (place / "packages" / "comet" / "__init__.py").write_text(text)
    with pytest.raises(UsageError, match=f"comet needs its package in .*{why}") as caught:
        translation("comet")
    assert "an environment of its own" in caught.value.hint


def test_what_a_metric_raises_is_said(translation, place):
    (place / "packages" / "bleurt" / "score.py").write_text("def BleurtScorer(path):\n    1 / 0\n")
    with pytest.raises(ModelError, match=r"bleurt cannot grade with .*ZeroDivisionError: division by zero"):
        values(translation("bleurt"), "four")


def test_a_metric_that_dies_is_said_with_its_exit_code(translation, place):
    (place / "packages" / "bleurt" / "score.py").write_text(
        "import os\ndef BleurtScorer(path): os._exit(3)\n"
    )
    with pytest.raises(ModelError, match="process of bleurt ended with exit code 3"):
        values(translation("bleurt"), "four")


def test_a_python_that_is_named_runs_the_metric(translation, place):
    python = place / "python"
    python.write_text(f'#!/bin/sh\nFROM=named exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (place / "packages" / "bleurt" / "score.py").write_text(
        "import os\nfrom telling import tell\ntell(named=os.environ['FROM'])\n"
    )
    translation("bleurt", f"weights={place / 'weights' / 'bleurt'},python={python}")
    assert told(place) == [{"named": "named"}]
