"""Agreement of policies, layers and heads on which tokens to keep: Jaccard indices of the kept sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from analysis.retention.record import kept_mask, select
from treekv.errors import TreeKVError

BETWEEN = ("policy", "layer", "head")


def agreement(retention: xr.Dataset, between: str = "policy", step: int | None = None) -> xr.DataArray:
    """Jaccard index |A and B| / |A or B| of the positions kept after `step` (the last one when None).

    Args:
        retention: a record.
        between: "policy" compares the policies in the same layer and head and averages over heads,
            (layer, policy, other); "head" compares the heads of a layer, (policy, layer, head, other); "layer"
            compares every head of one layer with every head of another and takes the mean, (policy, layer,
            other); within one layer only different heads are compared; it is 1 if there is one head.
        step: position of the last token processed.

    Returns:
        DataArray "agreement", 0 to 1; two empty sets agree fully.

    Raises:
        TreeKVError: unknown `between`, or a step outside the record.
    """
    if between not in BETWEEN:
        raise TreeKVError(f"between must be one of {', '.join(map(repr, BETWEEN))}, got {between!r}")
    step = int(retention.attrs["steps"]) - 1 if step is None else step
    kept = kept_mask(retention, step).transpose("policy", "layer", "head", "position").values
    names = {dim: retention[dim].values for dim in BETWEEN}
    attrs = {"step": step, "between": between, "long_name": "Jaccard index of the tokens kept"}
    if between == "policy":
        values = _jaccard(np.moveaxis(kept, 0, 2)).mean(1)
        dims: tuple[str, ...] = ("layer", "policy", "other")
    elif between == "head":
        values = _jaccard(kept)
        dims = ("policy", "layer", "head", "other")
    else:
        policies, layers, heads, length = kept.shape
        pairs = _jaccard(kept.reshape(policies, layers * heads, length))
        pairs = pairs.reshape(policies, layers, heads, layers, heads)
        values = pairs.mean((2, 4))
        if heads > 1:
            own = np.arange(layers)
            same = pairs[:, own, :, own, :]  # layer first, then policy: (layer, policy, head, other head)
            alone = np.einsum("lphh->lp", same)
            values[:, own, own] = ((same.sum((2, 3)) - alone) / (heads * (heads - 1))).T
        dims = ("policy", "layer", "other")
    coords = {dim: names[dim] for dim in dims if dim != "other"}
    return xr.DataArray(values, dims=dims, coords=coords | {"other": names[between]}, name="agreement", attrs=attrs)


def _jaccard(kept: np.ndarray) -> np.ndarray:
    """[..., n, n] from bool [..., n, positions]."""
    sets = kept.astype(np.float32)  # exact for counts below 2^24
    both = sets @ np.swapaxes(sets, -1, -2)
    size = sets.sum(-1)
    either = size[..., :, None] + size[..., None, :] - both
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def agreement_over_time(
    data: xr.Dataset, policies: Sequence[str], layer: int | None = None, head: int | None = None
) -> float:
    """How much of what either of two policies keeps both keep, 0 to 1, summed over all steps, layers and heads.

    `data` is a retention record with both. Raises TreeKVError for a policy, layer or head that is not in it.
    """
    held = [select(data, name, layer, head)["evicted_at"].values.astype(np.int64) for name in policies]
    steps, position = int(data.attrs["steps"]), data["position"].values
    until = [np.where(gone < 0, steps, gone) - position for gone in held]
    either = float(np.maximum(*until).sum())
    return float(np.minimum(*until).sum()) / either if either else 1.0
