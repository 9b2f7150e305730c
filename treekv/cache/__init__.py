"""The cache: slots of keys and values, their ledger, and attention over them."""

from treekv.cache.cache import TreeKVCache

__all__ = ["TreeKVCache"]
