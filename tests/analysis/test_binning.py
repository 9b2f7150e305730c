"""Bins of equal length."""

import numpy as np

from analysis import binning


def test_bins_cover_everything_once():
    borders = binning.edges(10, 4)
    assert borders.tolist() == [0, 3, 6, 9, 10]
    values = np.arange(10.0)
    assert binning.mean(values, borders).tolist() == [1, 4, 7, 9]
    assert binning.largest(values, borders).tolist() == [2, 5, 8, 9]
    assert binning.edges(5, 512).tolist() == [0, 1, 2, 3, 4, 5]
