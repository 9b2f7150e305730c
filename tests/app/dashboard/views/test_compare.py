"""The page Compare: every control, the numbers against analysis, empty and error states, the recommendation."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import analysis
from app.dashboard.actions import compare as actions
from app.dashboard.session.settings import setting_label
from app.text import captions, wording
from app.text.wording import titled
from tests.app.conftest import TOKENS
from tests.app.dashboard.comparison import TWO, configs, control, simulated
from tests.app.pages import alternatives, ended, page, said
from treekv import TreeKVConfig


def test_it_begins_with_the_runs_settings_and_two_others(small_run: Path, compare) -> None:
    test = compare()
    assert [config.policy for config in configs(test)] == ["tree", "streaming", "h2o"]
    assert configs(test)[0] == TreeKVConfig.load(small_run / "settings.json")
    names = {setting_label(n, config): config for n, config in enumerate(configs(test))}
    expected = analysis.plot.eviction_maps(simulated(small_run, names))
    assert alternatives(test) == [expected.layout.meta["alt"]]
    assert captions.MAPS in [caption.value for caption in test.main.get("caption")]


def test_the_table_gives_what_analysis_finds(small_run: Path, compare) -> None:
    test = compare(compare=TWO, memory_tokens="4,096", memory_batch="4", memory_dtype="float16")
    shown = test.dataframe[0].value
    names = dict(zip(["A TreeKV 64", "B StreamingLLM 64"], configs(test), strict=True))
    run = analysis.open(small_run / "capture.nc")
    retention = simulated(small_run, names)
    lost = analysis.output_loss(run, retention)
    assert shown["settings"].tolist() == ["full cache", *names]
    for row, name in enumerate(names, start=1):
        assert shown["attention retained"][row] == pytest.approx(100 * float(lost["mass"].sel(policy=name).mean()))
        assert shown["output error"][row] == pytest.approx(100 * float(lost["error"].sel(policy=name).mean()))
    # Equal in all rows: a sentence says it.
    assert not {"tokens kept", "memory", "saved"} & {*shown}
    held = [analysis.cache_bytes(run, config, 4096, batch=4, dtype="float16") for config in names.values()]
    full = analysis.cache_bytes(run, TreeKVConfig(policy="full"), 4096, batch=4, dtype="float16")
    words = (
        f"All settings keep 64 tokens. All take {wording.size(held[0])}; the full cache takes {full / held[0]:,.1f} "
        f"times as much ({wording.size(full - held[0])} saved)."
    )
    assert held[0] == held[1] and words in said(test, "caption")


def test_layers_whose_results_are_lost_are_simulated_again(compare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "few_of", lambda layers: [0])
    actions._simulated.clear()
    test = ended(compare(compare=TWO), "layers-job")
    assert "all 2 layers" in said(test, "caption")
    actions._simulated.clear()  # as by other sessions
    first = test.session_state["layers-job"]
    test.run()
    assert test.session_state["layers-job"] is not first
    assert "all 2 layers" in said(ended(test, "layers-job"), "caption")


def test_columns_that_differ_stand_in_the_table(compare) -> None:
    test = compare(compare="tree,cache_size=64,prefill=stream;streaming,cache_size=32,prefill=stream")
    assert test.dataframe[0].value["tokens kept"].tolist() == [TOKENS, 64, 32]
    assert test.dataframe[0].value["saved"].tolist()[0] == "nothing"
    assert test.dataframe[0].value["times smaller"].is_monotonic_increasing
    assert "All" not in said(test, "caption")


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


def test_the_prompt_follows_the_settings_until_it_is_given(compare) -> None:
    test = compare(compare=TWO)
    assert test.slider(key="compare_prompt").value == 0
    test.button(key="add").click().run()
    control(test.selectbox, "policy").set_value("snapkv").run()
    assert test.slider(key="compare_prompt").value == TOKENS // 2
    assert test.dataframe[0].value["tokens kept"].tolist()[:3] == [TOKENS, 64, 64]
    assert "it keeps everything" not in said(test, "warning")
    test.slider(key="compare_prompt").set_value(0).run()
    assert test.dataframe[0].value["tokens kept"].tolist() == [TOKENS, 64, 64, TOKENS]
    assert "C SnapKV 64 only reduces prompts, and there is no prompt: it keeps everything" in said(test, "warning")
    test.button(key="remove").click().run()
    assert test.slider(key="compare_prompt").value == 0 and "it keeps everything" not in said(test, "warning")


def test_the_layer_at_the_left_is_drawn_and_not_counted(small_run: Path, compare) -> None:
    test = compare(compare=TWO, compare_layers="1", layer="0")
    names = {setting_label(n, config): config for n, config in enumerate(configs(test))}
    counted, drawn = (simulated(small_run, names, layers=[layer]) for layer in (1, 0))
    error = analysis.output_loss(analysis.open(small_run / "capture.nc"), counted)["error"]
    for row, name in enumerate(names, start=1):
        found = test.dataframe[0].value["output error"][row]
        assert found == pytest.approx(100 * float(error.sel(policy=name).mean()))
    assert "Means over layer 1 of 2. Other layers may rank the settings differently" in said(test, "caption")
    assert "Layer 0, which the sidebar selects, is drawn; the table does not count it" in said(test, "caption")
    assert alternatives(test) == [analysis.plot.eviction_maps(drawn, layer=0).layout.meta["alt"]]


def test_layers_and_prompt_are_simulated_as_chosen(small_run: Path, compare) -> None:
    test = compare(compare="tree,cache_size=64;h2o,cache_size=64")
    test.multiselect(key="compare_layers").set_value([1]).run()
    test.slider(key="compare_prompt").set_value(200).run()
    names = dict(zip(["A TreeKV 64", "B H2O 64"], configs(test), strict=True))
    expected = analysis.plot.eviction_maps(simulated(small_run, names, [1], 200))
    assert alternatives(test) == [expected.layout.meta["alt"]]
    test.multiselect(key="compare_layers").set_value([]).run()
    expected = analysis.plot.eviction_maps(simulated(small_run, names, [0, 1], 200))  # none means all
    assert alternatives(test) == [expected.layout.meta["alt"]]


def test_half_of_the_text_is_the_prompt_where_settings_reduce_it_at_its_end(compare) -> None:
    assert compare(compare=TWO).slider(key="compare_prompt").value == 0
    mixed = compare(compare="tree,cache_size=64;streaming,cache_size=64,prefill=stream")
    assert mixed.slider(key="compare_prompt").value == TOKENS // 2
    assert compare(compare=TWO, compare_prompt="100").slider(key="compare_prompt").value == 100


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
