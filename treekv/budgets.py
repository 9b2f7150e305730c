"""A capacity for each layer instead of the same for all, with the same total."""

from __future__ import annotations

from typing import Any, Final

from treekv import policies
from treekv.errors import TreeKVError
from treekv.policies.settings import Settings

SHAPES: Final = ("rising", "falling")


def checked_budgets(budgets: Any, policy: str, cache_size: int) -> tuple[int, ...] | str | None:
    """`budgets` as `TreeKVConfig` keeps them.

    Raises:
        TreeKVError: the policy cannot use them, they are no list of whole numbers and no known shape, or they do not
            add up to `cache_size` tokens a layer.
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
    if not isinstance(budgets, (list, tuple)) or not budgets or not all(type(b) is int for b in budgets):
        raise TreeKVError(f"budgets must be a list of whole numbers, 'rising' or 'falling', got {budgets!r}")
    if sum(budgets) != cache_size * len(budgets):
        raise TreeKVError(
            f"budgets must add up to cache_size times their number ({cache_size} x {len(budgets)} = "
            f"{cache_size * len(budgets)}), got a sum of {sum(budgets)}"
        )
    return tuple(budgets)


def possible_sizes(settings: Settings) -> list[int]:
    """Capacities that some layer may get, as far as they are known without the number of layers."""
    if isinstance(settings.budgets, tuple):
        return sorted(set(settings.budgets))
    return [settings.cache_size] if settings.budgets is None else [settings.cache_size, settings.cache_size // 2]


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
        return list(settings.budgets)
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
    """The recent tokens of a layer that keeps `size` tokens instead of `settings.cache_size`."""
    default = policies.get(settings.policy).defaults(settings.variant).recent_size
    if settings.recent_size == default(settings.cache_size, settings.sink_size):
        return default(size, settings.sink_size)
    return settings.recent_size * size // settings.cache_size
