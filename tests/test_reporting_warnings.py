"""Each warning of the report fires on its case, with its figure, and is silent on a clean run."""

from dataclasses import replace

import polars as pl
import pytest

from learnable.data.decontamination import IN_EVALUATION
from learnable.pages import SelectionFacts, look
from learnable.pages.selection import render_selection as render
from learnable.pages.warnings import SELECTION_CHECKS
from test_reporting import Page, changed, make_facts


@pytest.fixture(scope="module")
def facts() -> SelectionFacts:
    return make_facts()


@pytest.fixture(scope="module")
def page(facts: SelectionFacts) -> Page:
    return Page(render(facts))


def warnings_of(facts: SelectionFacts) -> list[str]:
    return look(SELECTION_CHECKS, facts).warnings


def no_warning(facts: SelectionFacts) -> SelectionFacts:
    return facts


def memorized(facts: SelectionFacts) -> SelectionFacts:
    return replace(changed(facts, loss_after=pl.lit(0.05)), reference={"kind": "trained", "folds": 0})


def learned_nothing(facts: SelectionFacts) -> SelectionFacts:
    return changed(facts, learnability=pl.col("learnability") - 0.5)


def short_chosen(facts: SelectionFacts) -> SelectionFacts:
    is_kept = pl.col("id").is_in(facts.kept["id"].to_list())
    return changed(facts, response_tokens=pl.when(is_kept).then(3).otherwise(20))


def follows_length(facts: SelectionFacts) -> SelectionFacts:
    return changed(facts, response_tokens=(100 - 100 * pl.col("learnability").fill_nan(0)).cast(pl.Int64))


def learns_to_stop(facts: SelectionFacts) -> SelectionFacts:
    fall = (pl.col("loss_before") - pl.col("loss_after")) * pl.col("response_tokens")
    return changed(facts, end_nll_before=10_000 + 0.3 * fall, end_nll_after=pl.lit(10_000.0))


def truncated(facts: SelectionFacts) -> SelectionFacts:
    return changed(facts, truncated=pl.int_range(pl.len()) < 16)


def undefined(facts: SelectionFacts) -> SelectionFacts:
    return changed(
        facts, learnability=pl.when(pl.int_range(pl.len()) < 16).then(float("nan")).otherwise("learnability")
    )


def duplicated(facts: SelectionFacts) -> SelectionFacts:
    again = facts.rows.head(20).with_columns(reason=pl.lit("seen before"))
    return replace(facts, rows=pl.concat([facts.rows, again]))


def in_the_evaluation(facts: SelectionFacts) -> SelectionFacts:
    again = facts.rows.head(20).with_columns(
        reason=pl.lit(f"{IN_EVALUATION}equal prompt as test.jsonl, row 1")
    )
    return replace(facts, rows=pl.concat([facts.rows, again]))


def lost_source(facts: SelectionFacts) -> SelectionFacts:
    rest = facts.dropped["id"].to_list()[:26]
    return changed(facts, source=pl.when(pl.col("id").is_in(rest)).then(pl.lit("poems")).otherwise("source"))


def lost_small_sources(facts: SelectionFacts, sources: int = 12, size: int = 5) -> SelectionFacts:
    """Make sources of examples that were dropped; of those with five a random fifth would miss one in three."""
    ids = facts.dropped["id"].to_list()[: size * sources]
    names = {id: f"small {place // size}" for place, id in enumerate(ids)}
    return changed(facts, source=pl.col("id").replace_strict(names, default=pl.col("source")))


def tiny(facts: SelectionFacts) -> SelectionFacts:
    return replace(facts, kept=facts.kept.head(9))


def short_of_budget(facts: SelectionFacts) -> SelectionFacts:
    return replace(facts, shortfall="only 60 examples are above the threshold 0.4. Lower it.")


def cut_answers(facts: SelectionFacts) -> SelectionFacts:
    return replace(
        facts, left_out="the chat template leaves out 81.1% of the text of the answers, in 5 of 9 rows"
    )


