"""Policy "full": nothing is ever evicted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from treekv.policies.base import Evictions, Policy, Prompt, Scores, Selection

if TYPE_CHECKING:
    from treekv.config import TreeKVConfig


class Full(Policy):
    """The uncompressed cache, as the reference the others are compared with. Acts in no stage."""

    name = "full"
    evicts_prompt = False
    evicts_decoding = False
    uses_attention = False

    def check(self, config: TreeKVConfig) -> None:
        """Every size is as good as another: none of them is used."""

    def evict(self, config: TreeKVConfig, scores: Scores, count: int) -> Evictions:
        raise RuntimeError("policy 'full' is never asked to evict")

    def select_prompt(self, config: TreeKVConfig, prompt: Prompt) -> Selection:
        raise RuntimeError("policy 'full' is never asked to evict")
