"""What treekv eval measured: tables with intervals, and the pictures of each task."""

from __future__ import annotations

import streamlit as st

from analysis.evaluation.report import formats
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
</style>"""

folders = results.folders(runs_root())
if not folders:
    st.title("No results yet")
    st.markdown("Measure something, then come back; results are looked for beside the runs.")
    st.code(f"treekv eval --task needle --output {runs_root().name}/results", language="shell")
    st.stop()

st.title("Results")
name = st.selectbox("Results folder", [folder.name for folder in folders], key="results", bind="query-params")
folder = next(folder for folder in folders if folder.name == name)
first = or_stop(lambda: results.read(folder))
names = list(dict.fromkeys(row.name for row in first.rows))
chosen = st.selectbox(
    "Compare with",
    names,
    index=names.index(first.baseline) if first.baseline in names else 0,
    key="baseline",
    bind="query-params",
    help="Differences to these settings are paired: over the documents that both have.",
)
made = or_stop(lambda: results.read(folder, chosen))
st.caption(f"{made.records:,} records. Means over documents with 95 % bootstrap intervals.")
for number, section in enumerate(made.sections):
    label = f"Results of {section.table.model} in {section.table.task}"
    st.html(region(formats.to_html(section.table), label, 'class="results"') + STYLE)
    for place, (draw, reading) in enumerate(section.pictures):
        draw_figure(draw, reading, key=f"results-{number}-{place}")
for heading, lines in (("Notes", made.notes), ("Failures", made.failures)):
    if lines:
        st.subheader(heading)
        st.markdown("\n".join(f"- {plain(line)}" for line in lines))
