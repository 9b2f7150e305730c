"""The fields of a cache's settings, as policies read them; `treekv.TreeKVConfig` adds defaults, checks and files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final


class _Derived:
    """The default of a size that follows from the other settings."""

    def __repr__(self) -> str:
        return "<derived>"


#: Stands for "derive this size from the other settings"; a `TreeKVConfig` has replaced it by a number.
DERIVED: Final[Any] = _Derived()

#: A value of `future_reduction`: as of a band, the sum of squares.
ENERGY: Final = "energy"

#: Settings that only some policies use, with the value that they have for every other policy.
OPTIONS: Final[dict[str, Any]] = {
    "stride": 1,
    "scope": 2,
    "scope_end": "inside",
    "importance": "attention",
    "pooling": "average",
    "kernel_size": 5,
    "max_height": None,
    "variant": "published",
    "prompt_score": "window",
    "prompt_scope": 32,
    "future_window": 256,
    "future_reduction": "sum",
    "window_share": 0.25,
    "interval": 1,
    "aggregation": "norm_sum",
    "share_heads": False,
}


#: The longest `Settings.delay`.
MOST_DELAY: Final = 32


@dataclass(frozen=True)
class Settings:
    """Plain values without checks; see `treekv.TreeKVConfig` for what each means."""

    policy: str = "tree"
    cache_size: int = 1024
    sink_size: int = DERIVED
    recent_size: int = DERIVED
    stride: int = OPTIONS["stride"]
    positions: str | None = None
    prefill: str = "once"
    block_size: int = DERIVED
    window_size: int = DERIVED
    trace: bool = False
    seed: int = 0
    scope: int = OPTIONS["scope"]
    importance: str = OPTIONS["importance"]
    budgets: tuple[tuple[int, ...], ...] | tuple[int, ...] | str | None = None
    kernel_size: int = DERIVED
    pooling: str = DERIVED
    max_height: int | None = OPTIONS["max_height"]
    variant: str = OPTIONS["variant"]
    recent_budgets: tuple[tuple[int, ...], ...] | str | None = None
    scope_end: str = OPTIONS["scope_end"]
    prompt_score: str = OPTIONS["prompt_score"]
    prompt_scope: int = OPTIONS["prompt_scope"]
    future_window: int = OPTIONS["future_window"]
    future_reduction: str = OPTIONS["future_reduction"]
    window_share: float = OPTIONS["window_share"]
    after_prompt: str = "evict"
    interval: int = DERIVED
    aggregation: str = OPTIONS["aggregation"]
    share_heads: bool = OPTIONS["share_heads"]

    @property
    def region_size(self) -> int:
        """Ranks between the sinks and the recent tokens when the cache is full: where evictions happen."""
        return self.cache_size - self.sink_size - self.recent_size

    @property
    def rest_size(self) -> int:
        """Tokens that are left when the cache has evicted: the next `interval` - 1 fill it again."""
        return self.cache_size - self.interval + 1

    @property
    def delay(self) -> int:
        """How many tokens after a token a query must come for its weight to count: 0, itself, but with importance
        "late". Every token that is not recent has such a query, since this is at most half of the recent tokens."""
        return min(MOST_DELAY, self.recent_size // 2) if self.importance == "late" else 0
