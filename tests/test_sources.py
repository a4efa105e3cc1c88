"""A method that was edited gives new numbers when the same command runs again; one that was not is not run again."""

import importlib
import os
import re
import sys

import polars as pl
import pytest

from learnable import commands as verbs
from learnable.commands.select import Selecting
from learnable.runs.identity import source_of
from learnable.runs.records import read_outcome
from learnable.runs.step import Finished, Step, run
from learnable.scorers import SCORERS
from learnable.settings import Loading
from learnable.spec import build
from learnable.testing import toy_examples, write_messages

SCORER = '''
"""A scorer of one's own."""
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from other_of_mine import FACTOR

@dataclass(frozen=True, kw_only=True)
class Twice:
    """Twice the loss."""
    needs: ClassVar[tuple[str, ...]] = ("loss_before",)
    higher_is_better: ClassVar[bool] = True

    def __call__(self, frame):
        """Return it."""
        return (frame["loss_before"].to_numpy() * FACTOR * 2).astype(np.float32)
'''
SELECTOR = """
from dataclasses import dataclass
import numpy as np
from learnable.types import Picks

@dataclass(frozen=True, kw_only=True)
class First:
    def __call__(self, scores, *, k, vectors, groups, rng):
        return Picks(index=np.arange(len(scores))[:k], gain=np.zeros(k, dtype=np.float32))
"""
EVALUATOR = """
from dataclasses import dataclass
from learnable.evaluators.exact_match import ExactMatch
from learnable.types import Grade

@dataclass(frozen=True, kw_only=True)
class Mine(ExactMatch):
    max_new_tokens: int = 2

    def grade(self, example, completion):
        return Grade(value=0.25)
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write modules of one's own beside each other, as a new process would find them."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        # As if saved within one second: compiled files would be taken for fresh.
        os.utime(tmp_path / f"{name}.py", (1e9, 1e9))
        for module in ("mine", "other_of_mine"):
            sys.modules.pop(module, None)
        importlib.invalidate_caches()

    write("other_of_mine", "FACTOR = 1\n")
    write("mine", SCORER)
    yield write
    for module in ("mine", "other_of_mine"):
        sys.modules.pop(module, None)


def source(name="Twice"):
    return source_of(build("scorer", f"mine:{name}", SCORERS))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Twice the loss.", "The loss, twice."),
        ('        """Return it."""\n', ""),
        (" * 2)", " * 2  # why not\n        )"),
        ('"""A scorer of one\'s own."""', ""),
    ],
    ids=["docstring", "no docstring", "layout and comment", "docstring of the module"],
)
def test_words_about_a_method_are_not_its_source(written, old, new):
    before = source()
    assert old in SCORER
    written("mine", SCORER.replace(old, new))
    assert source() == before


def test_the_formula_is_its_source(written):
    before = source()
    written("mine", SCORER.replace("* 2", "* 3"))
    assert source() != before


def test_a_module_beside_it_that_it_imports_is_its_source(written):
    before = source()
    written("other_of_mine", "FACTOR = 5\n")
    assert source() != before


def test_a_module_beside_it_that_it_does_not_import_is_not(written):
    before = source()
    written("another", "FACTOR = 5\n")
    assert source() == before


def test_a_method_without_a_file_has_the_source_of_its_code():
    def made(text):
        scope = {"__name__": "nowhere"}
        exec(f"class Mine:\n    def __call__(self, frame):\n        return {text}\n", scope)
        return source_of(scope["Mine"]())

    assert made("1 + frame") == made("1 + frame") != made("2 + frame")


def test_a_method_that_extends_another_has_its_source_too():
    assert len({source_of(SCORERS[name]()) for name in ("learnability", "length", "ifd")}) == 3


def step_of(sources, write=lambda folder: None):
    def work(folder):
        write(folder)
        return Finished(facts={})

    return Step(verb="score", parameters={"n": 1}, sources=sources, work=work)


def test_a_step_of_other_sources_is_another(tmp_path):
    one, other, none = (step_of(sources) for sources in ({"a": "1"}, {"a": "2"}, {}))
    assert len({each.identity for each in (one, other, none)}) == 3


@pytest.mark.parametrize("before", [{"a": "1"}, {}], ids=["other sources", "an earlier version"])
def test_a_finished_step_of_other_sources_is_made_again_in_its_folder(tmp_path, capsys, before):
    run(step_of(before, lambda folder: (folder / "scores.parquet").write_text("old")), tmp_path / "out")
    found = []
    now = step_of({"a": "2"}, lambda folder: found.append((folder / "scores.parquet").exists()))
    assert run(now, tmp_path / "out").ran
    assert "the source of a is not what it was" in capsys.readouterr().err
    assert found == [False]
    assert read_outcome(tmp_path / "out").identity == now.identity
    assert run(now, tmp_path / "out").ran is False


@pytest.fixture
def score(written, tiny, tmp_path):
    path = write_messages(toy_examples(6), tmp_path / "rows.jsonl")

    def run():
        return verbs.score(
            [str(path)],
            model=str(tiny),
            scorers=["mine:Twice", "loss"],
            loading=Loading(dtype="float32"),
            store=str(tmp_path / "store"),
            output=str(tmp_path / "scores"),
        )

    return run


def column(outcome):
    return pl.read_parquet(outcome.folder / "scores.parquet")["mine:Twice"].to_list()


def test_an_edited_scorer_gives_new_numbers_without_a_pass(score, written):
    before = column(score())
    written("mine", SCORER.replace("* 2", "* 4"))
    again = score()
    assert again.ran
    assert again.cost.tokens == 0
    assert column(again) == [2 * value for value in before]


def test_a_scorer_that_was_not_edited_is_not_run_again(score, written):
    score()
    written("mine", SCORER + "\n# nothing new\n")
    assert not score().ran


def test_an_edited_selector_chooses_anew(score, written, tmp_path):
    scored = score()
    written("mine", SELECTOR)

    def kept():
        chosen = verbs.select(
            str(scored.folder),
            choosing=Selecting(by="loss", selector="mine:First"),
            budget="2",
            output=str(tmp_path / "chosen"),
        )
        return chosen.ran, pl.read_parquet(chosen.folder / "kept.parquet")["id"].to_list()

    ran, first = kept()
    assert (ran, kept()) == (True, (False, first))
    written("mine", SELECTOR.replace("[:k]", "[-k:]"))
    ran, last = kept()
    assert ran
    assert not set(first) & set(last)


def test_an_edited_evaluator_grades_anew_and_generates_nothing(written, tiny, tmp_path, monkeypatch):
    rows = tmp_path / "items.jsonl"
    rows.write_text('{"question": "1+1?", "answer": "2"}\n{"question": "1+2?", "answer": "3"}\n')
    written("mine", EVALUATOR)

    def facts():
        done = verbs.evaluate(
            [f"mine:Mine:{rows}"],
            model=str(tiny),
            loading=Loading(dtype="float32"),
            store=str(tmp_path / "store"),
            output=str(tmp_path / "graded"),
        )
        (said,) = [str(fact) for name, fact in done.facts.items() if name not in ("model", "adapter")]
        return done.ran, re.match(r"[\d.]+", said).group()

    assert facts() == (True, "0.25")
    assert facts() == (False, "0.25")
    parts = list((tmp_path / "store").glob("completion-*/*.parquet"))
    written("mine", EVALUATOR.replace("0.25", "0.75"))
    assert facts() == (True, "0.75")
    assert list((tmp_path / "store").glob("completion-*/*.parquet")) == parts
