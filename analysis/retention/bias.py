"""Recency bias: how unevenly a policy keeps the text, compared with the tree's ideal and with an even spread.

The ideal follows from the cyclic rule. With R ranks between sinks and recent tokens, one sweep of the cursor makes
R / stride evictions, each of one token out of stride + 1 neighbours, and passes over the whole region, including the
tokens that enter it during that sweep. So a sweep multiplies the density of what it passes by

    q = stride / (stride + 1)          (a half for stride 1)

and after n sweeps the region has R / stride positions of density q^1, as many of q^2, ..., and at the old end
R / stride + R positions of density q^n: together R again. Sinks and recent tokens have density 1. In the middle of a
sweep the oldest stride + 1 tokens per eviction made so far have been passed once more. With a limit of the height the
sweeps start after frozen ranks, see docs/method.md.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.stats import wasserstein_distance

from analysis.retention.record import kept_mask
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError
from treekv.policies.contest import sweep_start

DECILES = 10


def ideal_density(config: TreeKVConfig, tokens: int) -> np.ndarray:
    """Expected share of heads that keep each of `tokens` positions, float64 [tokens], if every comparison were a
    coin toss: 1 for sinks and recent tokens, halving from sweep to sweep towards the past.

    Sums to the cache size once the cache is full. Depends only on the sizes, stride and height of `config`.

    Raises:
        TreeKVError: no region between sinks and recent tokens.
    """
    region, stride = config.region_size, config.stride
    if region < stride + 1:
        raise TreeKVError(f"a tree needs a region of at least {stride + 1} tokens to compare, got {region}")
    density = np.ones(tokens)
    first = config.sink_size
    evictions = max(tokens - config.cache_size, 0)
    sweep, factor = -(-region // stride), stride / (stride + 1)
    done = 0
    while done < evictions:
        start = sweep_start(config.max_height, region, done) if config.max_height else 0
        count = min(sweep - start, evictions - done)
        # What has entered the region by the last eviction of this sweep, oldest first.
        inside = density[first : first + region + done + count]
        before = np.cumsum(inside) - inside - start
        passed = np.clip((stride + 1) * count - before, 0, inside) - np.clip(-before, 0, inside)
        inside -= passed * (1 - factor)
        done += count
    return density


def recency_bias(retention: xr.Dataset, step: int | None = None, ideal: TreeKVConfig | None = None) -> xr.Dataset:
    """The distance of each head's kept tokens from the tree's ideal and from an even spread after `step`.

    Args:
        retention: a record.
        step: position of the last token processed; the record's last when None.
        ideal: settings of the tree to compare with; the paper's defaults (4 sinks, half of the cache recent) when
            None. The number of tokens that the head keeps replaces its cache size, and recent_size scales with it.

    Returns:
        Dataset over (policy, layer, head):
        `distance`, tokens: earth mover's distance between the kept positions and the ideal density, the mean distance
        of a kept token from where the tree would keep one; NaN where too few tokens are kept for a tree;
        `gini`, 0 to 0.9: Gini coefficient of the number of tokens kept in each tenth of the text, 0 if all tenths
        are kept equally; `ideal_gini`, the same of the ideal density (0 where nothing was evicted).

    Raises:
        TreeKVError: a step outside the record or below 9.
    """
    step = int(retention.attrs["steps"]) - 1 if step is None else step
    kept = kept_mask(retention, step).transpose("policy", "layer", "head", "position").values[..., : step + 1]
    if step + 1 < DECILES:
        raise TreeKVError(f"tenths of the text need at least {DECILES} tokens, got {step + 1}")
    position = np.arange(step + 1)
    shape = kept.shape[:3]
    distance, gini_kept, gini_ideal = np.full(shape, np.nan), np.zeros(shape), np.full(shape, np.nan)
    densities: dict[int, np.ndarray | None] = {}
    for index in np.ndindex(shape):
        mine = kept[index]
        size = int(mine.sum())
        if size not in densities:
            densities[size] = _density(size, step + 1, ideal)
        gini_kept[index] = gini(_tenths(mine.astype(float)))
        density = densities[size]
        if density is not None:
            distance[index] = wasserstein_distance(position[mine], position, v_weights=density)
            gini_ideal[index] = gini(_tenths(density))
    dims = ("policy", "layer", "head")
    return xr.Dataset(
        {
            "distance": (dims, distance, {"long_name": "earth mover's distance to the ideal", "units": "tokens"}),
            "gini": (dims, gini_kept, {"long_name": "Gini coefficient over tenths of the text", "units": "1"}),
            "ideal_gini": (dims, gini_ideal, {"long_name": "Gini coefficient of the ideal", "units": "1"}),
        },
        coords={dim: retention[dim].values for dim in dims},
        attrs={"step": step},
    )


def gini(amounts: np.ndarray) -> float:
    """Gini coefficient of non-negative amounts: mean absolute difference of two, divided by twice their mean;
    0 if all are equal (or zero), 1 - 1/n if all but one of n are zero."""
    total = amounts.sum()
    if total <= 0:
        return 0.0
    ordered = np.sort(amounts)
    count = len(ordered)
    return float(((2 * np.arange(1, count + 1) - count - 1) * ordered).sum() / (count * total))


def _density(size: int, tokens: int, ideal: TreeKVConfig | None) -> np.ndarray | None:
    """The ideal density for `size` kept tokens, None where they are too few for a tree."""
    if size >= tokens:
        return np.ones(tokens)
    try:
        if ideal is None:
            config = TreeKVConfig(cache_size=size, prefill="none")
        else:
            recent = ideal.recent_size * size // ideal.cache_size
            config = ideal.replace(
                policy="tree", cache_size=size, recent_size=recent, block_size=1, budgets=None, prefill="none"
            )
        return ideal_density(config, tokens)
    except TreeKVError:
        return None


def _tenths(amounts: np.ndarray) -> np.ndarray:
    """Mean amount in each tenth; the tenths may differ in length by one."""
    return np.array([part.mean() for part in np.array_split(amounts, DECILES)])
