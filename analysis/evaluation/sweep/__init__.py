"""Measure every cell of a grid, write a record for each, and resume after an interruption."""
