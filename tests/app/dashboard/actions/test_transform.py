"""Another wavelet, computed from the capture in a job."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import analysis
from app.dashboard.actions import transform
from tests.app.pages import WAVELETS, alternatives, ended, figures, opened, said


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


@pytest.fixture
def two_texts(small_run: Path, tmp_path: Path) -> Path:
    """Two runs that were made together, with different texts, and a third of another model; the first of them."""
    other = analysis.open(small_run / "spectrum.nc").copy(deep=True)
    other["amplitude"] *= 3
    for name, model in (("one", "tiny"), ("two", "tiny"), ("third", "another")):
        shutil.copytree(small_run, tmp_path / name)
        file = tmp_path / name / "run.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "load": model, "together": "a"}))
    analysis.save(other, tmp_path / "two" / "spectrum.nc")
    return tmp_path / "one"


def test_texts_that_were_made_together_are_shown_as_their_mean(
    two_texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = opened(two_texts, monkeypatch, WAVELETS)
    assert (test.multiselect(key="texts").options, test.multiselect(key="texts").value) == (["two"], ["two"])
    parts = [analysis.open(two_texts.parent / name / "spectrum.nc") for name in ("one", "two")]
    mean = analysis.mean_spectrum(parts)
    assert alternatives(test)[0] == analysis.plot.spectrum(mean).layout.meta["alt"]
    assert "over texts" in str(figures(test)[0]["layout"])
    assert test.markdown[0].value.startswith("On these 2 texts, over all layers")
    test.multiselect(key="texts").set_value([]).run()
    assert alternatives(test)[0] == analysis.plot.spectrum(parts[0]).layout.meta["alt"]
    assert test.markdown[0].value.startswith("On this text")


def test_another_wavelet_of_several_texts_is_the_mean_too(two_texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transform._results.clear()
    test = opened(two_texts, monkeypatch, WAVELETS, wavelet="db2")
    test = ended(test, "transforming")
    parts = [analysis.spectrum(analysis.open(two_texts.parent / name / "capture.nc"), "db2") for name in ("one", "two")]
    assert alternatives(test)[0] == analysis.plot.spectrum(analysis.mean_spectrum(parts)).layout.meta["alt"]


def test_runs_with_other_layers_are_named(two_texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transform._mean.clear()
    file = two_texts.parent / "two" / "spectrum.nc"
    less = analysis.open(file).isel(layer=[0]).load()
    analysis.save(less, file)
    assert "The run 'two' has other layers than 'one'" in said(opened(two_texts, monkeypatch, WAVELETS))


def test_a_link_names_the_texts(two_texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is not there any more."""
    test = opened(two_texts, monkeypatch, WAVELETS, texts=["two", "gone"])
    assert test.multiselect(key="texts").value == ["two"]
