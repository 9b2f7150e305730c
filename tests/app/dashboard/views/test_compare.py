"""The page Compare: every control, the numbers against analysis, empty and error states, the recommendation."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import streamlit as st

import analysis
from app.dashboard.actions import compare as actions
from app.dashboard.session.run import open_capture
from app.dashboard.session.settings import CHOSEN, COMPARED, encode, setting_label
from app.dashboard.widgets import job_progress
from app.runs.folder import open_run
from app.text import captions, wording
from app.text.wording import titled
from tests.app.conftest import TOKENS
from tests.app.pages import alternatives, ended, page, said
from treekv import TreeKVConfig

TWO = "tree,cache_size=64,prefill=stream;streaming,cache_size=64,prefill=stream"


@pytest.fixture
def compare(small_run: Path, monkeypatch: pytest.MonkeyPatch):
    return lambda **query: page("compare", small_run, monkeypatch, **query)


def configs(test) -> list[TreeKVConfig]:
    return test.session_state[COMPARED]


def control(kind, name: str):
    """The control of a field as it is now: one that others have changed is a new one."""
    return next(one for one in kind if one.key.startswith(f"edit-{name}-"))


def simulated(run: Path, names: dict[str, TreeKVConfig], layers=(0, 1), prompt: int = 0):
    return analysis.simulate(analysis.open(run / "capture.nc"), names, layers=list(layers), prompt=prompt)


def test_it_begins_with_the_runs_settings_and_two_others(small_run: Path, compare) -> None:
    test = compare()
    assert [config.policy for config in configs(test)] == ["tree", "streaming", "h2o"]
    assert configs(test)[0] == TreeKVConfig.load(small_run / "settings.json")
    names = {setting_label(n, config): config for n, config in enumerate(configs(test))}
    expected = analysis.plot.eviction_maps(simulated(small_run, names))
    assert alternatives(test) == [expected.layout.meta["alt"]]
    assert test.main.get("caption")[-1].value == captions.MAPS


def test_the_table_gives_what_analysis_finds(small_run: Path, compare) -> None:
    test = compare(compare=TWO, memory_tokens="4,096", memory_batch="4", memory_dtype="float16")
    table = test.dataframe[0].value
    names = dict(zip(["A TreeKV 64", "B StreamingLLM 64"], configs(test), strict=True))
    run = analysis.open(small_run / "capture.nc")
    retention = simulated(small_run, names)
    lost = analysis.output_loss(run, retention)
    assert table["settings"].tolist() == list(names)
    assert table["tokens kept"].tolist() == [64, 64]
    for row, (name, config) in enumerate(names.items()):
        assert table["attention retained"][row] == pytest.approx(100 * float(lost["mass"].sel(policy=name).mean()))
        assert table["output error"][row] == pytest.approx(100 * float(lost["error"].sel(policy=name).mean()))
        held = analysis.cache_bytes(run, config, 4096, batch=4, dtype="float16")
        assert table["memory"][row] == wording.size(held)


def test_simulations_of_two_sessions_take_turns(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at once, the second of which sees the first at work; what is held already is had meanwhile."""
    working, go, at_once, most = threading.Event(), threading.Event(), 0, 0
    real = analysis.simulate

    def simulate(*arguments, **options):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        working.set()
        assert go.wait(60)
        at_once -= 1
        return real(*arguments, **options)

    run, tree = open_run(small_run), TreeKVConfig(cache_size=64, prefill="stream")
    known = {"a": tree}
    actions._simulated.clear()
    held = actions.simulate(run, known, (0,), 0)
    monkeypatch.setattr(analysis, "simulate", simulate)
    found: dict[int, actions.Comparison] = {}

    def session(size: int) -> None:
        found[size] = actions.simulate(run, {"a": tree.replace(cache_size=size)}, (0,), 0)

    threads = [threading.Thread(target=session, args=(size,)) for size in (32, 48, 48)]
    for thread in threads:
        thread.start()
    assert working.wait(60)
    time.sleep(0.3)
    assert (at_once, found) == (1, {})
    assert actions.simulate(run, known, (0,), 0).retention.identical(held.retention)
    go.set()
    for thread in threads:
        thread.join(60)
    assert most == 1
    assert [int((found[size].retention["evicted_at"] == -1).sum("position").max()) for size in (32, 48)] == [32, 48]


