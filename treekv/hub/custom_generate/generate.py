"""Generation with a TreeKV cache, as `model.generate(custom_generate=...)` of transformers calls it.

transformers copies this file to a folder of its own, so it imports nothing but the installed package.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from treekv import TreeKVCache, TreeKVConfig, TreeKVError
from treekv.attention.rotary_check import check_rotation

_READ = "_ids_read"  # attribute of a cache's ledger: the token ids that it has read here
_FILE = {key: TreeKVConfig().to_dict()[key] for key in ("format", "version")}


def generate(model: Any, cache_settings: Any = None, past_key_values: Any = None, **arguments: Any) -> Any:
    """`model.generate` with a compressed cache.

    Args:
        model: a causal language model; its attention implementation is "treekv" until this returns.
        cache_settings: the path of a settings file, the name of settings that come with TreeKV, a dict with the fields
            of `TreeKVConfig`, or a `TreeKVConfig`.
        past_key_values: a `TreeKVCache` that goes on, instead of `cache_settings`.
        arguments: all others of `model.generate`.

    Raises:
        TreeKVError: there are no settings or impossible ones, the model cannot be compressed, or the cache that goes on
            has read another text here than the one that is given now.
    """
    if past_key_values is not None and (cache_settings is not None or not isinstance(past_key_values, TreeKVCache)):
        raise TreeKVError(
            "give either cache_settings or a TreeKVCache as past_key_values, got a "
            f"{type(past_key_values).__name__}" + ("" if cache_settings is None else " and cache_settings")
        )
    config = None if past_key_values is not None else _settings(cache_settings)
    before = model.config._attn_implementation
    model.set_attn_implementation("treekv")
    try:
        if config is not None:
            check_rotation(model)
            past_key_values = TreeKVCache(config, model.config)
        cache: Any = past_key_values
        _check_same_text(cache, arguments.get("input_ids", arguments.get("inputs")), arguments.get("attention_mask"))
        result = model.generate(past_key_values=cache, **arguments)
        setattr(_ledger(cache), _READ, result if isinstance(result, Tensor) else getattr(result, "sequences", None))
        return result
    finally:
        model.set_attn_implementation(before)


def _check_same_text(cache: TreeKVCache, ids: Any, mask: Any) -> None:
    """Refuse a text that does not begin with what the cache has read: transformers would cut off as many tokens, and so
    mix two texts in silence. Rows may have been selected, repeated or reordered since."""
    read = getattr(_ledger(cache), _READ, None)
    if not isinstance(read, Tensor) or not isinstance(ids, Tensor):
        return
    tokens = min(cache.get_seq_length(), read.shape[1], ids.shape[1])
    equal = ids[:, None, :tokens] == read[None, :, :tokens].to(ids.device)
    if isinstance(mask, Tensor) and mask.ndim == 2:
        equal = equal | ~mask[:, None, :tokens].bool()
    for row, found in enumerate(equal.all(2).any(1).tolist()):
        if not found:
            raise TreeKVError(
                f"row {row} does not begin with the {tokens} tokens that the cache has read: give the whole "
                "conversation, or call cache.reset() for another prompt"
            )


def _ledger(cache: TreeKVCache) -> Any:
    """What a reset of the cache replaces; None before the first token."""
    part = cache._parts(cache._compressed[0])[0]
    return getattr(part.owner, "ledger", None) if part.is_initialized else None


def _settings(given: Any) -> TreeKVConfig:
    if isinstance(given, TreeKVConfig):
        return given
    if isinstance(given, (str, os.PathLike)):
        return TreeKVConfig.load(given)
    if isinstance(given, Mapping):
        # What a settings file holds, or some fields of it.
        return TreeKVConfig.from_dict(_FILE | dict(given), source="cache_settings")
    raise TreeKVError(
        "cache_settings must be the path of a settings file, the name of settings that come with TreeKV, such as "
        f"'smollm2-128', or a dict of settings, got {given!r}"
    )
