"""Functions of a retention record against the definition of a kept token."""

import numpy as np
import pytest
import torch

import analysis
from analysis import netcdf, plot
from analysis.retention.record import merge_retention, retention_from_cache
from tests import tiny
from treekv import TreeKVCache, TreeKVConfig, TreeKVError


def slow_held(record, policy, layer, head, step, position):
    evicted_at = int(record["evicted_at"].sel(policy=policy, layer=layer, head=head, position=position))
    return position <= step and (evicted_at == -1 or evicted_at > step)


def slow_share(record, policy, steps, positions, layers=(0, 3), heads=(0, 1)):
    """Mean over the pairs of step and position that exist; NaN when there is none."""
    cells = [
        slow_held(record, policy, layer, head, step, position)
        for step in steps
        for position in positions
        if position <= step
        for layer in layers
        for head in heads
    ]
    return np.mean(cells) if cells else np.nan


def test_kept_mask(made_record):
    record = made_record(40)
    for step in (0, 17, 39):
        kept = analysis.kept_mask(record, step)
        for policy in ("tree", "streaming"):
            for position in range(40):
                expected = slow_held(record, policy, 3, 1, step, position)
                assert bool(kept.sel(policy=policy, layer=3, head=1, position=position)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("cells", [512, 7, 1])
def test_map_is_the_mean_over_pairs_that_exist(made_record, cells):
    record = made_record(30)
    for chosen in ({}, {"layer": 3}, {"layer": 0, "head": 1}):
        ours = analysis.retention_map(record, "streaming", **chosen, max_cells=cells)
        size = ours.attrs["step_size"]
        assert ours.sizes["step"] <= cells
        where = {name + "s": (value,) for name, value in chosen.items()}
        for i, step in enumerate(ours["step"].values):
            for j, position in enumerate(ours["position"].values):
                steps, positions = range(step, min(step + size, 30)), range(position, min(position + size, 30))
                expected = slow_share(record, "streaming", steps, positions, **where)
                np.testing.assert_allclose(ours.values[i, j], expected, atol=1e-6)


def test_map_of_some_positions_over_some_steps(made_record):
    """Cells that do not lie along the diagonal."""
    record = made_record(40)
    part = record.isel(position=slice(9, 34))
    ours = analysis.retention_map(part, "tree", max_cells=6, steps=(4, 37))
    for i, step in enumerate(ours["step"].values):
        for j, position in enumerate(ours["position"].values):
            steps = range(step, min(step + ours.attrs["step_size"], 37))
            positions = range(position, min(position + ours.attrs["position_size"], 34))
            expected = slow_share(record, "tree", steps, positions)
            np.testing.assert_allclose(ours.values[i, j], expected, atol=1e-6)


@pytest.mark.parametrize("cells", [512, 7, 1])
def test_any_says_whether_a_cell_keeps_anything(made_record, cells):
    record = made_record(30)
    for chosen in ({}, {"layer": 0, "head": 1}):
        ours = analysis.retention_map(record, "tree", **chosen, max_cells=cells, pooled="any")
        layers, heads = (chosen["layer"],) if chosen else (0, 3), (chosen["head"],) if chosen else (0, 1)
        size = ours.attrs["step_size"]
        for i, step in enumerate(ours["step"].values):
            for j, position in enumerate(ours["position"].values):
                steps, positions = range(step, min(step + size, 30)), range(position, min(position + size, 30))
                if steps[-1] < position:
                    assert np.isnan(ours.values[i, j])
                    continue
                found = [
                    any(slow_held(record, "tree", layer, head, t, p) for t in steps for p in positions)
                    for layer in layers
                    for head in heads
                ]
                assert ours.values[i, j] == np.mean(found)
    with pytest.raises(TreeKVError, match="'mean' or 'any', got 'all'"):
        analysis.retention_map(record, "tree", pooled="all")


def test_density_of_a_layer_and_head(made_record):
    record = made_record(25)
    for chosen in ({"layer": 3}, {"head": 1}, {"layer": 0, "head": 1}):
        density = analysis.density(record, step=19, **chosen)
        where = {name + "s": (value,) for name, value in chosen.items()}
        expected = [slow_share(record, "streaming", [19], [19 - distance], **where) for distance in range(20)]
        np.testing.assert_allclose(density.sel(policy="streaming"), expected)
    with pytest.raises(TreeKVError, match=r"layer 1.*0, 3"):
        analysis.density(record, layer=1)


def test_density_runs_from_the_newest_token_back(made_record):
    record = made_record(25)
    density = analysis.density(record, step=19)
    assert density["distance"].values.tolist() == list(range(20))
    for distance in (0, 4, 19):
        expected = slow_share(record, "tree", [19], [19 - distance])
        np.testing.assert_allclose(density.sel(policy="tree", distance=distance), expected)
    pooled = analysis.density(record, step=19, max_cells=5)
    np.testing.assert_allclose(pooled.values, density.values.reshape(2, 5, 4).mean(-1))
    np.testing.assert_allclose(pooled["distance"], [1.5, 5.5, 9.5, 13.5, 17.5])


def test_saved_and_opened_again(made_record, tmp_path):
    record = made_record(30)
    assert analysis.open(analysis.save(record, tmp_path / "r.nc")).identical(record)


def test_unknown_choices_are_named(made_record):
    record = made_record(20)
    with pytest.raises(TreeKVError, match=r"step 20.*0 to 19"):
        analysis.kept_mask(record, 20)
    with pytest.raises(TreeKVError, match=r"several policies.*tree, streaming"):
        analysis.retention_map(record)
    with pytest.raises(TreeKVError, match=r"'h2o'.*tree, streaming"):
        analysis.retention_map(record, "h2o")
    with pytest.raises(TreeKVError, match=r"layer 1.*0, 3"):
        analysis.retention_map(record, "tree", layer=1)
    with pytest.raises(TreeKVError, match=r"head 2.*0, 1"):
        analysis.retention_map(record, "tree", head=2)


TRACED = TreeKVConfig(cache_size=12, sink_size=2, recent_size=4, prefill="stream", block_size=5, trace=True)


def test_a_real_run_gives_the_record_that_the_simulation_gives(llama):
    config = TRACED.replace(positions="original")
    ids = tiny.tokens(90)
    captured = analysis.capture(llama, None, ids, queries=4)
    cache = TreeKVCache(config, llama.config)
    llama(ids, past_key_values=cache)
    real = retention_from_cache(cache, tokens=[*captured.token_text, "never processed"], model=llama)
    simulated = analysis.simulate(captured, {"tree": config})
    assert real.sizes == simulated.sizes and real["evicted_at"].dtype == simulated["evicted_at"].dtype
    assert real.coords.to_dataset().equals(simulated.coords.to_dataset())
    # Nothing is compressed below the first layer, so there the simulation must be right.
    first = {"layer": 0}
    assert real["evicted_at"].sel(first).equals(simulated["evicted_at"].sel(first))
    assert real["survivor"].sel(first).equals(simulated["survivor"].sel(first))
    assert real.attrs["steps"] == simulated.attrs["steps"] and real.attrs["configs"] == simulated.attrs["configs"]
    assert real.attrs["model"] == simulated.attrs["model"] == captured.model
    for record in (real, simulated):
        assert {name: record.attrs.get(name) for name in netcdf.versions()} == netcdf.versions()
    unnamed = retention_from_cache(cache, "real")
    assert "model" not in unnamed.attrs and merge_retention(unnamed, simulated).attrs["model"] == captured.model
    for layer in (0, 1):
        kept = analysis.kept_mask(real, 89).sel(policy="tree", layer=layer).transpose("head", "position").values
        assert [np.flatnonzero(row).tolist() for row in kept] == cache.kept_positions(layer)[0].tolist()


def test_a_row_of_a_padded_batch_equals_a_run_without_padding(llama):
    ids = tiny.tokens(60, batch=2)
    mask = torch.ones_like(ids)
    mask[0, :23] = 0
    cache = TreeKVCache(TRACED, llama.config)
    llama(ids, attention_mask=mask, past_key_values=cache)
    alone = TreeKVCache(TRACED, llama.config)
    llama(ids[:1, 23:], past_key_values=alone)
    assert retention_from_cache(cache, row=0).identical(retention_from_cache(alone))
    assert retention_from_cache(cache, row=1).attrs["steps"] == 60


def test_a_real_run_is_saved_and_drawn_like_a_simulation(llama, tmp_path):
    cache = TreeKVCache(TRACED, llama.config)
    llama(tiny.tokens(90), past_key_values=cache)
    record = retention_from_cache(cache, "mine", [f" w{i}" for i in range(90)])
    assert analysis.open(analysis.save(record, tmp_path / "r.nc")).identical(record)
    figure = plot.eviction_map(record, policy="mine", layer=1, head=0)
    kept = analysis.kept_mask(record, 89).sel(policy="mine", layer=1, head=0).values
    assert (figure.data[0].z[-1] == 100 * kept).all()


def test_records_of_one_text_are_merged(llama):
    ids = tiny.tokens(90)
    captured = analysis.capture(llama, None, ids, queries=4)
    cache = TreeKVCache(TRACED, llama.config)
    llama(ids, past_key_values=cache)
    simulated = analysis.simulate(captured, {"simulated": TRACED})
    together = merge_retention(simulated, retention_from_cache(cache, "real"))
    assert together["policy"].values.tolist() == ["simulated", "real"]
    assert together["evicted_at"].sel(policy="simulated").equals(simulated["evicted_at"].sel(policy="simulated"))
    assert together["token"].equals(simulated["token"])
    assert together.attrs["source"] == "run and simulation"
    with pytest.raises(TreeKVError, match="several records have a policy called 'tree'"):
        merge_retention(simulated.assign_coords(policy=["tree"]), retention_from_cache(cache))
    with pytest.raises(TreeKVError, match="differ in their positions"):
        merge_retention(simulated.isel(position=slice(80)), retention_from_cache(cache))


def test_no_record_from_a_cache_is_one_sentence(llama):
    with pytest.raises(TreeKVError, match="trace is false"):
        retention_from_cache(TreeKVCache(TRACED.replace(trace=False), llama.config))
    cache = TreeKVCache(TRACED, llama.config)
    with pytest.raises(TreeKVError, match="any token yet"):
        retention_from_cache(cache)
    llama(tiny.tokens(20), past_key_values=cache)
    with pytest.raises(TreeKVError, match="row must be between 0 and 0, got 1"):
        retention_from_cache(cache, row=1)
    with pytest.raises(TreeKVError, match="20 tokens, but the text of only 1"):
        retention_from_cache(cache, tokens=["a"])
