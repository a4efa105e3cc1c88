"""How a way to choose is written, and what it then chooses."""

import math

import numpy as np
import polars as pl
import pytest

from learnable.errors import SelectionError, UsageError
from learnable.experiments import parse_method, parse_methods
from learnable.runs.identity import fingerprint
from learnable.scorers import SCORERS
from learnable.settings import Reference

COLUMNS = ["in_best", "in_few", "ifd"]
N = 12


def parsed(written, **given):
    return parse_method(written, reference=Reference(rank=4), columns=COLUMNS, **given)


def what(written, *names):
    method = parsed(written)
    return tuple(getattr(method, name) for name in names)


# Every form


@pytest.mark.parametrize("name", SCORERS)
def test_a_scorer_is_a_method(name):
    assert what(name, "label", "kind", "score", "selector", "lowest") == (
        name,
        "chosen",
        name,
        "top_k",
        False,
    )


@pytest.mark.parametrize("name", ["random", "k_center", "facility_location"])
def test_a_selector_that_needs_no_score_is_a_method(name):
    assert what(name, "kind", "selector", "takes_score") == ("chosen", name, False)


@pytest.mark.parametrize("name", ["top_k", "middle", "diverse_top_k"])
def test_a_selector_that_needs_a_score_is_none(name):
    with pytest.raises(UsageError, match="no way to choose called") as caught:
        parsed(name)
    assert f"write SCORE/{name}" in caught.value.hint


@pytest.mark.parametrize(("name", "lowest"), [("longest", False), ("shortest", True)])
def test_longest_and_shortest_are_ends_of_the_length(name, lowest):
    assert what(name, "kind", "score", "lowest") == ("chosen", "length", lowest)


@pytest.mark.parametrize("name", ["full", "untuned"])
def test_full_and_untuned_have_no_score(name):
    assert what(name, "kind", "scorer", "needs_reference", "needs_vectors", "draws") == (
        name,
        None,
        False,
        False,
        False,
    )


def test_a_column_of_booleans_is_a_method():
    assert what("in_best", "kind", "score", "scorer", "draws") == ("column", "in_best", None, True)


def test_any_name_may_be_a_column_while_they_are_not_known():
    def read(written):
        return parse_method(written, reference=Reference(), columns=None)

    assert (read("in_best").kind, read("ifd").kind) == ("column", "chosen")
    for wrong in ("top_k", "in_best/middle", "ifd@folds=2", ""):
        with pytest.raises(UsageError):
            read(wrong)


def test_a_known_name_means_what_it_means_also_when_a_column_has_it():
    assert what("ifd", "kind", "score") == ("chosen", "ifd")


def test_outside_code_is_a_method():
    method = parsed("learnable.scorers:Length")
    assert type(method.scorer).__name__ == "Length"


def test_a_selector_stands_behind_a_slash():
    assert what("ifd/diverse_top_k", "score", "selector", "needs_vectors") == ("ifd", "diverse_top_k", True)


def test_settings_stand_behind_an_at():
    method = parsed("learnability@folds=2,epochs=0.5,learning_rate=1e-3,per_source=equal/middle")
    assert method.reference == Reference(rank=4, folds=2, epochs=0.5, learning_rate=1e-3)
    assert (method.per_source, method.selector) == ("equal", "middle")
    assert method.label == "learnability@folds=2,epochs=0.5,learning_rate=1e-3,per_source=equal/middle"


def test_a_setting_may_hold_a_slash():
    assert parsed("learnability@model=runs/reference-1/part-0").reference.model == "runs/reference-1/part-0"
    assert what("loss@where=loss_before/tokens > 1/middle", "where", "selector") == (
        "loss_before/tokens > 1",
        "middle",
    )


def test_a_setting_may_hold_commas_and_equal_signs():
    assert what("loss@where=tokens IN (1, 2) OR tokens = 3,lowest=true", "where", "lowest") == (
        "tokens IN (1, 2) OR tokens = 3",
        True,
    )


def test_numbers_and_flags_are_read_as_such():
    method = parsed("ifd@max_score=inf,max_similarity=0.9,clusters=7,per_cluster=equal,lowest=false")
    assert (method.max_score, method.max_similarity, method.clusters, method.lowest) == (
        math.inf,
        0.9,
        7,
        False,
    )


# Errors


