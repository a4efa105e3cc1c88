"""What can be named: every method is listed with what it needs and costs, and the names are those that commands take."""

import inspect
import re
from pathlib import Path

import pytest

from learnable.cli import listing
from learnable.commands.score import passes_of
from learnable.diversifiers import DIVERSIFIERS
from learnable.evaluators import EVALUATORS
from learnable.measures import roles_of
from learnable.mixing import MIXTURES
from learnable.recipes import RECIPES
from learnable.recipes.run import options_of
from learnable.scorers import SCORERS
from learnable.selectors import SELECTORS

TABLES = {
    "scorers": SCORERS,
    "selectors": SELECTORS,
    "diversifiers": DIVERSIFIERS,
    "evaluators": EVALUATORS,
    "mixtures": MIXTURES,
    "recipes": RECIPES,
}


@pytest.mark.parametrize("kind", TABLES)
def test_all_of_a_table_are_listed(kind):
    entries = listing.listed(kind).kinds[kind]
    assert [entry.name for entry in entries] == list(TABLES[kind])
    assert all(entry.about and entry.costs and entry.usage for entry in entries)


@pytest.mark.parametrize("name", SCORERS)
def test_the_passes_of_a_scorer_are_those_that_scoring_runs(name):
    (entry,) = [each for each in listing.entries("scorers") if each.name == name]
    roles = roles_of(SCORERS[name].needs)
    assert int(entry.costs.partition(" ")[0].replace("no", "0")) == len(passes_of(roles, "none"))
    assert ("training epoch" in entry.costs) == ("a reference" in entry.needs) == ("reference" in roles)


def test_vectors_are_named_where_a_selector_needs_them():
    needs = {entry.name: entry.needs for entry in listing.entries("selectors")}
    assert "vectors" in needs["k_center"]
    assert "vectors" not in needs["top_k"]


def test_the_material_of_a_mixture_is_named():
    needs = {entry.name: entry.needs for entry in listing.entries("mixtures")}
    assert needs["delia"] == ("task", "paraphrases", "buffer")
    assert needs["common"] == ("task",)


def test_rules_alone_need_no_generator_and_cost_no_pass():
    entries = {entry.name: entry for entry in listing.entries("diversifiers")}
    assert entries["hints"].costs == "no pass: rules alone"
    assert entries["paraphrase"].costs == "up to 256 tokens written for each text"


def test_packages_are_those_that_evaluators_import():
    for name, evaluator in EVALUATORS.items():
        source = Path(inspect.getfile(evaluator)).read_text("utf-8")
        imported = {module.partition(".")[0] for module in re.findall(r'needed\("([\w.]+)"', source)}
        packages = {package.partition("[")[0].replace("-", "_") for package in evaluator.packages}
        # servers.py imports openai, whoever asks; lm-eval[ifeval] brings nltk.
        assert packages == ({"openai"} if name == "judge" else imported - {"nltk"})


def test_a_recipe_costs_what_its_steps_do():
    costs = {entry.name: entry.costs for entry in listing.entries("recipes")}
    assert costs["lobass"] == "2 passes (base, reference), 1 training epoch"
    assert costs["compare"].endswith("3 trainings of each method")


@pytest.mark.parametrize("name", RECIPES)
def test_every_option_of_a_recipe_is_listed_with_what_it_is_for(name):
    (entry,) = [each for each in listing.entries("recipes") if each.name == name]
    assert [setting.name for setting in entry.settings] == [each.flag for each in options_of(RECIPES[name])]
    assert all(setting.about for setting in entry.settings)


def test_one_thing_has_its_settings_with_defaults_and_what_they_are_for():
    (entry,) = listing.listed("ifd")
    ratio, floor = entry.settings
    assert (ratio.name, ratio.default, ratio.takes) == ("ratio", "loss", "loss, perplexity")
    assert floor.default == 1e-6
    assert "divides mean losses" in ratio.about
    assert "Cherry LLM" in entry.source


def test_a_setting_is_explained_by_the_class_it_comes_from():
    (entry,) = listing.listed("soft_learnability")
    assert [(each.name, each.default) for each in entry.settings] == [
        ("power", 0.5),
        ("floor", 1e-6),
        ("end_of_turn", True),
    ]
    assert all(each.about for each in entry.settings)


def test_a_name_of_two_kinds_shows_both():
    assert [entry.kind for entry in listing.listed("delia")] == ["recipe", "mixture"]


def test_groups_of_a_recipe_are_written_with_a_dot_and_carry_its_own_values():
    settings = {setting.name: setting for setting in listing.listed("delia")[0].settings}
    assert settings["--learning-rate"].default == 0.0005
    assert settings["--rank"].default == 16
    assert settings["--wordings"].about == "Rewrites of each instruction."
    settings = {setting.name: setting for setting in listing.listed("compare")[0].settings}
    assert settings["--tuning.rank"].default == 16
