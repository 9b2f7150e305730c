"""The eviction map as an image in HTML: a browser draws it at once, where plotly's scripts take seconds to load."""

from __future__ import annotations

import base64
import html
import io

import numpy as np
import xarray as xr
from PIL import Image
from plotly.colors import sample_colorscale

from analysis.plot.shaded_text import INK, QUIET, either
from analysis.retention import record

_SIDE = 256  # cells
_SHADES = 101  # whole per cents; one more entry of the palette is transparent
_HEIGHT = 330  # pixels
_FUTURE = ("#f2f3f5", "#1d232e")  # the ground of what is not read yet, as in the other maps


def still_eviction_map(data: xr.Dataset, *, policy: str | None = None) -> str:
    """Draw which positions (x) are kept after which step (y, downwards), as the share of all layers and KV heads.

    Args:
        data: a retention record.
        policy: may be None if the record has only one.

    Returns:
        A `<figure>` element with inline styles and the text alternative in `aria-label`; names are escaped. Pooled by
        the mean to at most 256 cells a side.

    Raises:
        TreeKVError: a policy that is not in the record.
    """
    cells = record.retention_map(data, policy, max_cells=_SIDE)
    policy = str(data["policy"].values[0]) if policy is None else policy
    tokens = int(data.attrs["steps"])
    kept = record.kept_mask(data, tokens - 1).sel(policy=policy).transpose(..., "position").values
    share = kept.reshape(-1, kept.shape[-1]).mean(0)
    quarters = ", ".join(f"{100 * part.mean():.0f} %" for part in np.array_split(share, min(4, len(share))))
    alt = (
        f"Map of step against position for the policy {policy}: the share of layers and KV heads that keep a token. "
        f"After the last of {tokens} steps the four quarters of the text are kept to {quarters}."
    )
    ticks = "".join(f"<span>{position:,}</span>" for position in (0, tokens // 2, tokens - 1))
    quiet = f"color:{either(*QUIET)};font-size:13px"
    return (
        f'<figure role="img" aria-label="{html.escape(alt)}" style="margin:0;font-family:system-ui,sans-serif;'
        f'color:{either(*INK)}">'
        f'<figcaption style="font-size:18px">Tokens kept by the policy “{html.escape(policy)}”</figcaption>'
        f'<div style="{quiet};margin:2px 0 10px">{data.sizes["layer"]} layers, {data.sizes["head"]} KV heads · '
        f"{tokens:,} tokens {_bar()}</div>"
        f'<div style="display:flex;gap:6px;{quiet}">'
        '<span style="writing-mode:vertical-rl;transform:rotate(180deg);text-align:center">step, downwards</span>'
        f'<div style="display:flex;flex-direction:column;justify-content:space-between;text-align:right">{ticks}</div>'
        f'<img src="data:image/png;base64,{_png(cells.values)}" alt="" style="flex:1;min-width:0;height:{_HEIGHT}px;'
        f"image-rendering:pixelated;border:solid {either(*QUIET)};border-width:0 0 1px 1px;"
        f'background:{either(*_FUTURE)}"></div>'
        f'<div style="display:flex;justify-content:space-between;{quiet};margin-left:4em">{ticks}</div>'
        f'<div style="text-align:center;{quiet}">position in the text (tokens)</div></figure>'
    )


def _palette() -> list[str]:
    return list(sample_colorscale("Cividis", np.linspace(0, 1, _SHADES).tolist(), colortype="rgb"))


def _png(share: np.ndarray) -> str:
    """The cells as an image of one pixel each, NaN transparent; base64."""
    shades = np.where(np.isnan(share), _SHADES, np.rint(100 * np.nan_to_num(share))).astype(np.uint8)
    image = Image.fromarray(shades).convert("P")
    image.putpalette([int(float(part)) for colour in _palette() for part in colour[4:-1].split(",")] + [0, 0, 0])
    file = io.BytesIO()
    image.save(file, "PNG", transparency=_SHADES, optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _bar() -> str:
    """The colour scale: from evicted everywhere to kept everywhere."""
    shades = ",".join(_palette()[::10])
    return (
        '<span style="white-space:nowrap;margin-left:12px">0 % '
        f'<span style="display:inline-block;width:90px;height:10px;background:linear-gradient(90deg,{shades})">'
        "</span> 100 % kept</span>"
    )
