"""Tables and figures from the records of a sweep.

records = sweep.Results("runs/first").read()
rows = summarize(records, baseline="full")      # means, intervals, paired differences
quality([row for row in rows if row.task == "ppl"])
loss_by_position(group_cells(records)); needle_grid(group_cells(records))
loss_by_length(group_cells(records), baseline="tree")         # the paper's figures 4 and 5
"""

from analysis.evaluation.report.aggregate import Cell, Estimate, Row, group_cells, summarize
from analysis.evaluation.report.figures import loss_by_position, needle_grid, quality
from analysis.evaluation.report.length_figure import loss_by_length, running_loss

__all__ = [
    "Cell",
    "Estimate",
    "Row",
    "group_cells",
    "loss_by_length",
    "loss_by_position",
    "needle_grid",
    "quality",
    "running_loss",
    "summarize",
]