FIRES = [
    (
        cut_answers,
        "The chat template leaves out 81.1% of the text of the answers",
        "--chat-template my.jinja",
    ),
    (memorized, "The reference seems to have memorized part of the pool", "Use --reference.folds 2"),
    (learned_nothing, "of the learnability scores", "more epochs or with a higher learning rate"),
    (short_chosen, "its median response has 3 tokens, the pool's has 20", "--by length_matched"),
    (
        follows_length,
        "Spearman correlation of learnability with response tokens is",
        "choosing short answers",
    ),
    (learns_to_stop, "is to stop: 30% of the whole fall", "--by text_learnability"),
    (truncated, "5.3% of the examples (16 of 300) were cut", "Raise the length limit"),
    (undefined, "5.3% of the examples (16 of 300) have no score", "repair the data"),
    (duplicated, "7.6% of the rows read (25 of 328) repeat", "no file was given twice"),
    (in_the_evaluation, "6.1% of the rows read (20 of 328)", "evaluation"),
    (lost_source, "1 of 4 sources is gone from the selection: poems (26 examples)", "--per-source"),
    (lost_small_sources, "12 of 15 sources are gone from the selection", "keep about 12 of their examples"),
    (tiny, "Only 9 examples were chosen, fewer than 10", "Raise the budget"),
    (short_of_budget, "smaller than asked (20% of the examples): only 60 examples", "Lower it."),
]


def test_length_matched_is_named_where_it_can_be_had(facts: SelectionFacts) -> None:
    short = short_chosen(facts)
    aimed = replace(short, scores=short.scores.drop("loss_after"))
    for case, advice in ((short, "--by length_matched"), (aimed, "--where")):
        (warning,) = [each for each in warnings_of(case) if "dominated by short answers" in each]
        assert advice in warning
        assert ("length_matched" in warning) == (case is short)


def test_a_clean_run_has_no_warning(facts: SelectionFacts, page: Page) -> None:
    assert warnings_of(facts) == []
    assert "Nothing suspicious seen" in page.plain
    for name in SELECTION_CHECKS:
        assert name in page.plain


def test_rows_of_an_evaluation_are_sought_only_where_one_was_named(facts):
    name = "rows of the evaluation"
    assert name in look(SELECTION_CHECKS, replace(facts, looked_at_evaluation=False)).impossible
    assert name in look(SELECTION_CHECKS, replace(facts, looked_at_evaluation=True)).clear


@pytest.mark.parametrize(("change", "figure", "advice"), FIRES, ids=[case[0].__name__ for case in FIRES])
def test_a_warning_fires_with_its_figure_and_what_to_do(
    facts: SelectionFacts, change, figure: str, advice: str
) -> None:
    case = change(facts)
    found = [warning for warning in warnings_of(case) if figure in warning]
    assert len(found) == 1
    assert advice in found[0]
    assert found[0] in Page(render(case)).plain


def test_every_check_has_a_case_that_fires(facts: SelectionFacts) -> None:
    views = [case(facts) for case, _, _ in FIRES]
    assert [name for name, check in SELECTION_CHECKS.items() if not any(map(check, views))] == []


def test_thresholds_are_not_crossed_when_met(facts: SelectionFacts) -> None:
    fifteen = pl.int_range(pl.len()) < 15  # exactly 5% of 300
    assert warnings_of(changed(facts, truncated=fifteen)) == []
    assert warnings_of(replace(facts, kept=facts.kept.head(10))) == []


def test_sources_of_one_example_are_lost_by_chance_too(facts: SelectionFacts) -> None:
    assert warnings_of(lost_small_sources(facts, sources=30, size=1)) == []


def test_a_score_that_leaves_the_end_of_turns_out_may_be_of_answers_that_end(facts: SelectionFacts) -> None:
    scores = learns_to_stop(facts).scores.with_columns(text_learnability="learnability")
    assert warnings_of(replace(facts, scores=scores, by="text_learnability")) == []


def test_the_page_says_which_share_is_learning_to_stop(facts: SelectionFacts) -> None:
    assert (
        "that of the token which ends a turn: 30% in the pool, 30% in the selection"
        in Page(render(learns_to_stop(facts))).plain
    )


def test_a_cross_fitted_reference_cannot_have_memorized(facts: SelectionFacts) -> None:
    assert warnings_of(replace(memorized(facts), reference={"kind": "trained", "folds": 2})) == []
    (given,) = warnings_of(replace(memorized(facts), reference={"kind": "given"}))
    assert "If the reference was trained on these examples" in given


def test_in_sample_is_a_note_not_a_warning(facts: SelectionFacts) -> None:
    case = replace(facts, reference={"kind": "trained", "folds": 0})
    assert warnings_of(case) == []
    assert "The reference is in-sample" in Page(render(case)).plain


def test_a_lower_is_better_score_that_follows_length_is_named_rightly(facts: SelectionFacts) -> None:
    (warning,) = (
        w for w in warnings_of(replace(follows_length(facts), higher_is_better=False)) if "Spearman" in w
    )
    assert "choosing long answers" in warning
