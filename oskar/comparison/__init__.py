"""Recipes against each other: the same budget, the same seeds, the same frozen evaluation."""
