"""The paper's figure 1: which of 512 tokens H2O, TOVA and TreeKV keep in a cache of 128, with nothing protected.

The paper draws one text, kept as 1 and evicted as 0, averaged over heads, and reads from it that H2O and TOVA pile up
in regions while TreeKV is smooth. The numbers that say so here are ours.
Source: He et al., TreeKV, IJCAI 2025, arXiv 2501.04987.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from analysis import netcdf
from analysis.captures.data import Capture
from analysis.progress import Progress
from analysis.retention.bias import recency_bias
from analysis.retention.record import kept_mask
from analysis.retention.simulate import simulate
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError

POLICIES = ("h2o", "tova", "tree")


def figure1(
    captured: Capture,
    cache_size: int | None = None,
    *,
    policies: Sequence[str] = POLICIES,
    layers: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Which tokens of a text each policy keeps to its end, with neither sinks nor recent tokens protected.

    The policies watch the captured text go by one token at a time (`analysis.simulate`): attention is that of the full
    model, renormalised over what the policy still holds.

    Args:
        captured: the captured text, 512 tokens for the paper's figure.
        cache_size: tokens kept; a quarter of the text, the paper's 128 of 512, when None.
        policies: names of policies that evict while decoding.
        layers: the model's numbers of the layers; all captured ones by default.
        progress: as of `analysis.simulate`.

    Returns:
        Dataset:
          kept         (policy, layer, head, position)  bool; heads are KV heads, which share their tokens
          longest_gap  (policy, layer, head)  tokens: the longest stretch of the text without a kept token
          gini         (policy, layer, head)  unevenness of the number kept in each tenth of the text: 0 if all tenths
                                              are kept alike, 0.9 if one has all
          distance     (policy, layer, head)  tokens: mean distance of a kept token from where the tree's ideal density
                                              has one (earth mover's distance)
          ideal_gini   (policy, layer, head)  the Gini coefficient of that density
        coords policy, layer, head, position, token (position). attrs: model, tokens, cache_size.

    Raises:
        TreeKVError: a cache that the text does not fill or that is too small for a tree, an unknown policy or one that
            cannot go unprotected, or a layer that was not captured.
    """
    size = captured.tokens // 4 if cache_size is None else cache_size
    if not 2 <= size < captured.tokens:
        raise TreeKVError(
            f"cache_size is {size}; give 2 to {captured.tokens - 1}, so that a text of {captured.tokens} tokens "
            "overfills the cache"
        )
    configs = {policy: _unprotected(policy, size) for policy in dict.fromkeys(policies)}
    retention = simulate(captured, configs, layers=layers, progress=progress)
    step = int(retention.attrs["steps"]) - 1
    kept = kept_mask(retention, step).transpose("policy", "layer", "head", "position")
    found = recency_bias(retention, step, ideal=_unprotected("tree", size))
    found["kept"] = (kept.dims, kept.values, {"long_name": "kept at the end of the text"})
    found["longest_gap"] = (
        kept.dims[:-1],
        longest_gap(kept.values).astype(np.int32),
        {"long_name": "longest stretch without a kept token", "units": "tokens"},
    )
    return found.assign_coords(position=retention["position"], token=retention["token"]).assign_attrs(
        model=captured.model, tokens=captured.tokens, cache_size=size, **netcdf.versions()
    )


def longest_gap(kept: np.ndarray) -> np.ndarray:
    """Length of the longest run of False along the last axis."""
    run = np.zeros(kept.shape[:-1], np.int64)
    longest = run.copy()
    for position in range(kept.shape[-1]):
        run = np.where(kept[..., position], 0, run + 1)
        longest = np.maximum(longest, run)
    return longest


def _unprotected(policy: str, size: int) -> TreeKVConfig:
    try:
        return TreeKVConfig(policy=policy, cache_size=size, sink_size=0, recent_size=0, prefill="none")
    except TreeKVError as error:
        raise TreeKVError(f"figure 1 protects nothing, which {policy!r} does not allow: {error}") from error
