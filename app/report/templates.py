"""The HTML templates of all reports, and figures as they take them."""

from __future__ import annotations

import json
from typing import Any

import jinja2
import plotly.graph_objects as go
import plotly.offline

from app.export import figure_files
from app.export.dark import dark_changes
from app.text import wording

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("app.report", "."),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters["size"] = wording.size
_TEMPLATES.globals.update(band_width=wording.band_width, number=wording.number)


def render(template: str, **values: Any) -> str:
    """The page that a template makes of these values, with plotly's script inside it."""
    return _TEMPLATES.get_template(template).render(**values, plotly=plotly.offline.get_plotlyjs())


def picture(name: str, figure: go.Figure, caption: str = "") -> dict[str, str]:
    """A figure as the templates take it; `name` must be unique on its page."""
    return {
        "html": figure_files.div(figure, f"picture-{name}"),
        "alt": figure.layout.meta["alt"],
        "caption": caption,
        # For a script inside the page: no text of a figure may end it.
        "dark": json.dumps([f"picture-{name}", dark_changes(figure)]).replace("<", "\\u003c"),
    }
