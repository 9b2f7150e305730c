"""The losses on the page Compare: found by a job, kept by setting, sorted."""

from __future__ import annotations

import math
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import analysis
from app.dashboard.actions import losses, table
from app.dashboard.session import jobs, loaded_model
from app.dashboard.session.jobs import Job, Queue, Stopped
from app.dashboard.session.run import open_capture
from app.dashboard.session.settings import decode
from app.runs.folder import RunFolder, open_run
from tests import tiny
from tests.app.dashboard.comparison import TWO
from tests.app.pages import page, sheets
from treekv import TreeKVConfig

TREE = TreeKVConfig(cache_size=64, prefill="stream")
CONFIGS = {"a": TREE, "b": TREE.replace(policy="streaming")}


@pytest.fixture
def run(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    losses._entry.clear()
    monkeypatch.setattr(loaded_model, "get", lambda name: (tiny.llama(), None))
    shutil.copytree(small_run, tmp_path / "run")
    return open_run(tmp_path / "run")


def done(question: losses.Question, missing: dict[str, TreeKVConfig]) -> Job[None]:
    job: Job[None] = Job("", "losses", lambda job: None, Queue())
    losses._work(job, question, missing)
    return job


@pytest.mark.parametrize("kind", ["predicted", "measured"])
def test_they_are_those_of_the_analysis(run: RunFolder, kind: losses.Kind) -> None:
    question = losses.Question(run, 40, kind)
    assert question.known(CONFIGS) == {}
    done(question, CONFIGS)
    find = analysis.replay if kind == "predicted" else analysis.measure
    expected = find(tiny.llama(), open_capture(run), CONFIGS, prompt=40)
    known = question.known(CONFIGS)
    assert list(known) == ["full", "a", "b"]
    for name, entry in known.items():
        assert entry.loss == pytest.approx(float(expected["loss"].sel(policy=name).mean()), abs=1e-3)
        assert entry.dtype == expected.attrs["dtype"]
    assert losses.Question(run, 0, kind).known(CONFIGS) == {}
    assert list(question.known({"other name": TREE})) == ["full", "other name"]
    losses._entry.clear()  # as another process: they are in the run
    joined = losses.joined(question.known({"other name": TREE}))
    assert joined["policy"].values.tolist() == ["full", "other name"]
    np.testing.assert_allclose(joined["loss"].values, expected["loss"].sel(policy=["full", "a"]).values, atol=0.02)
    question.file(TREE).write_bytes(b"damaged")
    losses._entry.clear()
    assert list(question.known({"other name": TREE})) == ["full"]


def test_hidden_numbers_that_are_found(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    question, asked = losses.Question(run, 256, "needles"), []

    def find(model, tokenizer, captured, configs, **options):
        asked.append((list(configs), options["prompt"]))
        found = np.array([[[True, True], [True, False]], [[False, True], [False, False]]])
        return xr.Dataset(
            {"found": (("policy", "question", "depth"), found)},
            coords={"policy": ["full", "a"], "question": ["given", "withheld"], "depth": [25.0, 75.0]},
            attrs={"format": "treekv-needles", "format_version": 1},
        )

    monkeypatch.setattr(analysis, "find_needles", find)
    done(question, {"a": TREE})
    losses._entry.clear()  # as another process: they are in the run
    rows = table.with_needles(
        [{"settings": name, "loss above full, predicted": 0.5, "perplexity": 3.0} for name in ("full cache", "a", "b")],
        question.known({"a": TREE, "b": CONFIGS["b"]}),
    )
    assert asked == [(["a"], 256)]
    assert list(rows[0]) == [
        "settings", "loss above full, predicted", "found, question given", "found, question withheld", "perplexity",
    ]  # fmt: skip
    assert [row["found, question given"] for row in rows] == [2, 1, None]
    assert [row["found, question withheld"] for row in rows] == [1, 0, None]


def test_a_stopped_job_keeps_what_it_has_found(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    question = losses.Question(run, 40, "predicted")
    real, calls = analysis.replay, []

    def replay(model, captured, configs, **options):
        calls.append((list(configs), options["full"]))
        if len(calls) == 2:
            raise Stopped
        return real(model, captured, configs, **options)

    monkeypatch.setattr(analysis, "replay", replay)
    with pytest.raises(Stopped):
        done(question, CONFIGS)
    assert list(question.known(CONFIGS)) == ["full", "a"]
    assert calls == [(["a"], True), (["b"], False)]


def test_the_least_loss_comes_first() -> None:
    rows = [{"settings": name, "tokens kept": 64} for name in "abc"]
    means = {"full": 2.0, "a": 2.5, "b": 2.25}
    entries = {name: losses.Entry(xr.Dataset({"loss": ("position", [mean])})) for name, mean in means.items()}
    rows = [{"settings": "full cache", "tokens kept": 320}, *rows]
    found = table.with_losses(rows, {"predicted": entries})
    assert [row["settings"] for row in found] == ["full cache", "b", "a", "c"]
    assert [row["loss above full, predicted"] for row in found] == [0.0, 0.25, 0.5, None]
    assert list(found[0]) == ["settings", "loss above full, predicted", "perplexity", "tokens kept"]
    assert table.with_losses(rows, {}) == rows
    assert table.best(found) == {"loss above full, predicted": 0.25, "perplexity": pytest.approx(math.exp(2.25))}


def test_perplexities_are_of_one_kind() -> None:
    def entries(**means: float) -> dict[str, losses.Entry]:
        return {name: losses.Entry(xr.Dataset({"loss": ("position", [mean])})) for name, mean in means.items()}

    rows = [{"settings": name} for name in ("full cache", "a", "b")]
    predicted = entries(full=2.0, a=2.5, b=2.75)
    for measured, means in ((entries(full=2.1, a=9.0), (2.0, 2.5, 2.75)), (entries(full=2.1, a=9.0, b=8.0),) * 2):
        found = table.with_losses(rows, {"predicted": predicted, "measured": measured})
        of = means if isinstance(means, tuple) else [entry.loss for entry in means.values()]
        assert [row["perplexity"] for row in found] == pytest.approx([math.exp(mean) for mean in of])


def test_without_the_loss_of_the_full_cache_there_is_none_until_it_is_found_anew(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    question, settings = losses.Question(run, 0, "predicted"), [decode(part) for part in TWO.split(";")]
    done(question, dict(zip("ab", settings, strict=True)))
    question.file(TreeKVConfig(policy="full")).unlink()
    losses._entry.clear()
    test = page("compare", run.path, monkeypatch, compare=TWO)
    assert not test.exception and "loss above full, predicted" not in test.dataframe[0].value
    monkeypatch.setattr(losses.jobs, "submit", lambda owner, title, work, makes: work(Job("", title, work, Queue())))
    losses.ask(question, dict(zip("ab", settings, strict=True)))
    assert "full" in question.known({})


def test_a_run_whose_model_is_nowhere_says_so(run: RunFolder) -> None:
    captured = open_capture(run)
    assert "does not say where its model 'llama' is" in losses.why_not(run, captured, 0)


def test_the_page_shows_where_the_loss_rises(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [decode(part) for part in TWO.split(";")]
    done(losses.Question(run, 0, "measured"), {str(number): config for number, config in enumerate(settings)})
    done(losses.Question(run, 0, "predicted"), {str(number): config for number, config in enumerate(settings)})
    test = page("compare", run.path, monkeypatch, compare=TWO)
    names = ["A TreeKV 64", "B StreamingLLM 64"]
    assert test.selectbox(key="hurting").options == names
    joined = losses.joined(losses.Question(run, 0, "measured").known(dict(zip(names, settings, strict=True))))
    assert any(analysis.plot.text_loss(joined, policy=names[0]) in sheet for sheet in sheets(test))
    captured = open_capture(run)
    retention = analysis.simulate(captured, {names[0]: settings[0]})
    wanted = analysis.most_costly(captured, retention, analysis.regret(captured, retention), names[0])
    shown = [markdown.value.replace("\\", "") for markdown in test.markdown]
    assert wanted and f"- {wanted[0]}".replace("\\", "") in shown


def test_a_measurement_goes_on_without_its_tab_and_the_next_one_shows_it(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_QUEUE", Queue())
    gate = threading.Event()
    monkeypatch.setattr(losses, "_work", lambda job, question, missing: gate.wait(300))
    monkeypatch.setattr(losses, "why_not", lambda *_: "")
    settings = [decode(part) for part in TWO.split(";")]
    names = dict(zip(["A TreeKV 64", "B StreamingLLM 64"], settings, strict=True))
    try:
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(jobs, "owner", lambda: "a tab that is closed")
            theirs = losses.ask(losses.Question(run, 0, "measured"), names)
        assert losses.of_another_tab(run) is theirs
        mine = losses.ask(losses.Question(run, 0, "predicted"), names)
        assert mine.makes == ""
        test = page("compare", run.path, monkeypatch, compare=TWO)
        for _ in range(2):  # the second time with a prediction of its own
            shown = [bar.proto.text for bar in test.get("progress")]
            assert any(text.startswith("Measuring the loss") for text in shown), shown
            assert next(button for button in test.button if button.label == "Measure the loss").disabled
            test.slider(key="compare_prompt").set_value(40).run()
        assert not theirs.stopped()  # other settings here stop what is asked for here only
    finally:
        gate.set()
    assert not test.exception
