"""TreeKV: tree-structured key-value cache compression for causal language models.

Importing the package registers the attention implementation "treekv" with transformers:

    model, tokenizer = treekv.load_model("smollm2")
    config = treekv.TreeKVConfig(policy="tree", cache_size=1024)
    cache = treekv.TreeKVCache(config, model.config)
    model.generate(**inputs, past_key_values=cache)
"""

from treekv.attention import interface as _attention
from treekv.cache.cache import TreeKVCache
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError
from treekv.models import load_model
from treekv.policies import SNAPKV_PRESETS
from treekv.policies import register as register_policy

_attention.register()

__all__ = ["SNAPKV_PRESETS", "TreeKVCache", "TreeKVConfig", "TreeKVError", "load_model", "register_policy"]