def test_a_slider_simulates_the_one_setting_that_it_moves(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated: list[list[str]] = []
    real = analysis.simulate

    def simulate(seen, configs, **options):
        simulated.append(list(configs))
        return real(seen, configs, **options)

    monkeypatch.setattr(analysis, "simulate", simulate)
    actions._simulated.clear()
    run, tree = open_run(small_run), TreeKVConfig(cache_size=64, prefill="stream")
    configs = {"a": tree, "b": tree.replace(policy="h2o"), "c": tree.replace(policy="streaming")}
    actions.simulate(run, configs, (0, 1), 0)
    moved = configs | {"b": configs["b"].replace(cache_size=48)}
    found = actions.simulate(run, moved, (1, 0), 0)
    assert simulated == [["a", "b", "c"], ["b"]]

    actions._simulated.clear()
    together = actions.simulate(run, moved, (0, 1), 0)
    assert found.retention.identical(together.retention) and found.loss.identical(together.loss)
    seen = open_capture(run)
    at_once = real(seen, moved, layers=[0, 1])
    assert together.retention.equals(at_once) and together.retention.attrs == at_once.attrs
    lost = analysis.output_loss(seen, at_once)
    assert together.loss.equals(lost) and together.loss.attrs == lost.attrs

    other_names = {"first": moved["c"], "second": moved["b"]}
    renamed = actions.simulate(run, other_names, (0, 1), 0)
    assert len(simulated) == 3
    assert renamed.retention["policy"].values.tolist() == renamed.loss["policy"].values.tolist() == ["first", "second"]
    assert list(json.loads(renamed.retention.attrs["configs"])) == ["first", "second"]
    for name, old in (("first", "c"), ("second", "b")):
        kept = renamed.retention["evicted_at"].sel(policy=name).values
        np.testing.assert_array_equal(kept, at_once["evicted_at"].sel(policy=old).values)
    twice = actions.simulate(run, {"x": tree.replace(stride=2), "y": tree, "z": tree.replace(stride=2)}, (0, 1), 0)
    assert simulated.pop() in (["x"], ["z"])  # alike
    x, z = (twice.retention["evicted_at"].sel(policy=name).values for name in "xz")
    np.testing.assert_array_equal(x, z)
    # One layer, another prompt: other results.
    actions.simulate(run, other_names, (0,), 0)
    actions.simulate(run, other_names, (0, 1), 32)
    assert simulated[3:] == [["first", "second"]] * 2


def test_a_page_says_that_it_waits_for_another_simulation(compare) -> None:
    actions._simulated.clear()
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        real = st.delta_generator.DeltaGenerator.info

        def info(self, body, **options):
            said.append(body)
            if job_progress._TURN.locked():
                job_progress._TURN.release()  # the other one ends once this page has said that it waits
            return real(self, body, **options)

        patch.setattr(st.delta_generator.DeltaGenerator, "info", info)
        assert job_progress._TURN.acquire(timeout=60)
        test = compare(compare=TWO)
    assert "Waiting for another simulation to end" in said
    assert alternatives(test)
    assert "Waiting for another simulation to end" not in [info.value for info in test.info]
    assert not job_progress._TURN.locked()


@pytest.mark.parametrize("picture", ["Agreement", "Bias", "Attention retained", "Output error", "Density", "Memory"])
def test_each_picture_is_drawn(small_run: Path, compare, picture: str) -> None:
    test = compare(compare=TWO)
    test.segmented_control(key="picture").set_value(picture).run()
    names = dict(zip(["A TreeKV 64", "B StreamingLLM 64"], configs(test), strict=True))
    run = analysis.open(small_run / "capture.nc")
    retention = simulated(small_run, names)
    lost = analysis.output_loss(run, retention)
    contexts = [512, 2048, 8192, 32768, 131072]
    every = {"full cache": TreeKVConfig(policy="full"), **names}
    expected = {
        "Agreement": lambda: analysis.plot.agreement(analysis.agreement(retention)),
        "Bias": lambda: analysis.plot.bias(analysis.recency_bias(retention)),
        "Attention retained": lambda: analysis.plot.mass_retained(lost),
        "Output error": lambda: analysis.plot.output_error(lost),
        "Density": lambda: analysis.plot.density(retention),
        "Memory": lambda: analysis.plot.memory(analysis.cache_bytes_by_context(run, every, contexts), context=32768),
    }[picture]()
    assert alternatives(test) == [expected.layout.meta["alt"]]


def test_the_sidebar_chooses_layer_and_head(small_run: Path, compare) -> None:
    test = compare(compare=TWO, layer="1", head="3")
    names = dict(zip(["A TreeKV 64", "B StreamingLLM 64"], configs(test), strict=True))
    expected = analysis.plot.eviction_maps(simulated(small_run, names), layer=1, head=1)
    assert alternatives(test) == [expected.layout.meta["alt"]]


@pytest.mark.parametrize(
    ("slider", "value", "changed"),
    [
        ("cache_size", 96, [(96, 4, 44), (96, 4, 92)]),
        ("sink_size", 2, [(64, 2, 30), (64, 2, 62)]),
        ("recent_size", 20, [(64, 4, 20), (64, 4, 60)]),  # a window has no choice of its own
    ],
)
def test_sliders_move_all_settings_together(compare, slider: str, value: int, changed: list) -> None:
    test = compare(compare=TWO)
    before = alternatives(test)
    control(test.slider, slider).set_value(value).run()
    assert [(c.cache_size, c.sink_size, c.recent_size) for c in configs(test)] == changed
    assert alternatives(test) != before
    assert test.query_params["compare"] == ";".join(map(encode, configs(test)))


def test_sliders_move_one_setting_alone_when_told(compare) -> None:
    test = compare(compare=TWO)
    test.toggle(key="together").set_value(False).run()
    test.segmented_control(key="edited").set_value(1).run()
    assert control(test.slider, "recent_size").disabled
    control(test.slider, "cache_size").set_value(32).run()
    assert [config.cache_size for config in configs(test)] == [64, 32]
    test.segmented_control(key="edited").set_value(0).run()
    assert control(test.slider, "cache_size").value == 64
    control(test.select_slider, "block_size").set_value(4).run()
    assert [config.block_size for config in configs(test)] == [4, configs(test)[1].block_size]


def test_policy_and_prompt_are_changed_for_the_marked_setting_alone(compare) -> None:
    test = compare(compare=TWO)
    test.segmented_control(key="edited").set_value(1).run()
    control(test.selectbox, "policy").set_value("h2o").run()
    control(test.selectbox, "prefill").set_value("once").run()
    assert [(c.policy, c.prefill) for c in configs(test)] == [("tree", "stream"), ("h2o", "once")]
    control(test.selectbox, "policy").set_value("snapkv").run()
    assert control(test.selectbox, "prefill").disabled
    assert control(test.slider, "sink_size").disabled
    assert not test.error


def test_what_does_not_fit_is_one_sentence_and_the_page_goes_on(compare) -> None:
    test = compare(compare=TWO)
    control(test.slider, "recent_size").set_value(60).run()
    assert "Budget 64 minus Sinks 4 minus Recent 60 leaves a tree region of 0" in said(test)
    assert configs(test)[0].recent_size == 28
    assert control(test.slider, "recent_size").value == 28
    assert len(alternatives(test)) == 1


def test_settings_are_added_up_to_six_and_removed_down_to_two(compare) -> None:
    test = compare(compare=TWO)
    assert test.button(key="remove").disabled
    for count in (3, 4, 5, 6):
        test.button(key="add").click().run()
        assert len(configs(test)) == count
        assert test.segmented_control(key="edited").value == count - 1
    assert test.button(key="add").disabled
    test.button(key="remove").click().run()
    assert len(configs(test)) == 5
    assert not test.exception


def test_the_prompt_follows_the_settings_until_it_is_given(compare) -> None:
    test = compare(compare=TWO)
    assert test.slider(key="compare_prompt").value == 0
    test.button(key="add").click().run()
    control(test.selectbox, "policy").set_value("snapkv").run()
    assert test.slider(key="compare_prompt").value == TOKENS // 2
    assert test.dataframe[0].value["tokens kept"].tolist()[:2] == [64, 64]
    assert "it keeps everything" not in said(test, "warning")
    test.slider(key="compare_prompt").set_value(0).run()
    assert test.dataframe[0].value["tokens kept"].tolist() == [64, 64, TOKENS]
    assert "C SnapKV 64 only reduces prompts, and there is no prompt: it keeps everything" in said(test, "warning")
    test.button(key="remove").click().run()
    assert test.slider(key="compare_prompt").value == 0 and "it keeps everything" not in said(test, "warning")


def test_the_layer_at_the_left_is_drawn_and_not_counted(small_run: Path, compare) -> None:
    test = compare(compare=TWO, compare_layers="1", layer="0")
    names = {setting_label(n, config): config for n, config in enumerate(configs(test))}
    counted, drawn = (simulated(small_run, names, layers=[layer]) for layer in (1, 0))
    error = analysis.output_loss(analysis.open(small_run / "capture.nc"), counted)["error"]
    for row, name in enumerate(names):
        found = test.dataframe[0].value["output error"][row]
        assert found == pytest.approx(100 * float(error.sel(policy=name).mean()))
    assert "Means over layer 1 of 2. Other layers may rank the settings differently" in said(test, "caption")
    assert alternatives(test) == [analysis.plot.eviction_maps(drawn, layer=0).layout.meta["alt"]]


def test_layers_and_prompt_are_simulated_as_chosen(small_run: Path, compare) -> None:
    test = compare(compare="tree,cache_size=64;h2o,cache_size=64")
    test.multiselect(key="compare_layers").set_value([1]).run()
    test.slider(key="compare_prompt").set_value(200).run()
    names = dict(zip(["A TreeKV 64", "B H2O 64"], configs(test), strict=True))
    expected = analysis.plot.eviction_maps(simulated(small_run, names, [1], 200))
    assert alternatives(test) == [expected.layout.meta["alt"]]
    test.multiselect(key="compare_layers").set_value([]).run()
    assert "at least one layer" in test.info[0].value
    assert not alternatives(test)


def test_half_of_the_text_is_the_prompt_where_settings_reduce_it_at_its_end(compare) -> None:
    assert compare(compare=TWO).slider(key="compare_prompt").value == 0
    mixed = compare(compare="tree,cache_size=64;streaming,cache_size=64,prefill=stream")
    assert mixed.slider(key="compare_prompt").value == TOKENS // 2
    assert compare(compare=TWO, compare_prompt="100").slider(key="compare_prompt").value == 100


def test_a_setting_is_taken_with_one_click(compare) -> None:
    test = compare(compare=TWO)
    test.segmented_control(key="edited").set_value(1).run()
    test.button(key="take").click().run()
    assert test.session_state[CHOSEN] == configs(test)[1]
    assert test.query_params["settings"] == encode(configs(test)[1])
    assert test.toast[0].value.endswith("now use these settings.")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"compare": "tree,cache_size=2;tree"}, "tree region"),
        ({"compare": "tree"}, "two to six settings can be compared, got 1"),
        ({"settings": "tree,colour=red"}, "colour=red"),
    ],
)
def test_an_address_that_says_nonsense_is_said_and_left(compare, query: dict, words: str) -> None:
    test = compare(**query)
    assert words in test.warning[0].value.replace("\\", "")
    assert len(alternatives(test)) == 1


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_without_its_capture_the_run_cannot_be_compared(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    file = run / "capture.nc"
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:2000])
    test = page("compare", run, monkeypatch)
    assert not test.exception
    assert len(test.error) == 1
    assert "capture.nc" in said(test)


