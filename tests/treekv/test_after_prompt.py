"""Keeping what follows a prompt: where it means something."""

from __future__ import annotations

import pytest

from treekv import TreeKVConfig, TreeKVError


@pytest.mark.parametrize(
    "fields",
    [dict(prefill="stream"), dict(prefill="none"), dict(policy="snapkv"), dict(policy="full"), dict(policy="random")],
)
def test_it_needs_a_prompt_that_is_reduced_and_a_policy_that_would_go_on_evicting(fields: dict) -> None:
    config = TreeKVConfig(cache_size=64, **fields)
    if config.policy == "random":
        assert config.replace(after_prompt="keep").after_prompt == "keep"
        return
    with pytest.raises(TreeKVError, match="after_prompt 'keep' needs prefill 'once' and a policy that evicts"):
        config.replace(after_prompt="keep")


def test_another_policy_keeps_it_where_it_can() -> None:
    kept = TreeKVConfig(cache_size=64, after_prompt="keep")
    assert kept.for_policy("h2o").after_prompt == "keep"
    assert kept.for_policy("snapkv").after_prompt == "evict"
    assert TreeKVConfig.from_dict(kept.to_dict()) == kept
    with pytest.raises(TreeKVError, match="after_prompt must be one of 'evict', 'keep', got 'drop'"):
        TreeKVConfig(after_prompt="drop")
