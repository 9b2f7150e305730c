"""Every token is shaded by how many heads keep it, and its text is escaped."""

from __future__ import annotations

import html
from html.parser import HTMLParser

import pytest

import analysis
from analysis import plot
from treekv import TreeKVError


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
