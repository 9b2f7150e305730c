"""The defaults of a method, and the others with which it is used under a name of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from treekv.policies.settings import OPTIONS

#: The variant that every policy has: its own defaults.
PUBLISHED: Final[str] = OPTIONS["variant"]


@dataclass(frozen=True)
class Defaults:
    """What sizes and options are unless they are given.

    Attributes:
        sink_size: () -> tokens.
        recent_size: (cache_size, sink_size) -> tokens.
        window_size: (block_size) -> tokens.
        options: settings among `treekv.policies.OPTIONS` whose default is not the one there.
    """

    sink_size: Callable[[], int]
    recent_size: Callable[[int, int], int]
    window_size: Callable[[int], int]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Variant:
    """Other defaults of a policy.

    Attributes:
        title: what titles add to the policy's, such as "paper's allocation".
        changes: fields of `Defaults` that differ from the policy's own.
    """

    title: str
    changes: Mapping[str, Any]


def half_of_the_cache(cache_size: int, sink_size: int) -> int:
    """Recent tokens that are half of the cache together with the sinks (the paper: 1,024 = 4 + 508 + 512)."""
    return max(cache_size // 2 - sink_size, 0)


#: What the TreeKV paper gives every method in its comparisons: 4 sinks, half of the cache recent, the rest chosen.
PAPER_ALLOCATION: Final = Variant("paper's allocation", {"sink_size": lambda: 4, "recent_size": half_of_the_cache})
