"""Refuse a spectrum of a model that overflowed: a mean over NaN, or a test of it, would look like a result."""

from __future__ import annotations

import numpy as np
import xarray as xr

from treekv.errors import TreeKVError


def check_finite(spectrum: xr.Dataset, name: str = "the spectrum") -> None:
    """Raise TreeKVError unless the amplitudes are finite; beyond a query its own are NaN by definition."""
    finite = bool(np.isfinite(spectrum["amplitude"].values).all())
    if finite and "query_amplitude" in spectrum:
        by_query = np.isfinite(spectrum["query_amplitude"].transpose("query", "band", "position").values)
        beyond = spectrum["position"].values > spectrum["query"].values[:, None]
        finite = bool((by_query | beyond[:, None]).all())
    if not finite:
        raise TreeKVError(
            f"{name} has amplitudes that are not finite numbers: the model overflowed; capture the text again, with "
            "the model in torch.float32 or torch.bfloat16"
        )
