"""One page on one choice of settings: its numbers beside the full cache and a window, and how to run it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from app.export import snippets
from app.report.templates import picture, render
from treekv import TreeKVConfig


def one_page(
    config: TreeKVConfig,
    *,
    title: str,
    model: str,
    load: str,
    text: str,
    tokens: int,
    means_words: str,
    rows: Sequence[dict[str, Any]],
    memory_words: str,
    pictures: Sequence[tuple[go.Figure, str]],
) -> str:
    """The page as HTML that needs nothing else.

    Args:
        config: the chosen settings.
        title: what to call them.
        model: the name of the model that was captured, `load` what `treekv.load_model` takes for it.
        text, tokens: what was simulated.
        means_words: over what the numbers of the table are means.
        rows: the table, one dictionary a setting with the same keys.
        memory_words: for what its memory is told.
        pictures: figures, each with the sentence that says how to read it.
    """
    return render(
        "one_page.html",
        title=title,
        model=model,
        text=text,
        tokens=tokens,
        means_words=means_words,
        rows=[{name: _shown(value) for name, value in row.items()} for row in rows],
        memory_words=memory_words,
        settings=json.dumps(config.to_dict(), indent=2),
        command=snippets.command_line(load),
        snippet=snippets.python_snippet(load),
        pictures=[picture(f"one-{number}", *drawn) for number, drawn in enumerate(pictures)],
    )


def _shown(value: Any) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else str(value)
