"""Draw the picture on top of docs/results.md: what settings cost beside the paper's rule, on four kinds of text.

    python benchmarks/results_picture.py docs/images/results.svg

Needs the extra `pictures` and a Chrome. Reads benchmarks/summaries/streams.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots
from tables import SUMMARIES, TEXTS

from analysis.evaluation.report.aggregate import document_scores, estimate, group_cells
from analysis.evaluation.report.titles import settings_title
from analysis.evaluation.sweep.summary import read_summary
from analysis.plot import theme
from analysis.plot.policy_colours import colours
from app.export.figure_files import image

SETTINGS = ("full", "recommended", "tree", "tova paper", "snapkv_decode", "lagkv", "h2o paper", "streaming")
BUDGET = 128
BASELINE = "tree"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output
    figure = picture()
    output.write_bytes(image(figure, "svg"))
    print(figure.layout.meta["alt"])


def picture() -> go.Figure:
    """A panel for each kind of text: mean differences from the paper's rule over the same stretches, with intervals."""
    losses: dict[tuple[str, str], dict[str, float]] = {}
    for cell in group_cells(read_summary(SUMMARIES / "streams.json")):
        if cell.name in SETTINGS and cell.budget in (None, BUDGET):
            kind = TEXTS[Path(cell.records[0].of.options["files"][0]).name]
            losses[kind, cell.name] = document_scores(cell, "loss")
    kinds = sorted({kind for kind, _ in losses}, key=str.lower)
    alt = f"Loss of {len(SETTINGS)} settings minus the paper's rule on {', '.join(kinds)}, with 95 % intervals."
    figure = theme.figure(
        "What a cache of a sixteenth costs, beside TreeKV's rule",
        f"nats a token over 2,048 tokens, {BUDGET} kept · left of the line is better · 95 % intervals over 8 stretches",
        alt,
        height=330,
    )
    panels = make_subplots(1, len(kinds), shared_yaxes=True, subplot_titles=kinds, horizontal_spacing=0.025)
    layout = figure.layout
    figure = go.Figure(panels).update_layout(
        title=layout.title, template=layout.template, font=layout.font, meta=layout.meta, height=layout.height
    )
    titles = [settings_title(name) for name in SETTINGS]
    names = ["TreeKV" if name == "recommended" else name for name in SETTINGS]
    for column, kind in enumerate(kinds, start=1):
        base = losses[kind, BASELINE]
        for title, name, colour in zip(titles, SETTINGS, colours(names), strict=True):
            apart = estimate([loss - base[document] for document, loss in losses[kind, name].items()])
            low, high = (apart.mean if end is None else end for end in (apart.low, apart.high))
            figure.add_scatter(
                x=[apart.mean],
                y=[title],
                error_x={"array": [high - apart.mean], "arrayminus": [apart.mean - low], "thickness": 2, "width": 0},
                mode="markers",
                marker={"size": 10, "color": colour},
                showlegend=False,
                row=1,
                col=column,
            )
        figure.add_vline(x=0, line={"color": "#5b6372", "width": 1}, row=1, col=column)
    figure.update_xaxes(tickformat="+.2f", gridcolor="#e6e8ec", zeroline=False, nticks=4)
    figure.update_yaxes(autorange="reversed", gridcolor="#e6e8ec")
    return figure.update_layout(margin={"l": 170, "r": 20, "t": 105, "b": 40}, plot_bgcolor="white")


if __name__ == "__main__":
    main()
