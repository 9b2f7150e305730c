"""A capacity for each layer, or for each KV head of each layer, instead of the same for all, with the same total."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final

from treekv import policies
from treekv.errors import TreeKVError
from treekv.policies.settings import Settings

MOST_TOKENS: Final = 2**53 - 1  # whole numbers up to it are exact in JSON, in floating point and in tensors
SHAPES: Final = ("rising", "falling")
QUARTER: Final = "quarter"
EIGHTH: Final = "eighth"
MOST_OF_AN_EIGHTH: Final = 32  # tokens: more than a sentence or two of a prompt's end need no protection

#: One number for each KV head of each compressed layer.
Table = tuple[tuple[int, ...], ...]


def checked_budgets(budgets: Any, policy: str, cache_size: int) -> Table | tuple[int, ...] | str | None:
    """`budgets` as `TreeKVConfig` keeps them.

    Raises:
        TreeKVError: the policy cannot use them, they are no list or table of whole numbers and no known shape, or they
            do not add up to `cache_size` tokens a layer and head.
    """
    if budgets is None:
        return None
    chosen = policies.get(policy)
    if not (chosen.evicts_prompt and chosen.budgets_per_layer):
        raise TreeKVError(f"budgets cannot be combined with policy {policy!r}; leave them out")
    if isinstance(budgets, str):
        if budgets not in SHAPES:
            raise TreeKVError(f"budgets must be a list of numbers, 'rising' or 'falling', got {budgets!r}")
        return budgets
    if is_table(budgets):
        table = checked_table(budgets, "budgets", 1)
        if not chosen.budgets_per_head:
            raise TreeKVError(
                f"budgets cannot differ by head with policy {policy!r}, whose heads keep the same tokens; give one "
                "number for each layer"
            )
        total, cells = sum(map(sum, table)), sum(map(len, table))
        if total != cache_size * cells:
            raise TreeKVError(
                f"budgets must add up to cache_size times the number of KV heads ({cache_size} x {cells} = "
                f"{cache_size * cells}), got a sum of {total}"
            )
        return table
    if not isinstance(budgets, (list, tuple)) or not budgets or not all(type(b) is int for b in budgets):
        raise TreeKVError(
            "budgets must be a list of whole numbers, a table with a row for each layer and a number for each KV head, "
            f"'rising' or 'falling', got {shortened(budgets)}"
        )
    if sum(budgets) != cache_size * len(budgets):
        raise TreeKVError(
            f"budgets must add up to cache_size times their number ({cache_size} x {len(budgets)} = "
            f"{cache_size * len(budgets)}), got a sum of {sum(budgets)}"
        )
    return tuple(budgets)


def fit(settings: Settings, policy: policies.Policy) -> bool:
    """Whether another policy can have these budgets. One that acts on prompts only protects a window, which every head
    must exceed."""
    if settings.budgets is None:
        return True
    if not (policy.evicts_prompt and policy.budgets_per_layer):
        return False
    if is_table(settings.budgets) and not policy.budgets_per_head:
        return False
    least = min(size for size, _ in possible_sizes(settings))
    return policy.evicts_decoding or least > policy.defaults(policies.PUBLISHED).window_size(settings.block_size)


def is_table(value: Any) -> bool:
    """Whether this is meant as one number for each KV head of each layer."""
    return isinstance(value, (list, tuple)) and any(isinstance(row, (list, tuple)) for row in value)


def table_of(value: Any) -> Table | None:
    """The value, if it is a table."""
    return value if is_table(value) else None


def checked_table(value: Any, field: str, least: int) -> Table:
    """A table of whole numbers of at least `least`, with rows of equal length.

    Raises:
        TreeKVError: it is none.
    """
    for number, row in enumerate(value):
        if not isinstance(row, (list, tuple)) or not row or len(row) != len(value[0]):
            raise TreeKVError(
                f"{field} must have one row for each layer, all with one number for each KV head, but row {number} is "
                f"{shortened(row)}"
            )
        for cell in row:
            if type(cell) is not int or cell < least:
                raise TreeKVError(
                    f"{field} must be made of whole numbers of at least {least}, but row {number} has {shortened(cell)}"
                )
    return tuple(tuple(row) for row in value)


def shortened(value: Any) -> str:
    """`repr`, cut where it is too long for a sentence."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of thousands of digits
        return "a whole number of too many digits"
    return text if len(text) <= 80 else text[:77] + "..."


