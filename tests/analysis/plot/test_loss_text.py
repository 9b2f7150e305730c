"""Every token is shaded by the loss it has more than with the full cache."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from analysis import plot
from tests.analysis.plot.test_retained_text import Spans
from treekv import TreeKVError


@pytest.fixture
def table():
    loss = np.array([[1.0, 2.0, 0.5, 3.0], [1.0, 4.5, 0.25, 4.0]], np.float32)
    return xr.Dataset(
        {"loss": (("policy", "position"), loss)},
        coords={
            "policy": ["full", "tree"],
            "position": np.arange(5, 9),
            "token": ("position", ["a", "<b>", "c\n", "d"]),
        },
        attrs={"source": "replay"},
    )


def test_tokens_say_both_losses(table):
    page = plot.text_loss(table, policy="tree")
    spans = Spans(page).found
    assert spans[1] == ["position 6: loss 4.50, with the full cache 2.00", "<b>"]
    assert "predicted" in page and "most +2.50 at position 6" in page
    paler, darkest = (page.split(f'title="position {n}')[0].rsplit("background:", 1)[1].split(";")[0] for n in (7, 6))
    assert paler == "light-dark(#f2f3f5,#1a202a)" != darkest  # a loss that fell is not shaded
    assert plot.text_loss(table) == page
    part = plot.text_loss(table.assign_attrs(source="run"), policy="tree", start=7, stop=9)
    assert [text for _, text in Spans(part).found] == ["c\u23ce", "d"] and "measured" in part


def test_what_does_not_exist_is_one_sentence(table):
    with pytest.raises(TreeKVError, match="no settings 'h2o' beside the full cache; there are tree"):
        plot.text_loss(table, policy="h2o")
    with pytest.raises(TreeKVError, match="no settings None beside the full cache; there are none"):
        plot.text_loss(table.isel(policy=[0]))
    with pytest.raises(TreeKVError, match="within positions 5 to 9, got 5 to 20"):
        plot.text_loss(table, policy="tree", stop=20)
    with pytest.raises(TreeKVError, match="first row of the losses is not the full cache"):
        plot.text_loss(table.sel(policy=["tree", "full"]), policy="full")
    with pytest.raises(TreeKVError, match="lack the text"):
        plot.text_loss(table.drop_vars("token"), policy="tree")
