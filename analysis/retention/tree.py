"""The eviction tree: which token was absorbed by which.

A token that loses a comparison is absorbed by the token that won it (`survivor` in a retention record), which may be
absorbed itself later. Tokens that are still kept, or were evicted without a comparison, are the roots.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from treekv.errors import TreeKVError

ROOT = -1


def eviction_tree(retention: xr.Dataset, step: int | None = None) -> xr.Dataset:
    """The forest after the token at position `step` was processed (the last one when None).

    Returns:
        Dataset over the record's (policy, layer, head) and the positions up to `step`, all int32:
        `parent`, the position of the token that absorbed this one, -1 for a root;
        `root`, the position of its root, its own for a root;
        `depth`, the number of absorptions between it and its root;
        `size`, the number of tokens it represents: itself and all that were absorbed into it, directly or not.

    Raises:
        TreeKVError: a step outside the record, or a record whose absorptions form a cycle.
    """
    steps = int(retention.attrs["steps"])
    step = steps - 1 if step is None else step
    if not 0 <= step < steps:
        raise TreeKVError(f"step {step} is outside the record; give 0 to {steps - 1}")
    record = retention[["evicted_at", "survivor"]].transpose("policy", "layer", "head", "position")
    record = record.isel(position=slice(step + 1))
    evicted_at, survivor = record["evicted_at"].values, record["survivor"].values
    shape, length = evicted_at.shape, step + 1
    absorbed = (evicted_at >= 0) & (evicted_at <= step) & (survivor >= 0)
    parent = np.where(absorbed, survivor, ROOT).reshape(-1, length)
    if parent.size and parent.max() >= length:
        raise TreeKVError("the record is damaged: a token was absorbed by one that did not exist yet")

    rows = np.arange(len(parent))[:, None]
    depth = (parent >= 0).astype(np.int32)
    root = np.where(parent >= 0, parent, np.arange(length))
    # Pointer doubling: after k rounds `root` is the ancestor 2^k absorptions up.
    for _ in range(length.bit_length() + 1):
        above = depth[rows, root]
        if not above.any():
            break
        depth, root = depth + above, root[rows, root]
    else:
        raise TreeKVError("the record is damaged: tokens absorb each other in a cycle")
    size = np.ones_like(depth)
    for level in range(int(depth.max(initial=0)), 0, -1):
        row, position = np.nonzero(depth == level)
        np.add.at(size, (row, parent[row, position]), size[row, position])

    dims = ("policy", "layer", "head", "position")
    arrays = {"parent": parent, "root": root, "depth": depth, "size": size}
    return xr.Dataset(
        {name: (dims, values.reshape(shape).astype(np.int32)) for name, values in arrays.items()},
        coords=record.coords,
        attrs={"step": step},
    )
