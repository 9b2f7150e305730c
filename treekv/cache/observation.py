"""What the ledger wants to know of attention weights."""

from __future__ import annotations

from typing import NamedTuple


class Observation(NamedTuple):
    """What is recorded of attention weights: their sum over queries or only the last query's, whether they are
    multiplied by the norm of the token's value, how many tokens after a token a query must come to count, and whether
    those of a block are recorded query by query, since the ledger knows how old tokens are and in what order."""

    accumulates: bool
    times_value_norm: bool
    delay: int = 0
    by_query: bool = False
