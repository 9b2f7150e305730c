"""Figures of one command, written as one page that works offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go


def write_page(path: Path, title: str, figures: Sequence[go.Figure]) -> None:
    """Write the figures one below the other. Raises TreeKVError when the file cannot be written."""
    from app.report.figures_page import figures_page
    from treekv import files

    with files.atomic_write(path) as temporary:
        temporary.write_text(figures_page(title, figures), encoding="utf-8")
