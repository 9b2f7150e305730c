"""How similar the kept tokens are: a matrix of Jaccard indices."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from analysis.plot import theme
from treekv.errors import TreeKVError

_MAX_ANNOTATED = 12  # rows; a larger matrix has no numbers in its cells
_LABEL_WIDTH = 11  # characters
_MOST_UPRIGHT = 3  # labels of policies side by side
_PLURALS = {"policy": "policies", "layer": "layers", "head": "KV heads"}


def agreement(data: xr.DataArray, *, policy: str | None = None, layer: int | None = None) -> go.Figure:
    """Draw `analysis.agreement` as a matrix, in per cent, averaged over each selection that is None.

    `policy` selects one if layers or heads are compared, `layer` one if policies or heads are. The text alternative is
    in `layout.meta["alt"]`. Raises TreeKVError, listing the choices, for a policy or layer that does not exist.
    """
    between = str(data.attrs["between"])
    words = []
    for name, value in (("policy", policy), ("layer", layer)):
        if name not in data.dims or name == between:
            if value is not None:
                raise TreeKVError(f"{name} cannot be selected when {_PLURALS[between]} are compared; leave it out")
            continue
        there = data[name].values.tolist()
        if value is None:
            words.append(f"{name} {theme.shown(str(there[0]))}" if len(there) == 1 else f"mean of {len(there)} {name}s")
            data = data.mean(name, keep_attrs=True)
        elif value in there:
            words.append(f"{name} {theme.shown(str(value))}")
            data = data.sel({name: value})
        else:
            raise TreeKVError(f"there is no {name} {value!r}; choose one of {', '.join(map(str, there))}")
    names = [theme.shown(str(name)) for name in data[between].values]
    percent = np.rint(100 * data.transpose(between, "other").values).astype(np.uint8)
    apart = percent[~np.eye(len(names), dtype=bool)]
    spread = f"{apart.min()} to {apart.max()} %, mean {apart.mean():.0f} %" if len(apart) else "there is only one"
    where = ", ".join(words)
    figure = theme.figure(
        f"Do {_PLURALS[between]} keep the same tokens?",
        f"Jaccard index after {int(data.attrs['step']) + 1:,} tokens{' · ' + where if where else ''}",
        f"Matrix of the share of tokens that two {_PLURALS[between]} both keep, of those that either keeps, {where}: "
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
        texttemplate="%{z}" if len(names) <= _MAX_ANNOTATED else None,
        colorbar={
            "thickness": 14,
            "outlinewidth": 0,
            "title": {"text": "in common", "side": "top"},
            "tickvals": [0, 25, 50, 75, 100],
            "ticktext": ["0 %", "25 %", "50 %", "75 %", "100 %"],
        },
        hovertemplate=f"{between} %{{y}} and %{{x}}: %{{z}} % in common<extra></extra>",
    )
    # Labels in lines, as wide as a column of a narrow page.
    labels = {"tickvals": names, "ticktext": [theme.in_lines(name, _LABEL_WIDTH) for name in names]}
    axis = {"showgrid": False, "title": between if between != "head" else "KV head", "type": "category"}
    if between == "policy":
        angle = 0 if len(names) <= _MOST_UPRIGHT else -90  # on a narrow page more would run into each other
        figure.update_xaxes(**labels, tickangle=angle, automargin=True)
        figure.update_yaxes(**labels)
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis, autorange="reversed", automargin=True, title_standoff=12)
    return figure
