"""Loss against length: running means over tokens, paired by document."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.evaluation.report import group_cells, loss_by_length, running_loss
from analysis.evaluation.report.length_figure import comparable
from analysis.evaluation.sweep.records import Record
from tests.analysis.evaluation.report.examples import record
from treekv import TreeKVError


def streamed(name: str, document: int, losses: list[float], **changes) -> Record:
    cells = {"position": [1, 5, 9][: len(losses)], "loss": losses, "tokens": [4, 4, 2][: len(losses)]}
    return record(name, document, 1.0, detail={"by_position": cells}, **changes)


MADE = [
    streamed("tree", 0, [3.0, 2.0, 1.0]),
    streamed("tree", 1, [5.0, 4.0, 3.0]),
    streamed("tree_left", 0, [3.0, 2.5, 2.0]),
    streamed("tree_left", 1, [5.0, 4.0, 4.0]),
    streamed("tree_left", 2, [9.0, 9.0, 9.0]),  # the tree has not read this one
]


def test_it_is_the_mean_loss_of_all_tokens_so_far() -> None:
    found = running_loss(group_cells(MADE))
    assert found["length"].values.tolist() == [5, 9, 11]
    tree = [[3.0, (4 * 3 + 4 * 2) / 8, (4 * 3 + 4 * 2 + 2 * 1) / 10], [5.0, 4.5, (20 + 16 + 6) / 10]]
    left = [[3.0, (12 + 10) / 8, (12 + 10 + 4) / 10], [5.0, 4.5, (20 + 16 + 8) / 10]]
    np.testing.assert_allclose(found["loss"].sel(settings="tree"), np.mean(tree, 0))
    np.testing.assert_allclose(found["loss"].sel(settings="tree_left"), np.mean(left, 0))
    apart = np.array(left) - np.array(tree)
    np.testing.assert_allclose(found["difference"].sel(settings="tree_left"), apart.mean(0), atol=1e-12)
    # Of two documents a resample has one twice in half of the cases: the interval reaches from one to the other.
    np.testing.assert_allclose(found["difference_low"].sel(settings="tree_left"), apart.min(0), atol=1e-12)
    np.testing.assert_allclose(found["difference_high"].sel(settings="tree_left"), apart.max(0), atol=1e-12)
    assert (found["difference"].sel(settings="tree") == 0).all()
    assert (found.attrs["baseline"], found.attrs["documents"]) == ("tree", 2)


def test_seeds_of_a_document_count_once() -> None:
    several = [streamed("tree", 0, [3.0, 2.0], seed=0), streamed("tree", 0, [5.0, 2.0], seed=1)]
    found = running_loss(group_cells(several))
    assert found["loss"].values.tolist() == [[4.0, 3.0]]
    assert np.isnan(found["difference_low"]).all()


def test_it_is_drawn_as_it_is_and_against_the_baseline() -> None:
    found = running_loss(group_cells(MADE))
    figure = loss_by_length(group_cells(MADE))
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    assert [(line.name, line.yaxis) for line in lines] == [
        ("TreeKV", "y"), ("TreeKV", "y2"), ("TreeKV, left", "y"), ("TreeKV, left", "y2"),
    ]  # fmt: skip
    for line in lines:
        field = "loss" if line.yaxis == "y" else "difference"
        np.testing.assert_allclose(line.y, found[field].sel(settings="tree" if line.name == "TreeKV" else "tree_left"))
        assert list(line.x) == [5, 9, 11]
    [shade] = [trace for trace in figure.data if trace.fill == "toself"]
    np.testing.assert_allclose(shade.y[:3], found["difference_high"].sel(settings="tree_left"))
    assert figure.layout.xaxis.type == figure.layout.xaxis2.type == "log"
    low, high = (float(found[f"difference_{end}"].sel(settings="tree_left")[-1]) for end in ("low", "high"))
    alt = figure.layout.meta["alt"]
    assert "and minus that of TreeKV, 2 documents" in alt
    assert "all 11 tokens" in alt and "TreeKV 3.200; TreeKV, left 3.500 (+0.300, " in alt
    assert f"{low:+.3f} to {high:+.3f})" in alt


@pytest.mark.parametrize(
    ("made", "baseline", "words"),
    [
        ([record()], "tree", "no record has losses by position"),
        (MADE, "h2o", "no settings 'h2o'.*tree, tree_left"),
        ([*MADE, streamed("tree", 0, [1.0], model="other")], "tree", "several models"),
        ([*MADE, streamed("tree", 0, [1.0], budget=128)], "tree", "several budgets"),
        ([MADE[0], MADE[3]], "tree", "no document was measured with all settings"),
        ([MADE[0], streamed("tree_left", 0, [3.0])], "tree", "different positions"),
    ],
)
def test_what_cannot_be_compared_is_refused(made: list[Record], baseline: str, words: str) -> None:
    with pytest.raises(TreeKVError, match=words):
        running_loss(group_cells(made), baseline)
    assert not comparable(group_cells(made), baseline)


def test_only_several_settings_are_comparable() -> None:
    assert comparable(group_cells(MADE), "tree_left")
    assert not comparable(group_cells(MADE), None)
    assert not comparable(group_cells(MADE[:2]), "tree")