def test_without_a_run_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    test = page("compare", None, monkeypatch)
    assert not test.exception
    assert test.title[0].value == "No run yet"


# ---------------------------------------------------------------------- the recommendation


def test_the_recommendation_is_explained_and_taken(small_run: Path, compare) -> None:
    test = compare(compare=TWO)
    test.number_input(key="goal-tokens").set_value(48).run()
    test.multiselect(key="questions").set_value(["sinks", "block"]).run()
    test.button(key="recommend").click().run()
    test = ended(test, "recommendation-job")
    run = analysis.open(small_run / "capture.nc")
    choice = analysis.recommend(run, 48, questions=["sinks", "block"])
    assert test.session_state["recommendation-job"].result.config == choice.config
    shown = [markdown.value.replace("\\", "") for markdown in test.markdown]
    for sentence in choice.sentences:
        assert f"- {sentence}" in shown
    assert alternatives(test)[-1] == choice.figure.layout.meta["alt"]
    test.button(key="take-recommendation").click().run()
    assert test.session_state[CHOSEN] == choice.config
    assert configs(test)[-1] == choice.config


@pytest.mark.parametrize(
    ("goal", "field", "value", "words"),
    [
        ("Tokens to keep", "goal-tokens", 1000, "a budget of 1000 tokens needs a capture of at least 2000"),
        ("Bytes to keep", "goal-bytes", 0.0, "0 bytes hold 0 tokens"),
        ("Attention to retain", "goal-2", 0.0, "must be between 0 and 1"),
        ("Error to allow", "goal-3", 100.0, "must be between 0 and 1"),
    ],
)
def test_a_goal_that_cannot_be_met_is_one_sentence(compare, goal: str, field: str, value: float, words: str) -> None:
    test = compare(compare=TWO)
    test.segmented_control(key="goal").set_value(goal).run()
    test.number_input(key=field).set_value(value).run()
    test.button(key="recommend").click().run()
    test = ended(test, "recommendation-job")
    assert not test.exception
    assert words in said(test)
    assert len(alternatives(test)) == 1


# ---------------------------------------------------------------------- simulation against reality


def test_a_real_run_is_laid_over_its_simulation(small_run: Path, compare) -> None:
    test = compare(compare=TWO)
    assert "Generate a text first" in test.info[-1].value
    both = simulated(small_run, {"tree (simulated)": configs(test)[0], "tree (real run)": configs(test)[1]})
    test.session_state["simulated_trace"] = both.sel(policy=["tree (simulated)"])
    test.session_state["real_trace"] = both.sel(policy=["tree (real run)"])
    test.run()
    expected = analysis.plot.retention_difference(titled(both), policies=("TreeKV (simulated)", "TreeKV (real run)"))
    assert alternatives(test)[-1] == expected.layout.meta["alt"]
