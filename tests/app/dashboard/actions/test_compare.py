"""Simulations behind Compare: cached by setting, one at a time for all sessions."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import analysis
from app.dashboard.actions import compare as actions
from app.dashboard.session.jobs import Job, Queue
from app.dashboard.session.run import open_capture
from app.runs.folder import open_run
from treekv import TreeKVConfig


def test_simulations_of_two_sessions_take_turns(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at once, the second of which sees the first at work; what is held already is had meanwhile."""
    working, go, at_once, most = threading.Event(), threading.Event(), 0, 0
    real = analysis.simulate

    def simulate(*arguments, **options):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        working.set()
        assert go.wait(60)
        at_once -= 1
        return real(*arguments, **options)

    run, tree = open_run(small_run), TreeKVConfig(cache_size=64, prefill="stream")
    known = {"a": tree}
    actions._simulated.clear()
    held = actions.simulate(run, known, (0,), 0)
    monkeypatch.setattr(analysis, "simulate", simulate)
    found: dict[int, actions.Comparison] = {}

    def session(size: int) -> None:
        found[size] = actions.simulate(run, {"a": tree.replace(cache_size=size)}, (0,), 0)

    threads = [threading.Thread(target=session, args=(size,)) for size in (32, 48, 48)]
    for thread in threads:
        thread.start()
    assert working.wait(60)
    time.sleep(0.3)
    assert (at_once, found) == (1, {})
    assert actions.simulate(run, known, (0,), 0).retention.identical(held.retention)
    go.set()
    for thread in threads:
        thread.join(60)
    assert most == 1
    assert [int((found[size].retention["evicted_at"] == -1).sum("position").max()) for size in (32, 48)] == [32, 48]


def same_loss(found: xr.Dataset, expected: xr.Dataset) -> None:
    """On some processors a product rounds by how many policies are computed at once."""
    xr.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found.attrs == expected.attrs


def test_a_slider_simulates_the_one_setting_that_it_moves(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated: list[list[str]] = []
    real = analysis.simulate

    def simulate(seen, configs, **options):
        simulated.append(list(configs))
        return real(seen, configs, **options)

    monkeypatch.setattr(analysis, "simulate", simulate)
    actions._simulated.clear()
    run, tree = open_run(small_run), TreeKVConfig(cache_size=64, prefill="stream")
    configs = {"a": tree, "b": tree.replace(policy="h2o"), "c": tree.replace(policy="streaming")}
    actions.simulate(run, configs, (0, 1), 0)
    moved = configs | {"b": configs["b"].replace(cache_size=48)}
    found = actions.simulate(run, moved, (1, 0), 0)
    assert simulated == [["a", "b", "c"], ["b"]]

    actions._simulated.clear()
    together = actions.simulate(run, moved, (0, 1), 0)
    assert found.retention.identical(together.retention)
    same_loss(found.loss, together.loss)
    seen = open_capture(run)
    at_once = real(seen, moved, layers=[0, 1])
    assert together.retention.equals(at_once) and together.retention.attrs == at_once.attrs
    lost = analysis.output_loss(seen, at_once)
    same_loss(together.loss, lost)

    other_names = {"first": moved["c"], "second": moved["b"]}
    renamed = actions.simulate(run, other_names, (0, 1), 0)
    assert len(simulated) == 3
    assert renamed.retention["policy"].values.tolist() == renamed.loss["policy"].values.tolist() == ["first", "second"]
    assert list(json.loads(renamed.retention.attrs["configs"])) == ["first", "second"]
    for name, old in (("first", "c"), ("second", "b")):
        kept = renamed.retention["evicted_at"].sel(policy=name).values
        np.testing.assert_array_equal(kept, at_once["evicted_at"].sel(policy=old).values)
    twice = actions.simulate(run, {"x": tree.replace(stride=2), "y": tree, "z": tree.replace(stride=2)}, (0, 1), 0)
    assert simulated.pop() in (["x"], ["z"])  # alike
    x, z = (twice.retention["evicted_at"].sel(policy=name).values for name in "xz")
    np.testing.assert_array_equal(x, z)
    # One layer, another prompt: other results.
    actions.simulate(run, other_names, (0,), 0)
    actions.simulate(run, other_names, (0, 1), 32)
    assert simulated[3:] == [["first", "second"]] * 2


def test_a_job_simulates_the_other_layers_and_the_page_then_has_all(small_run: Path) -> None:
    actions._simulated.clear()
    run, configs = open_run(small_run), {"a": TreeKVConfig(cache_size=64, prefill="stream")}
    assert not actions.is_known(run, configs, (0, 1), 0)
    actions._work(Job("", "layers", lambda job: None, Queue()), run, configs, (0, 1), 0)
    assert actions.is_known(run, configs, (1, 0), 0)
    held = actions.simulate(run, configs, (0, 1), 0)
    assert held.retention.equals(analysis.simulate(open_capture(run), configs, layers=[0, 1]))


def test_tokens_kept_are_those_of_all_layers_though_some_are_simulated(small_run: Path) -> None:
    captured = open_capture(open_run(small_run))
    by_head = TreeKVConfig(cache_size=48, budgets=((32, 32), (64, 64)), prefill="stream")
    found = actions.simulate(open_run(small_run), {"a": by_head}, (0,), 0)
    rows, taken = actions.rows(captured, found, 1024, 1, "bfloat16")
    assert [row["tokens kept"] for row in rows] == [captured.tokens, 48]
    assert taken["a"] == analysis.cache_bytes(captured, by_head, 1024)
