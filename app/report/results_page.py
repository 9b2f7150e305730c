"""The page of an evaluation: one HTML file that works offline and, without scripts, still shows its tables."""

from __future__ import annotations

import plotly.offline

from analysis.evaluation.report import formats
from app.report import TEMPLATES, picture
from app.report.results import Report


def results_page(made: Report, title: str) -> str:
    """The page as HTML that needs nothing else."""
    sections = [
        {
            "label": f"Results of {section.table.model} in {section.table.task}",
            "table": formats.to_html(section.table),
            "pictures": [
                picture(f"{number}-{place}", draw(), reading) for place, (draw, reading) in enumerate(section.pictures)
            ],
        }
        for number, section in enumerate(made.sections)
    ]
    return TEMPLATES.get_template("results.html").render(
        title=title, report=made, sections=sections, plotly=plotly.offline.get_plotlyjs()
    )
