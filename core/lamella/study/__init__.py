"""Grids of methods, conditions and seeds: run them, and put them in one table with intervals."""
