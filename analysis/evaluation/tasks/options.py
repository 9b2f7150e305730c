"""Checks of the options of tasks: one sentence that names the option, the value and what would be right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from treekv.errors import TreeKVError


def whole(option: str, value: Any, least: int, most: int | None = None) -> int:
    """A whole number within bounds."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        right = f"between {least} and {most}" if most is not None else f"of at least {least}"
        raise TreeKVError(f"{option} must be a whole number {right}, got {value!r}")
    return value


def whole_list(option: str, value: Any, least: int) -> list[int]:
    """Different whole numbers, from a list or a single number."""
    return different(option, [whole(option, item, least) for item in listed(option, value)])


def percents(option: str, value: Any) -> list[float]:
    """Different numbers from 0 to 100."""
    items = listed(option, value)
    for item in items:
        if isinstance(item, bool) or not isinstance(item, (int, float)) or not 0 <= item <= 100:
            raise TreeKVError(f"{option} must be percents between 0 and 100, got {item!r}")
    return different(option, items)


def number(option: str, value: Any, above: float) -> float:
    """A finite number above a bound."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not above < value < math.inf:
        raise TreeKVError(f"{option} must be a number above {above:g}, got {value!r}")
    return float(value)


def flag(option: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TreeKVError(f"{option} must be true or false, got {value!r}")
    return value


def choice(option: str, value: Any, choices: Sequence[str]) -> str:
    if value not in choices:
        raise TreeKVError(f"{option} must be one of {', '.join(choices)}, got {value!r}")
    return str(value)


def text_list(option: str, value: Any) -> list[str]:
    """Different texts, from a list or a single one."""
    items = listed(option, value)
    for item in items:
        if not isinstance(item, str) or not item:
            raise TreeKVError(f"{option} must be text, got {item!r}")
    return different(option, items)


def listed(option: str, value: Any) -> list[Any]:
    """A list with at least one entry; a single value is a list of one."""
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    if not items:
        raise TreeKVError(f"{option} must have at least one entry")
    return items


def different(option: str, items: list[Any]) -> list[Any]:
    twice = [item for index, item in enumerate(items) if item in items[:index]]
    if twice:
        raise TreeKVError(f"{option} has {twice[0]!r} twice")
    return items
