"""The public face of the evaluation: what `import analysis` reaches."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import analysis
from analysis.evaluation.report import aggregate, figures
from analysis.evaluation.sweep import records, run
from tests.analysis.evaluation.sweep.running import ran


def test_every_part_is_reached_by_attributes() -> None:
    assert analysis.evaluation.report.quality is figures.quality
    assert analysis.evaluation.report.needle_grid is figures.needle_grid
    assert analysis.evaluation.report.summarize is aggregate.summarize
    assert analysis.evaluation.sweep.run_sweep is run.run_sweep
    assert analysis.evaluation.sweep.Results is records.Results
    assert {"report", "sweep", "tasks", "create"} <= set(dir(analysis.evaluation))
    with pytest.raises(AttributeError, match=r"module 'analysis\.evaluation' has no attribute 'ppl'"):
        _ = analysis.evaluation.ppl


@pytest.mark.slow
def test_measuring_a_stream_loads_no_figures() -> None:
    code = "import sys; from analysis.evaluation import stream_perplexity; print('plotly' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_sweep_is_run_and_drawn_in_three_lines(tmp_path: Path) -> None:
    ran(tmp_path / "first")
    found = analysis.evaluation.sweep.Results(tmp_path / "first").read()
    rows = analysis.evaluation.report.summarize(found, baseline="full")
    figure = analysis.evaluation.report.quality([row for row in rows if row.group == {"length": 100}])
    assert {trace.name for trace in figure.data} == {"full cache (all tokens)", "StreamingLLM", "TreeKV"}
