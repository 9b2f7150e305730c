"""The text itself, each token shaded by the loss that evictions added to it."""

from __future__ import annotations

import numpy as np
import xarray as xr

from analysis.plot.shaded_text import MOST_TOKENS, shaded_text
from treekv.errors import TreeKVError

DARKEST = 2.0  # nats


def text_loss(data: xr.Dataset, *, policy: str | None = None, start: int | None = None, stop: int | None = None) -> str:
    """Render the text as HTML, each token shaded by how much harder it was to predict than with the full cache.

    Args:
        data: a table of losses, from `analysis.replay` or `analysis.measure` of a captured text.
        policy: one of its settings; the first beside the full cache if None.
        start, stop: the tokens from `start` to `stop` - 1; all that have a loss if None.

    Returns:
        A `<figure>` element, as of `text_retention`. Losses that did not rise are not shaded; 2 nats and more are
        darkest. The title (hover) of each token gives both losses.

    Raises:
        TreeKVError: settings or a stretch that do not exist, no token text, or too long a stretch.
    """
    if "token" not in data.coords:
        raise TreeKVError("the losses lack the text of their tokens; give replay or measure a capture")
    names = [str(name) for name in data["policy"].values]
    if names[0] != "full":
        raise TreeKVError("the first row of the losses is not the full cache; replay the settings with it")
    if policy is None and len(names) > 1:
        policy = names[1]
    if policy not in names[1:]:
        raise TreeKVError(
            f"there are no settings {policy!r} beside the full cache; there are {', '.join(names[1:]) or 'none'}"
        )
    first, last = int(data["position"].values[0]), int(data["position"].values[-1]) + 1
    start, stop = max(start or first, first), last if stop is None else stop
    if not start < stop <= last:
        raise TreeKVError(f"start and stop must lie within positions {first} to {last}, got {start} to {stop}")
    if stop - start > MOST_TOKENS:
        raise TreeKVError(f"{stop - start} tokens are too many to show; choose a stretch of at most {MOST_TOKENS}")
    chosen = data.sel(position=slice(start, stop - 1))
    full, own = (chosen["loss"].sel(policy=name).values.astype(np.float64) for name in (names[0], policy))
    extra = own - full
    titles = [
        f"position {start + index}: loss {own[index]:.2f}, with the full cache {full[index]:.2f}"
        for index in range(len(extra))
    ]
    how = "measured" if data.attrs.get("source") == "run" else "predicted"
    caption = f"{policy}: loss that each token has more than with the full cache, {how}, nats"
    worst = int(extra.argmax())
    alt = (
        f"{caption}; mean {extra.mean():+.3f}, most {extra[worst]:+.2f} at position {start + worst}, positions "
        f"{start} to {stop - 1}."
    )
    legend = [(nats / DARKEST, f"{nats:g}{' and more' if nats == DARKEST else ''}") for nats in (0, 0.5, 1, DARKEST)]
    shares = np.clip(extra / DARKEST, 0, 1)
    return shaded_text(
        [str(token) for token in chosen["token"].values], shares, titles, caption, alt, legend, colours="Oranges"
    )