@pytest.mark.parametrize(
    ("written", "said", "hint"),
    [
        ("learnabilty", "no way to choose called 'learnabilty'", "learnability"),
        ("", "no way to choose called ''", "known"),
        ("ifd/top_key", "no selector called 'top_key'", "top_k"),
        ("random/middle", "no way to choose called 'random'", "write SCORE/random"),
        ("learnability@folds", "cannot read 'folds'", "NAME@key=value"),
        ("learnability@fold=2", "no setting 'fold'", "folds"),
        ("learnability@folds=two", "does not take folds=two", "integer"),
        ("learnability@folds=2.5", "does not take folds=2.5", "integer"),
        ("learnability@folds=1", "folds must be 0 or at least 2", "cross-fitted"),
        ("ifd@lowest=maybe", "does not take lowest=maybe", "boolean"),
        ("ifd@per_source=fair", "does not take per_source=fair", "proportional"),
        ("ifd@max_score=high", "does not take max_score=high", "number"),
        ("ifd@folds=2", "ifd has no such setting", "leave out"),
        ("random@epochs=2", "random has no such setting", "leave out"),
        ("full@lowest=true", "full has no such setting", "leave out"),
        ("untuned/top_k", "untuned has no such setting", "leave out"),
        ("in_best@per_source=equal", "in_best has no such setting", "leave out"),
        ("in_best/middle", "in_best has no such setting", "leave out"),
        ("nowhere:nothing", "cannot import the scorer", "module:attribute"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_an_error_with_a_hint(written, said, hint):
    with pytest.raises(UsageError) as caught:
        parsed(written).scorer  # noqa: B018
    assert said in caught.value.message
    assert hint in caught.value.hint


def test_a_method_twice_is_an_error():
    with pytest.raises(UsageError, match="'ifd' is there twice"):
        parse_methods(["ifd", "loss", "ifd"], reference=Reference())


def labels(*written):
    return [method.label for method in parse_methods(written, reference=Reference())]


def test_untuned_and_random_are_always_there():
    assert labels("ifd") == ["untuned", "random", "ifd"]
    assert labels("random", "ifd") == ["untuned", "random", "ifd"]
    assert labels("ifd", "untuned", "random") == ["ifd", "untuned", "random"]


# What a method needs


@pytest.mark.parametrize(
    ("written", "reference", "vectors"),
    [
        ("learnability", True, False),
        ("difference/k_center", True, True),
        ("ifd", False, False),
        ("longest", False, False),
        ("random", False, False),
        ("k_center", False, True),
        ("loss@per_cluster=equal", False, True),
        ("loss@max_similarity=0.9", False, True),
        ("in_best", False, False),
    ],
)
def test_a_method_says_what_it_needs(written, reference, vectors):
    assert what(written, "needs_reference", "needs_vectors") == (reference, vectors)


def test_settings_of_a_reference_change_what_it_is():
    one, two = (fingerprint(parsed(written)) for written in ("learnability", "learnability@folds=2"))
    assert one != two


# Choosing


@pytest.fixture
def scores():
    """Return twelve rows of ten tokens, scores falling from the first to the last; the last has no response."""
    falling = np.linspace(1.5, 0.4, N)
    return pl.DataFrame(
        {
            "id": [f"e{row:02}" for row in range(N)],
            "source": ["left", "right"] * (N // 2),
            "tokens": [10] * N,
            "response_tokens": [N - row for row in range(N - 1)] + [0],
            "undefined": [None] * (N - 1) + ["no response"],
            "length": [float(N - row) for row in range(N - 1)] + [math.nan],
            "loss": [*falling[:-1], math.nan],
            "ifd": [*falling[:-1], math.nan],
            "perplexity_drop": [*falling[:-1], math.nan],
            "in_best": [row % 3 == 0 for row in range(N)],
            "in_few": [row in (2, 11) for row in range(N)],
            "in_none": [row == 11 for row in range(N)],
        }
    )


def names(*rows):
    return [f"e{row:02}" for row in rows]


def choose(written, scores, tokens=30, **given):
    method = parse_method(written, reference=Reference(), columns=["in_best", "in_few", "in_none"])
    return method.select(scores, tokens=tokens, **given)


@pytest.mark.parametrize(
    ("written", "rows"),
    [
        ("loss", (0, 1, 2)),
        ("loss@lowest=true", (10, 9, 8)),
        ("longest", (0, 1, 2)),
        ("shortest", (10, 9, 8)),
        ("perplexity_drop", (10, 9, 8)),
        ("perplexity_drop@lowest=true", (0, 1, 2)),
        ("ifd", (5, 6, 7)),
        ("ifd@max_score=inf", (0, 1, 2)),
        ("ifd@max_score=0.65", (9, 10)),
        ("ifd@min_score=0.65,lowest=true", (8, 7, 6)),
        ("loss@where=loss < 1.45", (1, 2, 3)),
        ("loss@per_source=equal", (0, 1, 2)),
    ],
)
def test_a_method_chooses(written, rows, scores):
    assert choose(written, scores) == names(*rows)


def test_the_full_pool_is_all_that_can_be_trained_on(scores):
    assert choose("full", scores, tokens=0) == names(*range(N - 1))


def test_the_untuned_model_chooses_nothing(scores):
    assert choose("untuned", scores, tokens=0) == []


def test_a_random_draw_depends_on_the_seed_alone(scores):
    assert choose("random", scores, seed=1) == choose("random", scores.reverse(), seed=1)
    assert len({tuple(choose("random", scores, seed=seed)) for seed in range(5)}) > 1


def test_a_column_chooses_its_rows(scores):
    assert sorted(choose("in_best", scores, tokens=40)) == names(0, 3, 6, 9)


def test_a_column_below_the_budget_gives_all_it_has(scores):
    assert choose("in_few", scores, tokens=80) == names(2)


def test_a_column_above_the_budget_is_cut_at_random(scores):
    drawn = {tuple(sorted(choose("in_best", scores, tokens=20, seed=seed))) for seed in range(8)}
    assert {len(each) for each in drawn} == {2}
    assert len(drawn) > 1
    assert {name for each in drawn for name in each} <= set(names(0, 3, 6, 9))


def test_a_column_without_a_usable_row_is_an_error(scores):
    with pytest.raises(SelectionError, match="'in_none' holds no example that can be trained on"):
        choose("in_none", scores)


def test_vectors_are_looked_at_only_by_who_needs_them(scores):
    broken = np.full((N, 3), np.nan, dtype=np.float32)
    assert choose("loss", scores, vectors=broken) == names(0, 1, 2)


def test_k_center_goes_by_the_vectors(scores):
    vectors = np.eye(2, dtype=np.float32)[[0] * 6 + [1] * 6]
    chosen = choose("k_center", scores, tokens=20, vectors=vectors)
    assert sorted(name < "e06" for name in chosen) == [False, True]
