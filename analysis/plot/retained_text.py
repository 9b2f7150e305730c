"""The text itself, each token shaded by how far it was kept."""

from __future__ import annotations

import numpy as np
import xarray as xr

from analysis.plot.shaded_text import MOST_TOKENS, shaded_text
from analysis.retention import record
from treekv.errors import TreeKVError


def text_retention(
    data: xr.Dataset,
    *,
    policy: str | None = None,
    layer: int | None = None,
    head: int | None = None,
    step: int | None = None,
    start: int | None = None,
    stop: int | None = None,
    by: str = "heads",
) -> str:
    """Render the text as HTML, each token on a coloured background.

    Args:
        data: a retention record with the text of its tokens.
        policy: may be None if the record has only one.
        layer, head: a single one, or all (None).
        step: position of the last token processed; the last of the record if None.
        start, stop: the tokens from `start` to `stop` - 1; all that were read if None.
        by: "heads" shades by the share of layers and KV heads that still keep the token after `step`; "time" by how
            long they kept it, as a share of the time from its arrival to `step`.

    Returns:
        A `<figure>` element with a legend and inline styles; token text is escaped, so the string is safe to display.
        The title (hover) of each token gives its position and number. `aria-label` is the text alternative.

    Raises:
        TreeKVError: a policy, layer, head, step or stretch that does not exist, no token text, or too long a stretch.
    """
    if by not in ("heads", "time"):
        raise TreeKVError(f"by must be 'heads' or 'time', got {by!r}")
    if "token" not in data.coords:
        raise TreeKVError("the record lacks the text of its tokens; pass it to retention_from_cache")
    steps = int(data.attrs["steps"])
    step = steps - 1 if step is None else step
    chosen = record.select(data, policy, layer, head)
    kept = record.kept_mask(chosen, step)
    start, stop = 0 if start is None else start, step + 1 if stop is None else stop
    if not 0 <= start < stop <= step + 1:
        raise TreeKVError(f"start and stop must lie within the {step + 1} tokens read, got {start} to {stop}")
    if stop - start > MOST_TOKENS:
        raise TreeKVError(f"{stop - start} tokens are too many to show; choose a stretch of at most {MOST_TOKENS}")
    position = chosen["position"].values
    if by == "heads":
        amounts = kept.transpose(..., "position").values.reshape(-1, len(position))
        share = amounts.mean(0)
    else:
        evicted_at = chosen["evicted_at"].transpose(..., "position").values.reshape(-1, len(position))
        last = np.where((evicted_at < 0) | (evicted_at > step), step + 1, evicted_at)
        amounts = (last - position) / np.maximum(step + 1 - position, 1)
        share = amounts.mean(0)
    share = np.clip(share, 0, 1)[start:stop]
    tokens = [str(token) for token in chosen["token"].values[start:stop]]

    units = amounts.shape[0]
    titles = []
    for index, value in enumerate(share):
        if by == "heads":
            number = f"kept by {round(float(value) * units)} of {units} heads" if units > 1 else _kept(value)
        else:
            number = f"kept for {100 * value:.0f} % of the time since"
        titles.append(f"position {start + index}: {number}")
    name = str(data["policy"].values[0]) if policy is None else policy
    where = " ".join(f"{dim} {value}" for dim, value in (("layer", layer), ("KV head", head)) if value is not None)
    what = (
        "share of heads that still keep each token" if by == "heads" else "share of its time that each token was kept"
    )
    caption = f"{name}: {what}, after {step + 1:,} tokens{', ' + where if where else ''}"
    alt = f"{caption}; mean {100 * share.mean():.0f} %, positions {start} to {stop - 1}."
    legend = [(percent / 100, f"{percent} %") for percent in (0, 25, 50, 75, 100)]
    return shaded_text(tokens, share, titles, caption, alt, legend)


def _kept(value: float) -> str:
    return "kept" if value > 0.5 else "evicted"
