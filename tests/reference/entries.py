"""What the rules on lists evict: one entry for each cached token of a head."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(eq=False)
class Entry:
    """One cached token (or block) of one head. `last` is the weight that the latest query gave it, `future` what moved
    queries of the prompt gave it."""

    position: int
    total: float = 0.0
    count: int = 0
    last: float = 0.0
    future: float = 0.0
    given: dict[int, float] = field(default_factory=dict)  # by query, where weights are not added as they are

    @property
    def average(self) -> float:
        return self.total / self.count if self.count else float("inf")  # no query has counted yet

    def see(self, weight: float, query: int, delay: int = 0, decay: float = 1.0) -> None:
        """What the query at a position gives; it counts if it comes at least `delay` tokens later. What earlier ones
        gave shrinks by `decay`."""
        self.last = weight
        self.total *= decay
        if query - self.position >= delay:
            self.total += weight
            self.count += 1


@dataclass
class Eviction:
    loser: int
    winner: int | None
    step: int
