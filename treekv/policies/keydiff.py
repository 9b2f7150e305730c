"""Policy "keydiff": keep the keys that are unlike the others."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import normalize

from treekv.policies.by_contents import ByContents, Candidates
from treekv.policies.settings import Settings
from treekv.policies.variants import PAPER_ALLOCATION


class KeyDiff(ByContents):
    """Evict the tokens whose keys are most like the mean of all keys; attention is not used.

    Paper: Park et al., "KeyDiff: Key Similarity-Based KV Cache Eviction for Long-Context LLM Inference in
    Resource-Constrained Environments", 2025 (arXiv 2504.15364). Acts in both stages, per head: keys and their mean
    are compared by the cosine, the mean being of the keys at unit length. Deviates in nothing: positions are the
    true ones, "original", by default; with others keys are compared before rotary embedding, since their places
    change with every eviction, and more is lost. By default no token is protected, and each new one evicts one;
    `interval` evicts several at once. `variant` "paper" is the allocation of the TreeKV paper: 4 sinks, half of the
    cache recent, the rest chosen.
    """

    name = "keydiff"
    title = "KeyDiff"
    options = ("variant", "interval")
    variants: ClassVar = {"paper": PAPER_ALLOCATION}
    default_positions = "original"

    def default_sink_size(self) -> int:
        return 0

    def default_recent_size(self, cache_size: int, sink_size: int) -> int:
        return 0

    def importance(self, settings: Settings, tokens: Candidates) -> Tensor:
        unit = normalize(tokens.contents.keys(), dim=3)
        anchor = normalize(unit.mean(2, keepdim=True), dim=3)
        return -(unit * anchor).sum(3)
