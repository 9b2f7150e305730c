"""A line for each setting over the lengths of context."""

from __future__ import annotations

import pytest

from analysis.memory_size import cache_bytes, cache_bytes_by_context
from analysis.plot.memory_figure import memory as plot_memory
from treekv import TreeKVConfig, TreeKVError


def test_the_picture_shows_each_setting_over_the_contexts(captured) -> None:
    configs = {"full": TreeKVConfig(policy="full"), "a <b>": TreeKVConfig(cache_size=64)}
    found = cache_bytes_by_context(captured, configs, [1024, 4096], batch=2, dtype="float32")
    assert (
        found.sel(policy="a <b>").values.tolist()
        == [cache_bytes(captured, configs["a <b>"], 1024, batch=2, dtype="float32")] * 2
    )
    figure = plot_memory(found, context=4096)
    assert [trace.name for trace in figure.data] == ["full", "a &lt;b&gt;"]
    assert list(figure.data[0].y) == found.sel(policy="full").values.tolist()
    assert "at 4,096 tokens" in figure.layout.meta["alt"]
    assert "full 2.1 MB" in figure.layout.meta["alt"]
    with pytest.raises(TreeKVError, match="there is no context 5; choose one of 1024, 4096"):
        plot_memory(found, context=5)
    with pytest.raises(TreeKVError, match="at least one setting"):
        cache_bytes_by_context(captured, {}, [1])
