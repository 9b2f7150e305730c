"""The page The paper without a browser: figure 3 step by step, from a link, and with input of every kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from analysis import plot
from analysis.paper import figure3
from app.dashboard.actions import worked_example
from app.dashboard.actions.worked_example import DRAW, SENTENCE
from app.dashboard.session import loaded_model
from tests.app.pages import alternatives, ended, opened, page, said
from treekv import TreeKVError


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch):
    return lambda **query: page("the_paper", None, monkeypatch, **query)


def told(test: AppTest) -> str:
    """The sentence about the step."""
    assert not test.exception
    (one,) = (text.value for text in test.markdown if text.value.startswith("**Step"))
    return one.replace("\\", "").strip("*")


def press(test: AppTest, name: str) -> AppTest:
    return test.button(key=f"word-{name}").click().run()


def test_figure_3_comes_first_and_needs_no_run(paper) -> None:
    test = paper()
    steps = figure3(SENTENCE, 4, DRAW)
    assert test.title[0].value == "The paper"
    assert test.subheader[0].value == "How TreeKV works (figure 3)"
    assert alternatives(test) == [plot.worked_example(steps, step=8).layout.meta["alt"]]
    assert told(test) == steps[8].in_words()


def test_the_example_has_as_many_words_as_the_papers_and_no_constant_winner() -> None:
    steps = worked_example.example()
    assert len(steps) == 17
    assert {step.loser == step.compared[0] for step in steps if step.compared} == {True, False}
    assert steps[0].held[0] not in steps[-1].kept


def test_steps_go_forward_and_back_and_not_beyond_the_ends(paper) -> None:
    test = paper(word="16")
    steps = figure3(SENTENCE, 4, DRAW)
    assert told(test) == steps[15].in_words()
    assert told(press(test, "next")) == steps[16].in_words()
    assert test.button(key="word-next").disabled and not test.button(key="word-back").disabled
    assert told(press(press(test, "back"), "back")) == steps[14].in_words()
    test.slider(key="word").set_value(1).run()
    assert told(test) == steps[0].in_words()
    assert test.button(key="word-back").disabled
    assert alternatives(test) == [plot.worked_example(steps, step=0).layout.meta["alt"]]


def test_a_link_shows_the_same_step_of_the_same_sentence(paper) -> None:
    sentence = "one two three four five six"
    test = paper(sentence=sentence, kept="3", draw="5", word="5")
    assert told(test) == figure3(sentence, 3, 5)[4].in_words()
    test = paper(sentence=sentence, kept="2", word="3", importances="1 0.5 0.25, 0 0 0")
    assert told(test) == "Step 3: “three” arrives; “one” (1) and “two” (0.5) are compared; “two” goes."


def test_another_sentence_another_cache_and_another_draw_are_read(paper) -> None:
    test = paper()
    test.slider(key="kept").set_value(6).run()
    assert told(test) == figure3(SENTENCE, 6, DRAW)[8].in_words()
    test.number_input(key="draw").set_value(1).run()
    assert told(test) == figure3(SENTENCE, 6, 1)[8].in_words()
    test.text_input(key="sentence").set_value("a b c d e f g h").run()  # shorter than the step was
    assert len(alternatives(test)) == 1
    assert told(test) == figure3("a b c d e f g h", 6, 1)[7].in_words()


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"sentence": "   "}, "The sentence is empty; write some words"),
        ({"sentence": "word " * 500}, "The sentence has 500 words; at most 48 can be drawn, so shorten it"),
        ({"sentence": "a b c", "importances": "1 2"}, "The sentence has 3 words, but there are 2 importances"),
        ({"sentence": "a b", "importances": "1 <b>"}, "The importances contain '<b>', which is not a number"),
        ({"sentence": "a b", "importances": "1 nan"}, "The importances contain 'nan', which is not a number"),
    ],
)
def test_what_cannot_be_read_is_one_sentence_and_the_page_goes_on(paper, query: dict, words: str) -> None:
    test = paper(**query)
    assert not test.exception
    assert len(test.error) == 1 and words in said(test)
    assert not test.get("plotly_chart")
    test.text_input(key="importances").set_value("")
    test.text_input(key="sentence").set_value("this one can be read").run()
    assert not test.error
    assert len(alternatives(test)) == 1


@pytest.mark.parametrize(
    ("sentence", "kept", "words"),
    [("one", "4", "The one word fits into the cache"), ("three words here", "16", "All 3 words fit into the cache")],
)
def test_what_fits_the_cache_is_said_and_drawn(paper, sentence: str, kept: str, words: str) -> None:
    test = paper(sentence=sentence, kept=kept)
    assert words in said(test, "info")
    assert len(alternatives(test)) == 1
    assert "there is room for it" in told(test)


def test_odd_characters_are_shown_as_they_are(paper) -> None:
    sentence = "</script> **bold** [a](b) $x$ \u202eright 🦊 `code` &lt; :red[x] longer" + "r" * 200
    test = paper(sentence=sentence, kept="2", word="4")
    assert told(test) == figure3(sentence, 2, DRAW)[3].in_words()
    assert len(alternatives(test)) == 1


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"kept": "99"}, "a cache of 99, but there are only 2 to 16; 4 is shown"),
        ({"word": "x"}, "step x, but there are only 1 to 48; 9 is shown"),
        ({"draw": "-1"}, "draw -1, but there are only 0 to 9,999; 8 is shown"),
    ],
)
def test_a_link_that_asks_in_vain_says_so(paper, query: dict, words: str) -> None:
    test = paper(**query)
    assert words in said(test, "warning")
    assert len(alternatives(test)) == 1
    assert not press(test, "next").warning


@pytest.mark.parametrize("with_run", [False, True])
def test_start_has_a_link_and_a_picture_that_loads_no_plotly(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_run: bool
) -> None:
    test = opened(small_run, monkeypatch) if with_run else opened(None, monkeypatch, root=tmp_path)
    assert not test.exception and not test.get("plotly_chart")
    assert "How TreeKV works, in a minute" in [link.proto.label for link in test.get("page_link")]


@pytest.mark.parametrize("with_run", [False, True])
def test_figures_1_and_2_are_measured_in_a_job(
    tiny_model: None, small_run: Path, monkeypatch: pytest.MonkeyPatch, with_run: bool
) -> None:
    test = page("the_paper", small_run if with_run else None, monkeypatch)
    assert len(alternatives(test)) == 1
    test.number_input(key="paper-windows").set_value(2)
    next(button for button in test.button if button.label == "Measure figures 1 and 2").click().run()
    assert not test.error
    test = ended(test, "paper-measuring")
    assert not test.error
    found = test.session_state["paper-measured"]
    assert found.figure2.attrs["samples"] == 2
    assert found.figure1.attrs["tokens"] == (320 if with_run else 512)
    drawn = [plot.distribution_maps(found.figure1), plot.paper_bands(found.figure2)]
    assert alternatives(test)[1:] == [figure.layout.meta["alt"] for figure in drawn]
    whose = "the text of the open run" if with_run else "the sample text"
    assert f"Figure 1 on {whose}" in said(test, "caption")


def test_a_model_that_is_not_there_is_one_sentence(paper, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_model(name: str) -> tuple:
        raise TreeKVError("there is no such model; a model is an alias")

    monkeypatch.setattr(loaded_model, "get", load_model)
    test = paper()
    next(button for button in test.button if button.label == "Measure figures 1 and 2").click().run()
    test = ended(test, "paper-measuring")
    assert "There is no such model" in said(test)
    assert len(alternatives(test)) == 1
