"""One step of figure 3: the boxes are the cache, the lines are the tree, and all scales stay."""

from __future__ import annotations

import pytest

from analysis import plot
from analysis.paper import figure3
from treekv import TreeKVError

SENTENCE = "Readers recall their last page in full detail but only a few words from chapters long ago"


@pytest.fixture(scope="module")
def steps():
    return figure3(SENTENCE, 4, seed=8)


def written(figure) -> list[str]:
    """The words in the boxes and around them."""
    return [note.text for note in figure.layout.annotations]


def tree_lines(figure) -> set[tuple]:
    found = set()
    for trace in figure.data:
        if trace.mode == "lines" and trace.xaxis is None:
            line: list = []
            for x, y in zip(trace.x, trace.y):
                if x is None:
                    found.add(tuple(line))
                    line = []
                else:
                    line.append((x, y))
    return found


@pytest.mark.parametrize("number", [1, 4, 5, 9, 12, 17])
def test_the_boxes_are_the_cache_and_the_lines_the_tree(steps, number: int) -> None:
    step = steps[number - 1]
    figure = plot.worked_example(steps, step=number - 1)
    texts = written(figure)
    for position, importance in zip(step.held, step.numbers()):
        word = step.words[position]
        drawn = f"<s>{word}</s>" if position == step.loser else f"<b>{word}</b>" if position == step.winner else word
        assert drawn in texts
        assert importance in texts
    assert texts.count("compared") == (step.compared is not None)
    boxes = [trace for trace in figure.data if trace.fill == "toself"]
    assert len(boxes) == 5
    if step.compared is not None:
        bracket = next(
            trace for trace in figure.data if trace.xaxis == "x2" and trace.mode == "lines" and not trace.fill
        )
        assert [bracket.x[0], bracket.x[-1]] == [step.held.index(position) for position in step.compared]
    expected = set()
    for position, (parent, level) in enumerate(zip(step.parent, step.level)):
        line = [(position, 0), (position, level)]
        expected.add(tuple(line if parent == -1 else [*line, (parent, level)]))
    assert tree_lines(figure) == expected
    diamonds = next(trace for trace in figure.data if trace.marker.symbol == "diamond")
    assert list(diamonds.x) == list(step.kept)
    assert step.in_words() in figure.layout.meta["alt"]


def test_scales_stay_from_step_to_step(steps) -> None:
    layouts = [plot.worked_example(steps, step=number).layout for number in range(17)]
    axes = ("xaxis", "yaxis", "xaxis2", "yaxis2")
    assert len({tuple(layout[axis].range for axis in axes) for layout in layouts}) == 1
    assert plot.worked_example(steps) == plot.worked_example(steps, step=16)


def test_no_word_can_inject_markup() -> None:
    figure = plot.worked_example(figure3("<a href='x'> <b>bold</b> <i> & x y", 2))
    drawn = "".join([*written(figure), *figure.layout.xaxis.ticktext, figure.layout.title.text])
    for tag in ("<a", "<i>", "<b>bold"):
        assert tag not in drawn


def test_words_stand_upright_where_there_are_many_boxes(steps) -> None:
    assert {note.textangle for note in plot.worked_example(steps).layout.annotations if note.xref == "x2"} == {0}
    many = plot.worked_example(figure3(SENTENCE, 16))
    assert {note.textangle for note in many.layout.annotations if note.text in SENTENCE.split()} == {-90}


def test_what_cannot_be_drawn_is_refused(steps) -> None:
    with pytest.raises(TreeKVError, match="step 17 is outside the sentence; give 0 to 16"):
        plot.worked_example(steps, step=17)
    with pytest.raises(TreeKVError, match="49 words are too many"):
        plot.worked_example(figure3("w " * 49))
    with pytest.raises(TreeKVError, match="no steps to draw"):
        plot.worked_example([])
