"""Recipes: typed functions that call commands in order, one for each system; what is done already is skipped."""

from collections.abc import Callable, Mapping

from learnable.commands.options import Flat as Flat
from learnable.recipes.ado import ado as ado
from learnable.recipes.clean import clean as clean
from learnable.recipes.compare import compare as compare
from learnable.recipes.delia import delia as delia
from learnable.recipes.dpo import dpo as dpo
from learnable.recipes.irft import irft as irft
from learnable.recipes.less import less as less
from learnable.recipes.lobass import lobass as lobass
from learnable.recipes.merge import merge as merge
from learnable.recipes.pds import pds as pds
from learnable.recipes.rft import rft as rft
from learnable.recipes.run import Run as Run
from learnable.recipes.run import recipe as recipe
from learnable.recipes.slora import slora as slora
from learnable.recipes.target import target as target
from learnable.recipes.vinfo import vinfo as vinfo
from learnable.runs.records import Outcome

RECIPES: Mapping[str, Callable[..., Mapping[str, Outcome]]] = {
    each.__name__: each
    for each in (ado, clean, compare, delia, dpo, irft, less, lobass, merge, pds, rft, slora, target, vinfo)
}
"""The recipes of the package, by name."""
