"""Questions to a retention record, against the definition of being held."""

import numpy as np
import pytest

import analysis
from treekv import TreeKVError


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


def test_held(made_record):
    record = made_record(40)
    for step in (0, 17, 39):
        held = analysis.held(record, step)
        for policy in ("tree", "streaming"):
            for position in range(40):
                expected = slow_held(record, policy, 3, 1, step, position)
                assert bool(held.sel(policy=policy, layer=3, head=1, position=position)) == expected


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
    assert analysis.open_retention(analysis.save_retention(record, tmp_path / "r.nc")).identical(record)


def test_what_is_not_there_is_named(made_record):
    record = made_record(20)
    with pytest.raises(TreeKVError, match=r"step 20.*0 to 19"):
        analysis.held(record, 20)
    with pytest.raises(TreeKVError, match=r"several policies.*tree, streaming"):
        analysis.retention_map(record)
    with pytest.raises(TreeKVError, match=r"'h2o'.*tree, streaming"):
        analysis.retention_map(record, "h2o")
    with pytest.raises(TreeKVError, match=r"layer 1.*0, 3"):
        analysis.retention_map(record, "tree", layer=1)
    with pytest.raises(TreeKVError, match=r"head 2.*0, 1"):
        analysis.retention_map(record, "tree", head=2)
