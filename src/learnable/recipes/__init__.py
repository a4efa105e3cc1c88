"""Recipes: typed functions that call commands in order, one for each system; what is done already is skipped."""

from collections.abc import Callable, Mapping

from learnable.commands.options import Flat
from learnable.recipes.ado import ado
from learnable.recipes.clean import clean
from learnable.recipes.compare import compare
from learnable.recipes.delia import delia
from learnable.recipes.dpo import dpo
from learnable.recipes.irft import irft
from learnable.recipes.less import less
from learnable.recipes.lobass import lobass
from learnable.recipes.merge import merge
from learnable.recipes.pds import pds
from learnable.recipes.rft import rft
from learnable.recipes.run import Run, recipe
from learnable.recipes.slora import slora
from learnable.recipes.target import target
from learnable.recipes.vinfo import vinfo
from learnable.runs.records import Outcome

RECIPES: Mapping[str, Callable[..., Mapping[str, Outcome]]] = {
    each.__name__: each
    for each in (ado, clean, compare, delia, dpo, irft, less, lobass, merge, pds, rft, slora, target, vinfo)
}
"""The recipes of the package, by name."""

__all__ = [
    "RECIPES",
    "Flat",
    "Run",
    "ado",
    "clean",
    "compare",
    "delia",
    "dpo",
    "irft",
    "less",
    "lobass",
    "merge",
    "pds",
    "recipe",
    "rft",
    "slora",
    "target",
    "vinfo",
]
