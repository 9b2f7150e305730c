"""Figures of one command as one page that opens without a network."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go


def write_page(path: Path, title: str, figures: Sequence[go.Figure]) -> None:
    """Write the figures one below the other, each with its text alternative; TreeKVError when that is not possible."""
    from treekv import files

    parts = [
        f'<div role="img" aria-label="{html.escape(figure.layout.meta["alt"])}">'
        f"{figure.to_html(full_html=False, include_plotlyjs=number == 0)}</div>"
        for number, figure in enumerate(figures)
    ]
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
    with files.atomic_write(path) as temporary:
        temporary.write_text(f"{page}\n{''.join(parts)}\n", encoding="utf-8")
