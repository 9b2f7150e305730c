"""Binning: long axes are divided into bins of equal length, so that a figure stays small."""

from __future__ import annotations

import numpy as np


def edges(length: int, max_cells: int) -> np.ndarray:
    """Edges [bins + 1] of at most `max_cells` bins of equal length over `length` samples; the last may be shorter."""
    size = max(1, -(-length // max_cells))
    return np.append(np.arange(0, length, size), length)


def mean(array: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """Mean of each bin along the last axis."""
    return np.add.reduceat(array, borders[:-1], axis=-1) / np.diff(borders)


def largest(array: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """Maximum of each bin along the last axis."""
    return np.maximum.reduceat(array, borders[:-1], axis=-1)
