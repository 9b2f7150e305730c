"""Figures of what is kept: what is drawn is what the record says."""

from __future__ import annotations

import html
from html.parser import HTMLParser

import numpy as np
import pytest

import analysis
from analysis import plot
from treekv import TreeKVConfig, TreeKVError

THREE_MB = 3_000_000


@pytest.fixture(scope="module")
def record(run):
    configs = {
        "tree": TreeKVConfig(cache_size=32, sink_size=2, prefill="stream", block_size=8),
        "streaming": TreeKVConfig(policy="streaming", cache_size=32),
    }
    return analysis.simulate(run, configs)


# ---------------------------------------------------------------------- agreement and density


def test_agreement_is_drawn_in_per_cent(record):
    between = analysis.agreement(record)
    figure = plot.agreement(between)
    (heatmap,) = figure.data
    assert list(heatmap.x) == list(heatmap.y) == ["tree", "streaming"]
    expected = np.rint(100 * between.mean("layer").values)
    assert (np.asarray(heatmap.z) == expected).all()
    assert f"{expected[0, 1]:.0f} to {expected[0, 1]:.0f} %" in figure.layout.meta["alt"]
    one = plot.agreement(analysis.agreement(record, "head"), policy="tree", layer=1)
    expected = analysis.agreement(record, "head").sel(policy="tree", layer=1).values
    assert (np.asarray(one.data[0].z) == np.rint(100 * expected)).all()
    assert "policy tree, layer 1" in one.layout.title.subtitle.text
    with pytest.raises(TreeKVError, match="there is no layer 9; choose one of 0, 1"):
        plot.agreement(between, layer=9)
    with pytest.raises(TreeKVError, match="policy cannot be selected when policies are compared"):
        plot.agreement(between, policy="tree")


def test_density_draws_a_line_a_policy(record):
    figure = plot.density(record, step=200)
    share = analysis.density(record, step=200, max_cells=201)
    assert [line.name for line in figure.data] == ["tree", "streaming"]
    for line in figure.data:
        near = [i for i, x in enumerate(line.x) if x < 15]  # runs of one token
        assert [line.x[i] for i in near] == list(range(1, len(near) + 1))
        expected = 100 * share.sel(policy=line.name).values
        np.testing.assert_allclose([line.y[i] for i in near], expected[: len(near)])
        last = [i for i, x in enumerate(line.x) if x > 150]
        assert min(expected[150:]) <= line.y[last[-1]] <= max(expected[150:])
    assert figure.layout.xaxis.type == "log" and "tokens" in figure.layout.xaxis.title.text
    assert "streaming" in figure.layout.meta["alt"]


def test_density_of_one_layer_and_head(record):
    for chosen, whole, words in (
        ({"layer": 1}, "heads", "layer 1, mean of 2 KV heads"),
        ({"head": 0}, "layers", "mean of 2 layers, KV head 0"),
        ({"layer": 1, "head": 0}, "tokens", "layer 1, KV head 0"),
    ):
        figure = plot.density(record, step=200, **chosen)
        expected = 100 * analysis.density(record, step=200, max_cells=201, **chosen).sel(policy="tree").values
        near = [i for i, x in enumerate(figure.data[0].x) if x < 15]
        np.testing.assert_allclose([figure.data[0].y[i] for i in near], expected[: len(near)])
        assert figure.layout.yaxis.title.text == f"kept (% of {whole})"
        assert words in figure.layout.title.subtitle.text and words in figure.layout.meta["alt"]
    with pytest.raises(TreeKVError, match="head 2"):
        plot.density(record, head=2)


# ---------------------------------------------------------------------- the tree


def test_tree_draws_every_life_and_every_absorption(record):
    figure = plot.tree(record, policy="tree", layer=1, head=0, start=200, stop=240)
    one = record.sel(policy="tree", layer=1, head=0)
    forest = analysis.eviction_tree(record).sel(policy="tree", layer=1, head=0)
    lines = set()
    for trace in figure.data:
        if trace.mode == "lines":
            xs, ys = np.array(trace.x, dtype=float).reshape(-1, 4), np.array(trace.y, dtype=float).reshape(-1, 4)
            lines |= {tuple(int(v) for v in (x[0], y[0], y[1], x[2])) for x, y in zip(xs, ys)}
    expected = set()
    for position in range(200, 240):
        gone, parent = int(one["evicted_at"][position]), int(forest["parent"][position])
        end = gone if gone >= 0 else 300
        expected.add((position, position, end, parent if 200 <= parent < 240 else position))
    assert lines == expected
    held = next(trace for trace in figure.data if trace.name == "still kept")
    assert list(held.x) == [p for p in range(200, 240) if int(one["evicted_at"][p]) < 0]
    assert f"of 40 tokens {len(held.x)} are still kept" in figure.layout.meta["alt"]
    evicted = next(trace for trace in figure.data if trace.name == "evicted")
    assert f"evicted at step {int(one['evicted_at'][evicted.x[0]])}" in evicted.text[0]