def possible_sizes(settings: Settings) -> list[tuple[int, int]]:
    """Capacities, each with its recent tokens, that some layer or head may get, as far as they are known without the
    number of layers."""
    if settings.budgets is None:
        return [(settings.cache_size, settings.recent_size)]
    table, recents = table_of(settings.budgets), table_of(settings.recent_budgets)
    if table and recents:
        return sorted({pair for pairs in map(_pairs, table, recents) for pair in pairs})
    if table:
        sizes = {size for row in table for size in row}
    elif isinstance(settings.budgets, tuple):
        sizes = set(layer_sizes(settings, len(settings.budgets)))
    else:
        sizes = {settings.cache_size, settings.cache_size // 2}
    return [(size, scaled_recent(settings, size)) for size in sorted(sizes)]


def head_sizes(settings: Settings, layers: int, heads: int) -> list[list[tuple[int, int]]]:
    """The capacity and the recent tokens of each KV head of each of `layers` compressed layers.

    Raises:
        TreeKVError: `settings.budgets` is for another number of layers or heads.
    """
    table, recents = table_of(settings.budgets), table_of(settings.recent_budgets)
    if not table:
        sizes = layer_sizes(settings, layers)
        return [[(size, scaled_recent(settings, size))] * heads for size in sizes]
    if (len(table), len(table[0])) != (layers, heads):
        raise TreeKVError(
            f"budgets must have one number for each of the model's {layers} compressed layers and {heads} KV heads, "
            f"got {len(table)} layers and {len(table[0])} heads"
        )
    if not recents:
        return [[(size, scaled_recent(settings, size)) for size in row] for row in table]
    return list(map(_pairs, table, recents))


def _pairs(sizes: tuple[int, ...], recents: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(zip(sizes, recents, strict=True))


def layer_sizes(settings: Settings, layers: int) -> list[int]:
    """The capacity of each of `layers` compressed layers.

    Raises:
        TreeKVError: `settings.budgets` has another length.
    """
    if settings.budgets is None:
        return [settings.cache_size] * layers
    if isinstance(settings.budgets, tuple):
        if len(settings.budgets) != layers:
            raise TreeKVError(
                f"budgets must have one number for each of the model's {layers} compressed layers, "
                f"got {len(settings.budgets)}"
            )
        return [size for size in settings.budgets if isinstance(size, int)]
    # Whole units, so that prompts divide into blocks; rounding the running total keeps the sum exact.
    unit = settings.block_size if settings.prefill == "once" else 1
    total = 0.0
    sizes: list[int] = []
    for layer in range(layers):
        share = 0.5 + layer / (layers - 1) if layers > 1 else 1.0
        total += share * settings.cache_size / unit
        sizes.append(round(total) * unit - sum(sizes))
    return sorted(sizes, reverse=settings.budgets == "falling")


def scaled_recent(settings: Settings, size: int) -> int:
    """The recent tokens of a layer or head that keeps `size` tokens instead of `settings.cache_size`."""
    if isinstance(settings.recent_budgets, str):
        return RECENT_SHARES[settings.recent_budgets](size, settings.sink_size)
    default = policies.get(settings.policy).defaults(settings.variant).recent_size
    if settings.recent_size == default(settings.cache_size, settings.sink_size):
        return default(size, settings.sink_size)
    return settings.recent_size * size // settings.cache_size


def quarter(size: int, sink: int) -> int:
    """The recent tokens of a head that keeps `size` tokens, as recent_size "quarter" says: a quarter, but no fewer than
    16, or than what half of the cache leaves beside the sinks where that is less."""
    return max(min(16, size // 2 - sink), size // 4, 0)


def eighth(size: int, sink: int) -> int:
    """The recent tokens of a head that keeps `size` tokens, as recent_size "eighth" says: an eighth, but no fewer than
    16, or than what half of the cache leaves beside the sinks where that is less, and no more than 32."""
    return min(max(min(16, size // 2 - sink), size // 8, 0), MOST_OF_AN_EIGHTH)


#: Values of `recent_size` by name: (capacity, sinks) -> recent tokens.
RECENT_SHARES: Final[dict[str, Callable[[int, int], int]]] = {QUARTER: quarter, EIGHTH: eighth}


def checked_recents(recents: Any, settings: Settings) -> tuple[Table | str, int]:
    """Recent tokens of several capacities as `TreeKVConfig` keeps them, and those of a head of `cache_size` tokens.

    Raises:
        TreeKVError: they are no known share and no table of the same shape as that of `budgets`.
    """
    if isinstance(recents, str) and recents in RECENT_SHARES:
        return recents, RECENT_SHARES[recents](settings.cache_size, settings.sink_size)
    if not is_table(recents):
        raise TreeKVError(
            "recent_size must be a whole number, 'quarter', 'eighth', or a table with a row for each layer and a "
            f"number for each KV head, got {shortened(recents)}"
        )
    table, sizes = checked_table(recents, "recent_size", 0), table_of(settings.budgets)
    if sizes is None or (len(sizes), len(sizes[0])) != (len(table), len(table[0])):
        have = f"{len(sizes)} layers and {len(sizes[0])} heads" if sizes else "no table"
        raise TreeKVError(
            f"a table of recent_size needs budgets of the same shape; it has {len(table)} layers and "
            f"{len(table[0])} heads, budgets have {have}"
        )
    return table, round(sum(map(sum, table)) / sum(map(len, table)))


def checked_int(field: str, value: Any, least: int, most: int = MOST_TOKENS) -> int:
    """`value` as a whole number.

    Raises:
        TreeKVError: it is none, or out of range.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # numpy's whole numbers too
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        bounded = most != MOST_TOKENS or (number or 0) > most
        right = f"between {least} and {most}" if bounded else f"of at least {least}"
        raise TreeKVError(f"{field} must be a whole number {right}, got {shortened(value)}")
    return number
