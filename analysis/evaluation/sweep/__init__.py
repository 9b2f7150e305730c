"""Measure every cell of a grid, write a record for each, and resume after an interruption.

run_sweep(parse_grid(read_grid("sweep.yaml")), Results("runs/first"))
"""

from analysis.evaluation.sweep.grid import Grid, parse_grid, read_grid
from analysis.evaluation.sweep.records import Record, Results
from analysis.evaluation.sweep.run import Outcome, run_sweep
from analysis.evaluation.sweep.summary import read_records, read_summary, restore, write_summary

__all__ = [
    "Grid",
    "Outcome",
    "Record",
    "Results",
    "parse_grid",
    "read_grid",
    "read_records",
    "read_summary",
    "restore",
    "run_sweep",
    "write_summary",
]
