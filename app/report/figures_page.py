"""Several figures on one page that works offline."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from app.report.templates import picture, render


def figures_page(title: str, figures: Sequence[go.Figure]) -> str:
    """The page as HTML, the figures one below the other, each with its text alternative."""
    pictures = [picture(str(number), figure) for number, figure in enumerate(figures)]
    return render("figures.html", title=title, pictures=pictures)
