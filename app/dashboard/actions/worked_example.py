"""Figure 3 of the paper as a page has it: a sentence, a small cache, and one step at a time."""

from __future__ import annotations

import math
from typing import Final

import streamlit as st

from analysis import plot
from analysis.paper.figure_3 import Step, figure3
from analysis.plot.worked_example_figure import MOST_WORDS
from app.dashboard.session.messages import plain
from app.dashboard.session.view import read_index
from app.dashboard.widgets.figure import draw_figure
from app.dashboard.widgets.step_buttons import one_by_one
from app.text import captions
from treekv import TreeKVError

SENTENCE: Final = "Readers recall their last page in full detail but only a few words from chapters long ago"
METHOD: Final = (
    "The cache has room for a few words. When it is full and one more arrives, TreeKV compares two **neighbours**, and "
    "the less important one goes. Then it moves on to the next two; after the newest it starts again with the oldest. "
    "Each round halves what was there before, so distant words become sparse while near ones stay dense."
)
LEAST_KEPT, KEPT, MOST_KEPT = 2, 4, 16
DRAW: Final = 8  # one in which not always the same word wins
MOST_DRAWS: Final = 9999
FIRST: Final = 9  # the step to begin with: the cursor has made its first round


def read(sentence: str, capacity: int, draw: int, importances: str = "") -> tuple[Step, ...]:
    """The steps of a sentence that can be drawn.

    `importances` is empty for drawn ones, or has a number for each word. Raises TreeKVError in one sentence.
    """
    words = sentence.split()
    if not words:
        raise TreeKVError("the sentence is empty; write some words")
    if len(words) > MOST_WORDS:
        raise TreeKVError(f"the sentence has {len(words):,} words; at most {MOST_WORDS} can be drawn, so shorten it")
    return figure3(words, capacity, draw, _numbers(importances, len(words)) if importances.strip() else None)


def example() -> tuple[Step, ...]:
    """The steps of the page's own sentence."""
    return read(SENTENCE, KEPT, DRAW)


def _numbers(text: str, words: int) -> list[float]:
    parts = text.replace(",", " ").split()
    numbers = []
    for part in parts:
        try:
            numbers.append(float(part))
        except ValueError:
            numbers.append(math.nan)
        if not math.isfinite(numbers[-1]):
            raise TreeKVError(f"the importances contain {part[:40]!r}, which is not a number; 0.5 would be one")
    if len(numbers) != words:
        raise TreeKVError(f"the sentence has {words} words, but there are {len(numbers)} importances; give one a word")
    return numbers


def choose() -> tuple[Step, ...]:
    """Controls for sentence, cache and importances, kept in the address; what is read with them.

    Raises TreeKVError in one sentence.
    """
    words, size = st.columns([3, 1])
    with words:
        sentence = st.text_input("Sentence", SENTENCE, key="sentence", bind="query-params", persist_state="session")
    with size:
        capacity = st.slider(
            "Cache (words)", LEAST_KEPT, MOST_KEPT, KEPT, key="kept", bind="query-params", persist_state="session"
        )
    with st.expander("Importances"):
        draw, given = st.columns([1, 3])
        with draw:
            seed = st.number_input(
                "Draw", 0, MOST_DRAWS, DRAW, key="draw", bind="query-params", persist_state="session"
            )
        with given:
            importances = st.text_input(
                "Your own",
                key="importances",
                bind="query-params",
                persist_state="session",
                placeholder="one number for each word, such as 0.2 0.9 0.4",
            )
        st.caption(
            "There is no model here, so importances are drawn: each word gets how much it is looked at, and each later "
            "word looks at it a little more or less. Another number is another draw. Your own importances never change."
        )
    return read(sentence or "", int(capacity), int(seed), importances or "")


def check_link() -> None:
    """Say once what the address asks for in vain, before the controls drop it."""
    checked = st.session_state.setdefault("checked_links", set())
    if "the_paper" in checked:
        return
    checked.add("the_paper")
    for name, what, least, most, instead in (
        ("kept", "a cache of", LEAST_KEPT, MOST_KEPT, KEPT),
        ("draw", "draw", 0, MOST_DRAWS, DRAW),
        ("word", "step", 1, MOST_WORDS, FIRST),
    ):
        for value in st.query_params.get_all(name)[-1:]:
            number = read_index(value)
            if number is None or not least <= number <= most:
                asked = plain(f"{what} {value[:20]}")
                st.warning(f"The link asks for {asked}, but there are only {least} to {most:,}; {instead} is shown.")


def show(steps: tuple[Step, ...], key: str) -> None:
    """One step at a time, in words and as a figure."""
    words, capacity = len(steps), len(steps[-1].kept)
    if steps[-1].compared is None:
        st.info(
            f"{'The one word fits' if words == 1 else f'All {words} words fit'} into the cache, so none is compared "
            "and none goes. Write a longer sentence or make the cache smaller."
        )

    def at(step: int) -> None:
        st.markdown(f"**{plain(steps[step].in_words())}**")
        draw_figure(lambda: plot.worked_example(steps, step=step), captions.WORKED_EXAMPLE, key=key)

    one_by_one(words, at, key, first=max(FIRST, capacity + 1))
