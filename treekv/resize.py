"""The same settings for another size of the cache."""

from __future__ import annotations

from typing import Any

from treekv.budgets import Table, is_table
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError


def resized(config: TreeKVConfig, cache_size: int) -> TreeKVConfig:
    """The settings with another mean size: budgets of layers or heads in proportion, recent tokens and blocks as far as
    they fit, else as by default.

    Raises:
        TreeKVError: a size that these settings cannot have.
    """
    if cache_size == config.cache_size:
        return config
    changes: dict[str, Any] = {"cache_size": cache_size}
    if is_table(config.recent_budgets):
        changes |= {"recent_size": None, "recent_budgets": None}
    try:
        return changed(config, **changes)
    except TreeKVError:
        return changed(config, **{"recent_size": None, "block_size": None} | changes)


def changed(config: TreeKVConfig, **changes: Any) -> TreeKVConfig:
    """`config.replace`, where budgets of layers or heads follow a changed `cache_size` in proportion."""
    size, budgets = changes.get("cache_size"), config.budgets
    if isinstance(budgets, tuple) and "budgets" not in changes and type(size) is int and size > 0:
        changes["budgets"] = in_proportion(budgets, size)
    return config.replace(**changes)


def in_proportion(budgets: Table | tuple[int, ...], mean: int) -> Table | tuple[int, ...]:
    """Budgets in proportion to these, in as many different sizes or one more.

    Each gets the whole part of its share. What is left of the total goes, one token each, to those of the sizes that
    lost most by that, in their order.
    """
    rows: Any = budgets if is_table(budgets) else [budgets]
    table: list[list[int]] = [list(row) for row in rows]
    cells = [cell for row in table for cell in row]
    before, total = sum(cells), mean * len(cells)
    whole = {size: size * total // before for size in set(cells)}
    left = total - sum(whole[cell] for cell in cells)
    for size in sorted(whole, key=lambda size: (-(size * total % before), size)):
        for row in table:
            for column, cell in enumerate(row):
                if cell == size and left > 0:
                    row[column] = -whole[size] - 1  # marked, so that it is not found again
                    left -= 1
    found = tuple(tuple(-cell if cell < 0 else whole[cell] for cell in row) for row in table)
    return found if is_table(budgets) else found[0]
