"""The eviction map as an image: the cells that plotly's map has, in its colours."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
import xarray as xr
from PIL import Image
from plotly.colors import sample_colorscale

from analysis.plot import still_eviction_map
from analysis.retention import record
from treekv import TreeKVError


def a_record(tokens: int) -> xr.Dataset:
    generator = np.random.default_rng(tokens)
    gone = np.arange(tokens) + generator.integers(1, tokens + 1, (2, 3, 2, tokens))
    values = np.where(gone >= tokens, -1, gone).astype(np.int32)
    dims = ("policy", "layer", "head", "position")
    coords = {"policy": ["tree", "<b>"], "layer": [0, 1, 2], "head": [0, 1], "position": np.arange(tokens)}
    return xr.Dataset({"evicted_at": (dims, values), "survivor": (dims, values)}, coords, {"steps": tokens})


@pytest.mark.parametrize("tokens", [1, 37, 600])
def test_each_pixel_is_the_share_of_heads_that_keep_a_token(tokens: int) -> None:
    data = a_record(tokens)
    written = still_eviction_map(data, policy="tree")
    (image,) = re.findall(r"data:image/png;base64,([^\"]+)", written)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(image))).convert("RGBA"))
    cells = record.retention_map(data, "tree", max_cells=256).values
    assert pixels.shape == (*cells.shape, 4)
    future = np.isnan(cells)
    assert (pixels[future][:, 3] == 0).all() and (pixels[~future][:, 3] == 255).all()
    for percent in np.unique(np.rint(100 * cells[~future])):
        (colour,) = sample_colorscale("Cividis", [percent / 100])
        expected = [float(part) for part in colour[4:-1].split(",")]
        assert np.abs(pixels[np.rint(100 * cells) == percent][:, :3] - expected).max() <= 1


def test_names_are_escaped_and_the_alternative_has_the_numbers() -> None:
    data = a_record(40)
    written = still_eviction_map(data, policy="<b>")
    assert "<b>" not in written and "&lt;b&gt;" in written
    last = record.kept_mask(data.sel(policy="<b>"), 39).transpose(..., "position").values.reshape(-1, 40).mean(0)
    assert f"kept to {', '.join(f'{100 * part.mean():.0f} %' for part in np.array_split(last, 4))}" in written
    with pytest.raises(TreeKVError, match="choose one of tree, <b>"):
        still_eviction_map(data, policy="other")
    with pytest.raises(TreeKVError, match="several policies"):
        still_eviction_map(data)
