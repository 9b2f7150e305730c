"""Measure many cells, resume after an interruption, keep every record."""
