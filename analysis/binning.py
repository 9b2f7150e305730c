"""Shorter axes: long texts are cut into equal runs of positions, so that a picture stays small."""

from __future__ import annotations

import numpy as np


def edges(length: int, max_cells: int) -> np.ndarray:
    """Borders [cells + 1] of at most `max_cells` equal runs of `length` samples; the last may be shorter."""
    size = max(1, -(-length // max_cells))
    return np.append(np.arange(0, length, size), length)


def mean(array: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """Mean of each run along the last axis."""
    return np.add.reduceat(array, borders[:-1], axis=-1) / np.diff(borders)


def largest(array: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """Maximum of each run along the last axis."""
    return np.maximum.reduceat(array, borders[:-1], axis=-1)
