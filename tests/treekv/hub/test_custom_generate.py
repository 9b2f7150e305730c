"""`model.generate(custom_generate=FOLDER)`: transformers loads the folder and calls what is in it."""

from __future__ import annotations

import pytest
import torch
import transformers.dynamic_module_utils
from transformers import DynamicCache

from tests import tiny
from treekv import TreeKVCache, TreeKVConfig, TreeKVError, hub

CONFIG = TreeKVConfig(cache_size=16)
GREEDY = dict(max_new_tokens=8, do_sample=False, pad_token_id=0)


@pytest.fixture(autouse=True)
def own_module_cache(tmp_path, monkeypatch):
    """Where transformers copies the code that it runs."""
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path))


def generated(model, **options):
    folder = str(hub.FOLDER)
    return model.generate(tiny.tokens(40), custom_generate=folder, trust_remote_code=True, **GREEDY, **options)


@pytest.mark.parametrize("attention", ["treekv", "sdpa"])
def test_it_generates_what_a_cache_gives(llama, attention, tmp_path):
    right = llama.generate(tiny.tokens(40), past_key_values=TreeKVCache(CONFIG, llama.config), **GREEDY)
    CONFIG.save(tmp_path / "settings.json")
    model = tiny.llama(attention)
    for settings in (CONFIG, {"cache_size": 16}, CONFIG.to_dict(), tmp_path / "settings.json"):
        assert torch.equal(generated(model, cache_settings=settings), right)
        assert model.config._attn_implementation == attention
    cache = TreeKVCache(CONFIG, llama.config)
    assert torch.equal(generated(model, past_key_values=cache), right) and cache.kept_tokens == 16
    beams = generated(model, cache_settings=CONFIG, num_beams=2)
    assert torch.equal(
        beams, llama.generate(tiny.tokens(40), past_key_values=TreeKVCache(CONFIG, llama.config), num_beams=2, **GREEDY)
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "cache_settings must be the path of a settings file"),
        (dict(cache_settings=16), "or a dict of settings, got 16"),
        (dict(cache_settings={"cache_sizes": 16}), "unknown key 'cache_sizes' in cache_settings"),
        (dict(cache_settings={"cache_size": 0}), "cache_size must be a whole number of at least 1"),
        (dict(cache_settings="none-such"), "no settings file 'none-such'"),
        (dict(cache_settings={}, past_key_values=DynamicCache()), "got a DynamicCache and cache_settings"),
        (dict(past_key_values=DynamicCache()), "got a DynamicCache"),
    ],
)
def test_what_is_wrong_is_one_sentence(options, sentence):
    model = tiny.llama("sdpa")
    with pytest.raises(TreeKVError, match=sentence) as raised:
        generated(model, **options)
    assert "\n" not in str(raised.value) and model.config._attn_implementation == "sdpa"


def test_another_text_is_not_mixed_into_what_a_cache_has_read():
    model, cache = tiny.llama("sdpa"), TreeKVCache(CONFIG, tiny.llama().config)
    options = dict(custom_generate=str(hub.FOLDER), trust_remote_code=True, past_key_values=cache, **GREEDY)
    first = model.generate(tiny.tokens(40, batch=2), **options)
    other = tiny.tokens(60, batch=2, seed=2)
    other[0] = torch.cat([first[0], other[0]])[:60]
    with pytest.raises(TreeKVError, match="row 1 does not begin with the 47 tokens that the cache has read"):
        model.generate(other, **options)
    mask = torch.ones_like(other)
    mask[1, :40] = 0  # what is hidden may be anything
    with pytest.raises(TreeKVError, match="row 1 does not begin"):
        model.generate(other, attention_mask=mask, **options)
    longer = torch.cat([first, tiny.tokens(10, batch=2, seed=3)], 1)
    second = model.generate(longer, **options)
    assert torch.equal(second[:, :58], longer) and cache.get_seq_length() == 65
    cache.batch_select_indices(torch.tensor([1, 0]))
    swapped = torch.cat([second, tiny.tokens(5, batch=2, seed=4)], 1)[[1, 0]]
    assert torch.equal(model.generate(swapped, **options)[:, :71], swapped)
    cache.reset()
    model.set_attn_implementation("treekv")
    model(other[:, :50], past_key_values=cache)
    assert torch.equal(model.generate(other, **options)[:, :60], other)
