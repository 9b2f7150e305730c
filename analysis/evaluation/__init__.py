"""What a cache costs in quality: one task a file."""

from analysis.evaluation.stream_perplexity import StreamResult, stream_perplexity
from analysis.evaluation.tasks.base import BatchTask, Document, Measurement, Task, create

__all__ = ["BatchTask", "Document", "Measurement", "StreamResult", "Task", "create", "stream_perplexity"]
