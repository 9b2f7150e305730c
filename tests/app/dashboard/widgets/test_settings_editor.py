"""The controls of the compared settings."""

from __future__ import annotations

import pytest

from app.dashboard.session.settings import CHOSEN, encode
from tests.app.dashboard.comparison import TWO, configs, control
from tests.app.pages import alternatives, said


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


def test_the_height_is_that_of_the_marked_tree(compare) -> None:
    test = compare(compare=TWO)
    control(test.selectbox, "max_height").set_value(5).run()
    assert [config.max_height for config in configs(test)] == [5, None]
    assert "max_height=5" in test.query_params["compare"]
    control(test.selectbox, "max_height").set_value(None).run()
    assert [config.max_height for config in configs(test)] == [None, None]
    test.segmented_control(key="edited").set_value(1).run()
    assert control(test.selectbox, "max_height").disabled
    assert not test.error


def test_a_policy_with_variants_has_a_control_for_them(compare) -> None:
    test = compare(compare=TWO)
    assert not [box for box in test.selectbox if box.label == "Variant"]
    control(test.selectbox, "policy").set_value("h2o").run()
    control(test.selectbox, "variant").set_value("paper").run()
    assert (configs(test)[0].title, configs(test)[0].sink_size) == ("H2O, paper's allocation", 4)
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


def test_a_setting_is_taken_with_one_click(compare) -> None:
    test = compare(compare=TWO)
    test.segmented_control(key="edited").set_value(1).run()
    test.button(key="take").click().run()
    assert test.session_state[CHOSEN] == configs(test)[1]
    assert test.query_params["settings"] == encode(configs(test)[1])
    assert test.toast[0].value.endswith("Generate and Export use it.")
