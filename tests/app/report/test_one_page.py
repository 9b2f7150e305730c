"""The page on one choice of settings."""

from __future__ import annotations

import html
import json

import plotly.graph_objects as go

from app.export import snippets
from app.report.one_page import one_page
from treekv import TreeKVConfig

EVIL = "</script><img src=http://example.invalid/x.png>"


def test_it_has_the_numbers_the_pictures_and_how_to_run_them() -> None:
    config = TreeKVConfig(cache_size=64, max_height=5)
    picture = go.Figure(go.Bar(y=[1, 2]), layout={"meta": {"alt": "Two bars."}})
    page = one_page(
        config,
        title=f"A TreeKV 64 {EVIL}",
        model="tiny",
        load="my model",
        text="persuasion.txt",
        tokens=12_345,
        means_words="Means over all layers.",
        rows=[{"setting": "A", "tokens": 64, "error": 0.123}, {"setting": "B", "tokens": 60, "error": 1234.5}],
        memory_words="At 32,768 tokens.",
        pictures=[(picture, "What is kept."), (picture, "What it costs.")],
    )
    text = html.unescape(page)
    assert "Simulated on 12,345 tokens of “persuasion.txt” with tiny. Means over all layers." in text
    assert "<th>setting</th><th>tokens</th><th>error</th>" in page
    assert "<td>A</td><td>64</td><td>0.12</td>" in page and "<td>1,234.50</td>" in page
    assert "At 32,768 tokens." in text and "What is kept." in text and "What it costs." in text
    assert page.count('id="picture-one-0"') == page.count('id="picture-one-1"') == 1
    assert json.dumps(config.to_dict(), indent=2) in text
    assert snippets.command_line("my model") in text and snippets.python_snippet("my model") in text
    assert EVIL not in page
