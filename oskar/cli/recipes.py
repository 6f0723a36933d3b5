"""``oskar recipes``."""

import sys

from rich.console import Console
from rich.table import Table

from oskar.recipes import RECIPES


def recipes() -> None:
    """List the recipes with one line each."""
    table = Table("recipe", "what it is", box=None)
    for name, make in RECIPES.items():
        table.add_row(name, (make.__doc__ or "").strip().splitlines()[0])
    Console(width=None if sys.stdout.isatty() else 160).print(table)
