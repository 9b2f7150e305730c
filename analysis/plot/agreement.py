"""Who keeps the same tokens: a matrix of Jaccard indices."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from analysis.plot import theme
from treekv.errors import TreeKVError

_WRITTEN = 12  # a matrix of at most this many rows has its numbers written in the cells
_WHO = {"policy": "policies", "layer": "layers", "head": "KV heads"}


def agreement(agreement: xr.DataArray, policy: str | None = None, layer: int | None = None) -> go.Figure:
    """Draw what `analysis.agreement` returns as a matrix, in per cent, averaged over what is left open (None).

    `policy` chooses one where layers or heads are compared, `layer` one where policies or heads are. The text
    alternative is in `layout.meta["alt"]`. Raises TreeKVError, listing what there is, for one that is not there.
    """
    between = str(agreement.attrs["between"])
    words = []
    for name, value in (("policy", policy), ("layer", layer)):
        if name not in agreement.dims or name == between:
            if value is not None:
                raise TreeKVError(f"{name} cannot be chosen where {_WHO[between]} are compared; leave it out")
            continue
        there = agreement[name].values.tolist()
        if value is None:
            words.append(f"{name} {theme.shown(str(there[0]))}" if len(there) == 1 else f"mean of {len(there)} {name}s")
            agreement = agreement.mean(name, keep_attrs=True)
        elif value in there:
            words.append(f"{name} {theme.shown(str(value))}")
            agreement = agreement.sel({name: value})
        else:
            raise TreeKVError(f"{name} {value!r} is not there; choose one of {', '.join(map(str, there))}")
    names = [theme.shown(str(name)) for name in agreement[between].values]
    percent = np.rint(100 * agreement.transpose(between, "other").values).astype(np.uint8)
    apart = percent[~np.eye(len(names), dtype=bool)]
    spread = f"{apart.min()} to {apart.max()} %, mean {apart.mean():.0f} %" if len(apart) else "there is only one"
    where = ", ".join(words)
    figure = theme.figure(
        f"Do {_WHO[between]} keep the same tokens?",
        f"Jaccard index after {int(agreement.attrs['step']) + 1:,} tokens{' · ' + where if where else ''}",
        f"Matrix of the share of tokens that two {_WHO[between]} both hold, of those that either holds, {where}: "
        f"{spread}.",
        height=560,
    )
    figure.add_heatmap(
        x=names,
        y=names,
        z=percent,
        zmin=0,
        zmax=100,
        colorscale="Cividis",
        texttemplate="%{z}" if len(names) <= _WRITTEN else None,
        colorbar={
            "thickness": 14,
            "outlinewidth": 0,
            "title": {"text": "in common", "side": "top"},
            "tickvals": [0, 25, 50, 75, 100],
            "ticktext": ["0 %", "25 %", "50 %", "75 %", "100 %"],
        },
        hovertemplate=f"{between} %{{y}} and %{{x}}: %{{z}} % in common<extra></extra>",
    )
    axis = {"showgrid": False, "title": between if between != "head" else "KV head", "type": "category"}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis, autorange="reversed", automargin=True, title_standoff=12)
    return figure
