"""What a cache costs in quality: one task a file."""

from analysis.evaluation.perplexity import StreamResult, stream_perplexity

__all__ = ["StreamResult", "stream_perplexity"]
