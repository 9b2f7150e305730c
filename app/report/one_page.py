"""One page on one choice of settings: its numbers beside a window or the full cache, and how to run it."""

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
    """The page as self-contained HTML.

    Args:
        config: the active configuration.
        title: the name of the settings.
        model: the name of the model that was captured, `load` what `treekv.load_model` takes for it.
        text, tokens: what was simulated.
        means_words: what the numbers of the table are means over.
        rows: the table, one dictionary per setting, all with the same keys.
        memory_words: what context the memory is for.
        pictures: figures, each with its caption.
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
