"""A policy's own code in a simulation is the contest that it stands for."""

from __future__ import annotations

import pytest

import analysis
from tests import tiny
from treekv import TreeKVConfig, register_policy, unregister_policy
from treekv.policies.contest import run_contest
from treekv.policies.h2o import H2O
from treekv.policies.tree import Tree


class Late(Tree):
    """A tree whose queries have to come late."""

    name = "tree"


def with_own_code(base: type) -> object:
    """The same rule, but through evict(), so that simulations cannot know that it is a contest."""

    def evict(self, settings, scores, count):
        return run_contest(self.contest(settings, scores.capacity), scores, count)

    return type("Own", (base,), {"name": "own code", "evict": evict})()


@pytest.mark.parametrize("base", [Tree, Late, H2O])
@pytest.mark.parametrize("prefill, prompt, block", [("once", 0, 1), ("stream", 0, 4), ("once", 30, 2)])
def test_own_code_and_its_contest_keep_the_same(llama, base, prefill, prompt, block):
    captured = analysis.capture(llama, None, tiny.tokens(70)[0], queries=2)
    policy = with_own_code(base)
    assert not policy.has_contest and base().has_contest
    register_policy(policy)
    try:
        sizes = dict(cache_size=12, sink_size=2, recent_size=4, prefill=prefill, block_size=block)
        sizes |= dict(importance="late") if base is Late else {}
        configs = {name: TreeKVConfig(policy=name, **sizes) for name in ("own code", base.name)}
        done = []
        found = analysis.simulate(captured, configs, prompt=prompt, progress=lambda *now: done.append(now))
        for field in ("evicted_at", "survivor"):
            own, compiled = (found[field].sel(policy=name).values for name in configs)
            assert (own == compiled).all()
        assert (found["evicted_at"] >= 0).any()
        assert done[-1][0] == done[-1][1]
    finally:
        unregister_policy("own code")
