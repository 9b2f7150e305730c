"""Results: what `treekv eval` measured, as tables with intervals and figures for each task."""

from __future__ import annotations

import shlex
from pathlib import Path

import streamlit as st

from analysis.evaluation.report import formats
from analysis.evaluation.report.titles import settings_title
from app.dashboard.pages import runs_root
from app.dashboard.session.messages import or_stop, plain
from app.dashboard.widgets.figure import draw_figure, region
from app.report import results

STYLE = """<style>
.results { overflow-x: auto }
.results table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem }
.results caption { caption-side: top; text-align: left; font-weight: 600; font-size: 1.1rem }
.results th, .results td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #8884 }
.results td { white-space: nowrap }
.results th { white-space: normal; vertical-align: bottom }
.results .left { text-align: left }
@media (max-width: 950px) {
  .results table { font-size: .8rem; letter-spacing: -.01em }
  .results th, .results td { padding: .3rem .28rem }
  .results td { white-space: normal }
}
</style>"""

folders = results.folders(runs_root())
if not folders:
    st.title("No results yet")
    st.markdown("Run an evaluation first. The page lists the results folders that are beside the runs.")
    root = runs_root()
    here = root.relative_to(Path.cwd()) if root.is_relative_to(Path.cwd()) else root
    st.code(shlex.join(["treekv", "eval", "--task", "needle", "--output", str(here / "results")]), language="shell")
    st.stop()

st.title("Results")
name = st.selectbox("Results folder", [folder.name for folder in folders], key="results", bind="query-params")
folder = next(folder for folder in folders if folder.name == name)
measured = or_stop(lambda: results.read(folder))
baseline = st.selectbox(
    "Baseline",
    measured.names,
    format_func=settings_title,
    index=measured.names.index(measured.default_baseline) if measured.default_baseline else 0,
    key="baseline",
    bind="query-params",
    help="Differences from these settings are paired: computed over the documents that both have.",
)
report = or_stop(lambda: results.summarize(measured, baseline))
st.caption(f"{report.records:,} records. Means over documents, with 95 % bootstrap intervals.")
for number, section in enumerate(report.sections):
    label = f"Results of {section.table.model} in {section.table.task}"
    st.html(region(formats.to_html(section.table), label, 'class="results"') + STYLE)
    for place, (draw, caption) in enumerate(section.pictures):
        draw_figure(draw, caption, key=f"results-{number}-{place}")
for heading, lines in (("Notes", report.notes), ("Failures", report.failures)):
    if lines:
        st.subheader(heading)
        st.markdown("\n".join(f"- {plain(line)}" for line in lines))
