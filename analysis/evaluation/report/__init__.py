"""Tables and figures from the records of a sweep.

records = sweep.Results("runs/first").read()
rows = summarize(records, baseline="full")      # means, intervals, paired differences
quality([row for row in rows if row.task == "ppl"])
loss_by_position(group_cells(records)); needle_grid(group_cells(records))
"""

from analysis.evaluation.report.aggregate import Cell, Estimate, Row, group_cells, summarize
from analysis.evaluation.report.figures import loss_by_position, needle_grid, quality

__all__ = ["Cell", "Estimate", "Row", "group_cells", "loss_by_position", "needle_grid", "quality", "summarize"]
