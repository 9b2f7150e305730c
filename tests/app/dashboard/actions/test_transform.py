"""Another wavelet, computed from the capture in a job."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import analysis
from app.dashboard.actions import transform
from tests.app.pages import WAVELETS, alternatives, opened


def test_another_wavelet_is_computed_from_the_capture(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transform._results.clear()
    test = opened(small_run, monkeypatch, WAVELETS)
    test.selectbox(key="wavelet").select("db2").run()
    job = test.session_state["transforming"][1]
    while not job.ended:
        job._stop.wait(0.02)
    test.run()
    run = analysis.open(small_run / "capture.nc")
    expected = analysis.spectrum(run, "db2")
    assert alternatives(test)[0] == analysis.plot.spectrum(expected).layout.meta["alt"]
    beyond = analysis.trends(expected, protocol="to the last token")
    assert alternatives(test)[5:] == [analysis.plot.trends(beyond).layout.meta["alt"]]
    assert "the paper's comparison needs at least 3" in test.markdown[0].value.replace("\\", "")
    test.selectbox(key="wavelet").select("haar").run()
    assert alternatives(test)[0] == analysis.plot.spectrum(analysis.open(small_run / "spectrum.nc")).layout.meta["alt"]


def test_another_wavelet_without_a_capture_is_a_sentence(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    shutil.copytree(small_run, tmp_path / "run")
    (tmp_path / "run" / "capture.nc").unlink()
    test = opened(tmp_path / "run", monkeypatch, WAVELETS)
    assert not test.error
    test.selectbox(key="wavelet").select("db4").run()
    assert "lacks capture.nc" in test.error[0].value.replace("\\", "")
