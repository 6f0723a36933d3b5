"""Masking: allocation, shapes, exclusivity, and the plan they make; then packing what was chosen."""
