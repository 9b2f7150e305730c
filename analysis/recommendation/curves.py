"""What each head loses at several capacities, simulated, and the capacities with the least sum of losses."""

from __future__ import annotations

from typing import Final

import numpy as np
import xarray as xr

from analysis.captures.data import Capture
from analysis.progress import Progress
from analysis.retention.loss import output_loss
from analysis.retention.simulate import simulate
from analysis.wavelets.far_context import LEAST, MOST
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError

SMALLEST: Final = 16  # tokens of a head; fewer have no room for sinks, recent tokens and a window of 8 neighbours
#: Capacities of a curve, as multiples of the mean budget: 24 to 640 for 128.
MULTIPLES: Final = (LEAST, 0.3125, 0.5, 0.75, 1.125, 1.625, 2.375, 3.5, MOST)
PROMPT_MULTIPLES: Final = (0.15625, 0.25, 0.375, 0.5625, 0.84375, 1.25, 1.875, 2.8125, 4.21875, 7.03125)  # 20 to 900


def damage_curves(
    captured: Capture,
    config: TreeKVConfig,
    *,
    prompt: int = 0,
    multiples: tuple[float, ...] = MULTIPLES,
    progress: Progress | None = None,
) -> xr.DataArray:
    """The damage of every head at several capacities, on one text.

    Args:
        captured: a capture with gradients.
        config: the settings to simulate, without budgets, at other values of `cache_size`; recent tokens should follow
            it (the default, "quarter" or "eighth").
        prompt: as of `simulate`; the damage is then that of the tokens after it.
        multiples: the capacities, in units of `config.cache_size`.
        progress: called with (done, total), tokens times layers times capacities.

    Returns:
        float64 (size, layer, head), nats a token (see `analysis.retention.damage`); heads are KV heads. Capacities that
        hold the whole text, or prompt, are left out.

    Raises:
        TreeKVError: a capture without gradients, a prompt that leaves nothing, or a text that fewer than two of the
            capacities are shorter than.
    """
    captured.check_sensitivity()
    sizes = sorted({max(round(multiple * config.cache_size), SMALLEST) for multiple in multiples})
    if not 0 <= prompt <= captured.tokens - 2:
        raise TreeKVError(f"prompt must leave at least 2 of the {captured.tokens} tokens, got {prompt}")
    most = prompt or captured.tokens
    known, sizes = sizes, [size for size in sizes if size < most]
    if len(sizes) < 2:
        what = "prompt" if prompt else "text"
        raise TreeKVError(
            f"curves around {config.cache_size} tokens need a {what} of more than {known[min(1, len(known) - 1)]} "
            f"tokens; this one has {most}"
        )
    blocks = {} if prompt else {"block_size": config.block_size}
    configs = {str(size): config.replace(cache_size=size, **_at_most(blocks, size)) for size in sizes}
    retention = simulate(captured, configs, prompt=prompt, progress=progress)
    damage = output_loss(captured, retention, [captured.tokens - 1])["damage"]
    renamed = damage.rename({"policy": "size", "kv_head": "head"}).transpose("size", "layer", "head")
    # It is a mean over all tokens that predict one, of which those of a prompt have no damage.
    share = (captured.tokens - 1) / (captured.tokens - 1 - prompt)
    return renamed.assign_coords(size=sizes).astype(np.float64) * share


def _at_most(blocks: dict[str, int], size: int) -> dict[str, int]:
    return {name: min(block, size) for name, block in blocks.items()}


def least_damage(curves: xr.DataArray, cache_size: int, unit: int = 1) -> xr.DataArray:
    """Budgets with the least sum of damages: each further `unit` of tokens goes where it lowers the damage most.

    Between the capacities of a curve the logarithm of damage is linear in that of capacity; of that its lower convex
    hull is followed, so that a head is not passed over for a step that pays only together with the next one.

    Args:
        curves: as `damage_curves` returns them; the mean of several texts is as good.
        cache_size: mean number of tokens of a head.
        unit: what every budget is a multiple of.

    Returns:
        int64 (layer, head) as of `need_budgets`; coordinate `need` is the damage at `cache_size`.

    Raises:
        TreeKVError: `cache_size` is outside the curves, or no multiple of `unit`.
    """
    sizes = curves["size"].values
    least, most = -(-int(sizes[0]) // unit) * unit, int(sizes[-1]) // unit * unit
    if not least <= cache_size <= most or cache_size % unit:
        raise TreeKVError(f"cache_size must be a multiple of {unit} from {least} to {most}, got {cache_size}")
    values = curves.transpose("layer", "head", "size").values
    grid = np.arange(least, most + 1, unit)
    damages = np.maximum(values.reshape(-1, len(sizes)), np.finfo(np.float64).tiny)
    fine = np.exp([np.interp(np.log(grid), np.log(sizes), one) for one in np.log(damages)])
    gains = -np.diff([_lower_hull(one) for one in fine], axis=1)
    steps = (cache_size - least) // unit * len(fine)
    # A hull's gains never rise, so the largest ones are the first steps of every head.
    chosen = np.argsort(-gains, axis=None, kind="stable")[:steps] // gains.shape[1]
    budgets = least + unit * np.bincount(chosen, minlength=len(fine))
    at_mean = fine[:, np.searchsorted(grid, cache_size)]
    shape = values.shape[:2]
    return xr.DataArray(
        budgets.reshape(shape),
        dims=("layer", "head"),
        coords={
            "layer": curves["layer"].values,
            "head": curves["head"].values,
            "need": (("layer", "head"), at_mean.reshape(shape)),
        },
        name="budget",
        attrs={"long_name": "budget", "units": "tokens", "cache_size": cache_size, "least": least, "most": most},
    )


def _lower_hull(values: np.ndarray) -> np.ndarray:
    """The largest convex function below values at equal distances."""
    corners: list[int] = []
    for place in range(len(values)):
        while len(corners) > 1:
            first, middle = corners[-2:]
            along = values[first] + (values[place] - values[first]) * (middle - first) / (place - first)
            if values[middle] < along:
                break
            corners.pop()
        corners.append(place)
    return np.interp(np.arange(len(values)), corners, values[corners])
