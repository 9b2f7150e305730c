"""TreeKV: tree-structured key-value cache compression for causal language models."""

from treekv import attention as _attention
from treekv.errors import TreeKVError

_attention.register()

__all__ = ["TreeKVError"]
