"""Token contributions of one query as a labelled array."""

from __future__ import annotations

import numpy as np
import xarray as xr
from torch import nn

from analysis.captures.data import Capture


def contributions(captured: Capture, layer: int, query_position: int, model: nn.Module | None = None) -> xr.DataArray:
    """s_j = weight of token j times its value, as `Capture.contributions` computes it, with labels.

    Args:
        captured: the captured text.
        layer: the model's number of a captured layer.
        query_position: the position t of the query.
        model: the captured model; when given, what each token adds to the residual stream through each head.

    Returns:
        float32 (head, position, channel) for positions 0 to t, in host memory; heads are query heads, channels those of
        the values or of the residual stream; coordinate token is the text. attrs: layer, query, model, projected.

    Raises:
        TreeKVError: as `Capture.contributions` does.
    """
    found = captured.contributions(layer, query_position, model).cpu().numpy()
    heads, tokens, channels = found.shape
    return xr.DataArray(
        found,
        dims=("head", "position", "channel"),
        coords={
            "head": np.arange(heads, dtype=np.int32),
            "position": np.arange(tokens, dtype=np.int32),
            "channel": np.arange(channels, dtype=np.int32),
            "token": ("position", np.asarray(captured.token_text[:tokens], dtype=np.str_)),
        },
        name="contribution",
        attrs={"layer": layer, "query": query_position, "model": captured.model, "projected": int(model is not None)},
    )
