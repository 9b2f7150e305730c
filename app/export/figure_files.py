"""Figures as files: a page that works offline, or SVG and PNG where kaleido and a Chrome are installed."""

from __future__ import annotations

import importlib.util
from typing import Final

import plotly.graph_objects as go

from treekv.errors import TreeKVError

_CONFIG: Final = {"responsive": True, "displaylogo": False}
WIDTH: Final = 1100  # pixels
SCALE: Final = {"svg": 1, "png": 2}
WITHOUT: Final = (
    "SVG and PNG need the package kaleido (pip install 'treekv[pictures]') and a Chrome or Chromium on this machine; "
    "without them, save the figure from your browser with the camera in its toolbar"
)


def html(figure: go.Figure) -> str:
    """A whole page in one file; nothing is loaded from elsewhere."""
    return str(figure.to_html(full_html=True, include_plotlyjs=True, config=_CONFIG))


def div(figure: go.Figure, element: str) -> str:
    """An HTML element with the id `element`, for a page that has plotly's script already."""
    return str(figure.to_html(full_html=False, include_plotlyjs=False, div_id=element, config=_CONFIG))


def image(figure: go.Figure, kind: str, scale: float | None = None) -> bytes:
    """The figure as "svg", or as "png" at twice its size on the screen, or `scale` times.

    Raises:
        TreeKVError: another kind, or kaleido or its browser are missing or fail.
    """
    if kind not in SCALE:
        raise TreeKVError(f"a figure can be 'svg' or 'png', not {kind!r}")
    if importlib.util.find_spec("kaleido") is None:
        raise TreeKVError(WITHOUT)
    import kaleido
    from kaleido import PageGenerator

    options = {
        "format": kind,
        "width": WIDTH,
        "height": int(figure.layout.height or 480),
        "scale": scale or SCALE[kind],
    }
    # By default kaleido's page loads MathJax from the network.
    try:
        drawn = kaleido.calc_fig_sync(
            figure.to_dict(), opts=options, kopts={"page_generator": PageGenerator(mathjax=False)}
        )
    except (
        Exception
    ) as error:  # no browser, one that does not start or one that answers too late: the advice is the same
        raise TreeKVError(f"the figure could not be exported ({type(error).__name__}). {WITHOUT}") from error
    return bytes(drawn)
