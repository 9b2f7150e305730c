"""Measure what a cache costs in quality, speed and memory.

`tasks` are the measurements, `sweep` runs them over models, settings and budgets, `report` aggregates the records.
"""

from analysis.evaluation.stream_perplexity import StreamResult, stream_perplexity
from analysis.evaluation.tasks.base import BatchTask, Document, Measurement, Task, create

__all__ = ["BatchTask", "Document", "Measurement", "StreamResult", "Task", "create", "stream_perplexity"]
