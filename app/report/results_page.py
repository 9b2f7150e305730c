"""The page of an evaluation: one HTML file that works offline, and shows its tables even without scripts."""

from __future__ import annotations

from analysis.evaluation.report import formats
from app.report.results import Report
from app.report.templates import picture, render


def results_page(report: Report, title: str) -> str:
    """The page as self-contained HTML."""
    sections = [
        {
            "label": f"Results of {section.table.model} in {section.table.task}",
            "table": formats.to_html(section.table),
            "pictures": [
                picture(f"{number}-{place}", draw(), caption) for place, (draw, caption) in enumerate(section.pictures)
            ],
        }
        for number, section in enumerate(report.sections)
    ]
    return render("results.html", title=title, report=report, sections=sections)
