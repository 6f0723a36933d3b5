"""Recipes: named, complete configurations. A variant is a function that derives from another."""

import difflib
from collections.abc import Callable

from oskar.config import Config
from oskar.errors import InputError
from oskar.recipes.mae import mae_tiny
from oskar.recipes.oskar import oskar_base, oskar_custom, oskar_demo, oskar_large, oskar_small, oskar_tiny
from oskar.recipes.vjepa import vjepa_large, vjepa_tiny

RECIPES: dict[str, Callable[[], Config]] = {
    "oskar-small": oskar_small,
    "oskar-base": oskar_base,
    "oskar-large": oskar_large,
    "oskar-custom": oskar_custom,
    "oskar-tiny": oskar_tiny,
    "oskar-demo": oskar_demo,
    "vjepa-large": vjepa_large,
    "vjepa-tiny": vjepa_tiny,
    "mae-tiny": mae_tiny,
}


def recipe(name: str) -> Config:
    """The configuration of a recipe; raises InputError naming the nearest one."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.0)[0]
        raise InputError(f"unknown recipe {name!r}", fix=f"did you mean {near}? `oskar recipes` lists all")
    return RECIPES[name]()
