"""The page of a comparison."""

from learnable.pages.comparison import answers, choices, costs, pictures, sources
from learnable.pages.comparison.cautions import cautions_of
from learnable.pages.comparison.facts import Comparison, ComparisonFacts, comparison_of
from learnable.pages.document import document
from learnable.pages.verdicts import probability
from learnable.pages.words import count, plural

SHOWN_ITEMS = 20


def render(facts: ComparisonFacts) -> str:
    """Write the report of one comparison as a self-contained page.

    Args:
        facts: What the report is made from.

    Returns:
        HTML of about 1 MB, whatever the number of items.
    """
    comparison = comparison_of(facts)
    cost = costs.costs(comparison)
    drawn, panels = pictures.all_of(comparison, cost)
    return document(
        "comparison.html.j2",
        pictures=drawn,
        styles=["comparison.css"],
        facts=facts,
        comparison=comparison,
        headline=answers.headline(comparison),
        tiles=_tiles(comparison),
        answers=answers.answers(comparison),
        panels=panels,
        probability=probability,
        costs=cost,
        paybacks=costs.paybacks(comparison),
        choices=choices.choices(comparison),
        sources=choices.sources_shown(comparison),
        overlap=choices.overlap(comparison),
        alone=choices.alone(comparison),
        by_source=sources.by_source(comparison),
        cautions=cautions_of(comparison),
        in_pool=facts.overlap.head(SHOWN_ITEMS).to_dicts(),
    )


def _tiles(comparison: Comparison) -> list[tuple[str, str, str]]:
    """The first figures to see: name, value, remark."""
    facts = comparison.facts
    models = facts.arms.filter(facts.arms["tokens"] > 0)
    trained = models.unique("model")
    tokens = int(facts.scores["tokens"].sum())
    budgets = [count(budget) for budget in comparison.budgets]
    return [
        (
            "evaluations",
            count(len(comparison.evaluated)),
            "each answers for itself" if len(comparison.evaluated) > 1 else "",
        ),
        ("methods", count(len(comparison.methods) - 1), "and a random draw"),
        (
            "budgets",
            count(len(budgets)),
            f"{budgets[0]} to {budgets[-1]} tokens" if len(budgets) > 1 else f"{budgets[0]} tokens",
        ),
        ("seeds", count(comparison.seeds), "trainings of each method"),
        ("models trained", count(trained.height), f"on {count(int(trained['tokens'].sum()))} tokens"),
        ("pool", count(facts.scores.height), f"{plural(tokens, 'token')}"),
    ]
