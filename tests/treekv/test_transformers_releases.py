"""Earlier releases of transformers 5 ask in other ways, and have fewer kinds of layers."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from treekv import TreeKVCache, TreeKVConfig, TreeKVError
from treekv.attention import interface, supported
from treekv.transformers_releases import has_states, layer_configs


def test_layers_are_asked_for_sizes_by_positions_too(llama) -> None:
    cache = TreeKVCache(TreeKVConfig(cache_size=16, sink_size=2, recent_size=6), llama.config)
    llama(tiny.tokens(40), past_key_values=cache)
    for layer in cache.layers:
        assert layer.get_mask_sizes(torch.arange(40, 43)) == layer.get_mask_sizes(3) == (19, 24)
        assert layer.get_max_length() == layer.get_max_cache_shape() == -1
    assert cache.get_mask_sizes(torch.arange(40, 43), 0) == cache.get_mask_sizes(3, 0)


def test_a_mask_is_asked_for_by_positions_too() -> None:
    padding = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    now = interface.treekv_mask(2, 2, 4, attention_mask=padding)
    before = interface.treekv_mask(2, cache_position=torch.arange(2, 4), kv_length=4, attention_mask=padding)
    assert torch.equal(now, before)
    assert torch.equal(interface._padding_of(now), interface._padding_of(before))
    none = interface.treekv_mask(1, cache_position=torch.empty(3, device="meta"), kv_length=3)
    assert none.device.type == "meta"


def test_models_with_states_are_refused_where_caches_have_no_place_for_them(monkeypatch) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model(
        "qwen3_next", num_hidden_layers=4, layer_types=["linear_attention"] * 3 + ["full_attention"]
    )
    assert has_states(config) and not has_states(tiny.llama().config)
    supported.check_family(config)
    monkeypatch.setattr(supported, "HAS_STATES", False)
    with pytest.raises(TreeKVError, match=r"'qwen3_next' model have a state of linear attention .* install a newer"):
        supported.check_family(config)


def test_one_configuration_stands_for_all_layers_where_there_is_no_other() -> None:
    class Plain:
        num_hidden_layers = 3

    assert layer_configs(Plain) == [Plain] * 3
