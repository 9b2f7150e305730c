"""treekv spectrum and the further options of treekv capture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import analysis
from tests import tiny
from tests.app.cli.commands import invoke
from tests.app.conftest import words_tokenizer


def refused(*arguments: object) -> str:
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    return result.stderr.splitlines()[-1]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, step in (("a", 1), ("b", 7)):
        Path(f"{name}.txt").write_text(" ".join(f"w{number * step % 90 + 2}" for number in range(300)))
    return tmp_path


@pytest.fixture
def captured(here: Path, tiny_model: Path) -> Path:
    assert invoke("capture", "a.txt", "b.txt", "--model", tiny_model, "--tokens", 200, "--queries", 4).exit_code == 0
    return here / "captures"


def test_several_texts_become_a_folder(captured: Path, tiny_model: Path) -> None:
    assert sorted(path.name for path in captured.iterdir()) == ["a.nc", "b.nc"]
    before = (captured / "a.nc").stat().st_mtime_ns
    (captured / "b.nc").unlink()
    arguments = ("capture", "a.txt", "b.txt", "--model", tiny_model, "--tokens", 200, "--queries", 4, "--json")
    printed = json.loads(invoke(*arguments).stdout)
    assert (captured / "a.nc").stat().st_mtime_ns == before, "what is there is not captured again"
    assert [item["file"] for item in printed["captures"]] == ["captures/a.nc", "captures/b.nc"]
    assert [run.tokens for run in analysis.open_captures(captured)] == [200, 200]


def test_a_capture_with_gradients(tiny_model: Path) -> None:
    with torch.inference_mode(False):
        result = invoke("capture", "a.txt", "--model", tiny_model, "--tokens", 250, "--sensitivity", "--json")
        assert json.loads(result.stdout)["sensitivity"] is True
    assert analysis.open("capture.nc").gradient(1).any()
    words = refused("capture", "a.txt", "--model", tiny_model, "--sensitivity", "--keep", "spectrum", "--force")
    assert "leave out --keep spectrum" in words
    assert invoke("spectrum", "capture.nc", "--weight", "loss", "--output", "loss.nc").exit_code == 0
    wanted = analysis.spectrum(analysis.open("capture.nc"), weight="loss")
    np.testing.assert_allclose(analysis.open("loss.nc")["amplitude"].values, wanted["amplitude"].values)
    assert "is a spectrum of contributions along the gradient" in refused("spectrum", "loss.nc")


def test_chosen_layers(tiny_model: Path) -> None:
    result = invoke("capture", "a.txt", "--model", tiny_model, "--tokens", 100, "--layers", "1")
    assert result.exit_code == 0
    assert analysis.open("capture.nc").layers == [1]
    for wrong in ("1-0", "a", "1,,2", "-1"):
        assert "write them as 0,5,10-12" in refused("capture", "a.txt", f"--layers={wrong}")
    assert "layer 2 cannot be captured" in refused(
        "capture", "a.txt", "--model", tiny_model, "--tokens", 100, "--layers", "0-2", "--output", "other.nc"
    )


def test_the_spectrum_with_its_own_options(tiny_model: Path) -> None:
    model, common = tiny.llama(), ("capture", "a.txt", "--model", tiny_model, "--tokens", 200, "--queries", 4)
    assert "--sink-count needs --keep spectrum" in refused(*common, "--sink-count", 2)
    options = ("--wavelet", "db2", "--level", 2, "--mode", "zero", "--transform", "packet", "--sinks", "include")
    result = invoke(*common, "--keep", "spectrum", *options, "--sink-count", 2, "--projected", "--output", "lean.nc")
    assert result.exit_code == 0, result.output
    found = analysis.open("lean.nc")
    run = analysis.capture(model, words_tokenizer(), Path("a.txt").read_text(), max_tokens=200, queries=4)
    expected = analysis.spectrum(
        run, "db2", 2, mode="zero", transform="packet", sinks="include", sink_count=2, model=model
    )
    for name in ("amplitude", "coefficient", "energy"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-7)
    for name in ("wavelet", "mode", "transform", "sinks", "sink_count", "projected"):
        assert found.attrs[name] == expected.attrs[name]
    assert "level is 40" in refused(*common, "--keep", "spectrum", "--level", 40, "--output", "other.nc")


@pytest.mark.slow
def test_only_the_spectrum(tiny_model: Path, captured: Path) -> None:
    arguments = ("capture", "a.txt", "--model", tiny_model, "--tokens", 200, "--queries", 4, "--keep", "spectrum")
    printed = json.loads(invoke(*arguments, "--json").stdout)
    assert (printed["file"], printed["tokens"], printed["query_heads"]) == ("spectrum.nc", 200, 4)
    lean = json.loads(invoke("spectrum", "spectrum.nc", "--json").stdout)
    usual = json.loads(invoke("spectrum", captured / "a.nc", "--json").stdout)
    assert [band["band"] for band in lean["bands"]] == [band["band"] for band in usual["bands"]]
    for one, other in zip(lean["bands"], usual["bands"]):
        assert one["growth"] == pytest.approx(other["growth"], rel=1e-2)  # the capture's file is half precision
    assert "is a spectrum with sinks 'include', not 'separate'" in refused(
        "spectrum", "spectrum.nc", "--sinks", "separate"
    )


@pytest.mark.slow
def test_numbers_are_those_of_the_analysis(captured: Path) -> None:
    result = invoke("spectrum", captured, "--sinks", "separate", "--level", 3, "--json", "--output", "all.nc")
    printed = json.loads(result.stdout)
    spectra = [analysis.spectrum(run, level=3, sinks="separate") for run in analysis.open_captures(captured)]
    pooled = analysis.mean_spectrum(spectra)
    assert analysis.open("all.nc").identical(pooled)
    trends = analysis.trends(pooled)
    assert (printed["sinks"], printed["texts"]) == ("separate", 2)
    for name in ("protocol", "claim_i", "claim_ii", "claim_ii_ratio", "middle_stop"):
        assert printed[name] == trends.attrs[name]
    for band in printed["bands"]:
        for name in ("growth", "growth_low", "rise_high", "rank_correlation", "p_value"):
            assert band[name] == pytest.approx(trends[name].sel(band=band["band"]).item())


@pytest.mark.slow
def test_table_and_figure(captured: Path) -> None:
    result = invoke("spectrum", captured / "a.nc", "--transform", "packet", "--level", 2, "--figure", "bands.html")
    assert result.exit_code == 0
    assert "first 4 tokens left in the transform" in result.stdout
    for word in ("│ ad ", "│ da ", "Claim 1", "Claim 2"):
        assert word in result.stdout
    page = Path("bands.html").read_text(encoding="utf-8")
    assert "Token contributions by frequency band" in page
    assert "the output 'bands.html' exists" in refused("spectrum", captured, "--figure", "bands.html")


def test_what_cannot_be_taken_is_refused(captured: Path, here: Path) -> None:
    (here / "empty").mkdir()
    assert "contains no capture" in refused("spectrum", "empty")
    assert "there is no file 'nothing.nc'" in refused("spectrum", "nothing.nc")
    assert "'harr'" in refused("spectrum", captured, "--wavelet", "harr")
    assert "'mirror'" in refused("spectrum", captured, "--mode", "mirror")
    assert "level is 12" in refused("spectrum", captured, "--level", 12)
    assert "sink_count is 400" in refused("spectrum", captured, "--sink-count", 400)
    assert "two texts would be written to a.nc" in refused("capture", "a.txt", "./a.txt")
    assert "is a file; several texts need" in refused("capture", "a.txt", "b.txt", "--output", "a.txt")


def test_help_shows_a_real_example() -> None:
    assert "Example: treekv spectrum captures " in " ".join(invoke("spectrum", "--help").stdout.split())


@pytest.mark.slow
def test_the_comparison_to_the_last_token(captured: Path) -> None:
    arguments = ("spectrum", captured / "a.nc", "--sinks", "separate", "--protocol", "to-the-last-token", "--json")
    printed = json.loads(invoke(*arguments).stdout)
    spectrum = analysis.spectrum(analysis.open(captured / "a.nc", "capture"), sinks="separate")
    found = analysis.trends(spectrum, protocol="to the last token")
    assert (printed["protocol"], printed["claim_ii"]) == ("to the last token", found.attrs["claim_ii"])
    assert [band["growth"] for band in printed["bands"]] == pytest.approx(found["growth"].values.tolist())
    assert "margins is (4, 60)" in refused(*arguments, "--margins", 4, 60)