def test_tree_chooses_a_stretch_and_refuses_others(record):
    figure = plot.tree(record, policy="tree")
    low, high = figure.layout.xaxis.range
    assert low == 301 - 64 - 1 and high == low + 1 + 48
    for wrong in (dict(start=290, stop=302), dict(start=5, stop=5)):
        with pytest.raises(TreeKVError, match="must lie within the 301 tokens"):
            plot.tree(record, policy="tree", **wrong)
    with pytest.raises(TreeKVError, match="at most 256"):
        plot.tree(record, policy="tree", start=0, stop=300)
    with pytest.raises(TreeKVError, match="several policies"):
        plot.tree(record)


# ---------------------------------------------------------------------- the text


class Spans(HTMLParser):
    """Token spans of the text: (title, text); fails on any tag that the figure does not use."""

    def __init__(self, page):
        super().__init__()
        self.found, self.open = [], False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        assert tag in ("figure", "figcaption", "div", "span", "br"), tag
        assert {name for name, _ in attrs} <= {"style", "title", "role", "aria-label"}
        title = dict(attrs).get("title")
        if tag == "span":
            self.open = title is not None
            if self.open:
                self.found.append([title, ""])

    def handle_endtag(self, tag):
        self.open = self.open and tag != "span"

    def handle_data(self, data):
        if self.open:
            self.found[-1][1] += data


def test_text_says_how_many_heads_keep_each_token(record):
    tokens = [f" w{i}" for i in range(301)]
    tokens[250], tokens[251] = "<script>alert('x')</script>", '"&\n\x01'
    record = record.assign_coords(token=("position", tokens))
    page = plot.text_retention(record, policy="tree", start=240, stop=301)
    spans = Spans(page).found
    kept = analysis.kept_mask(record, 300).sel(policy="tree").sum(("layer", "head")).values
    assert [title for title, _ in spans] == [f"position {p}: kept by {kept[p]} of 4 heads" for p in range(240, 301)]
    assert [text for _, text in spans[:12]] == [*tokens[240:251], '"&\u23ce\u2401']
    assert "<script" not in page and html.escape("<script>") in page
    assert "positions 240 to 300" in page


def test_text_by_time_and_for_one_head(record):
    page = plot.text_retention(record, policy="streaming", by="time", step=150, layer=0, head=1)
    titles = [title for title, _ in Spans(page).found]
    # At step 150 the window is full: token 60 came at 60 and was pushed out by token 60 + 28.
    gone = int(record["evicted_at"].sel(policy="streaming", layer=0, head=1, position=60))
    assert gone == 88
    assert titles[60] == f"position 60: kept for {100 * 28 / 91:.0f} % of the time since"
    assert titles[0].endswith("kept for 100 % of the time since") and len(titles) == 151
    assert "layer 0 KV head 1" in page
    one = [t for t, _ in Spans(plot.text_retention(record, policy="tree", layer=0, head=1)).found]
    assert {title.split(": ")[1] for title in one} == {"kept", "evicted"}


def test_text_that_cannot_be_shown(record):
    with pytest.raises(TreeKVError, match="'heads' or 'time', got 'x'"):
        plot.text_retention(record, policy="tree", by="x")
    with pytest.raises(TreeKVError, match="lacks the text"):
        plot.text_retention(record.drop_vars("token"), policy="tree")
    with pytest.raises(TreeKVError, match="within the 101 tokens read, got 50 to 102"):
        plot.text_retention(record, policy="tree", step=100, start=50, stop=102)
    with pytest.raises(TreeKVError, match="'h2o'"):
        plot.text_retention(record, policy="h2o")


def test_all_are_small_for_a_long_text(made_record):
    record = made_record(9000)
    size = {
        "density": len(plot.density(record).to_json()),
        "tree": len(plot.tree(record, policy="tree", start=8000, stop=8256).to_json()),
        "text": len(plot.text_retention(record, policy="tree", start=0, stop=8192)),
        "agreement": len(plot.agreement(analysis.agreement(record)).to_json()),
    }
    assert max(size.values()) < THREE_MB
    with pytest.raises(TreeKVError, match="at most 8192"):
        plot.text_retention(record, policy="tree")
