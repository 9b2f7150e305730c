"""Checks of task options. Each raises a TreeKVError that names the option, the value and what is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from treekv.errors import TreeKVError


def require_int(option: str, value: Any, least: int, most: int | None = None) -> int:
    """`value`, an int of at least `least` and at most `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        right = f"between {least} and {most}" if most is not None else f"of at least {least}"
        raise TreeKVError(f"{option} must be a whole number {right}, got {value!r}")
    return value


def require_ints(option: str, value: Any, least: int) -> list[int]:
    """Distinct ints of at least `least`, from a list or a single number."""
    return require_distinct(option, [require_int(option, item, least) for item in as_list(option, value)])


def require_percents(option: str, value: Any) -> list[float]:
    """Distinct numbers from 0 to 100, from a list or a single number."""
    items = as_list(option, value)
    for item in items:
        if isinstance(item, bool) or not isinstance(item, (int, float)) or not 0 <= item <= 100:
            raise TreeKVError(f"{option} must be percents between 0 and 100, got {item!r}")
    return require_distinct(option, items)


def require_bool(option: str, value: Any) -> bool:
    """`value`, a bool."""
    if not isinstance(value, bool):
        raise TreeKVError(f"{option} must be true or false, got {value!r}")
    return value


def require_choice(option: str, value: Any, choices: Sequence[str]) -> str:
    """`value`, one of `choices`."""
    if value not in choices:
        raise TreeKVError(f"{option} must be one of {', '.join(choices)}, got {value!r}")
    return str(value)


def require_texts(option: str, value: Any) -> list[str]:
    """Distinct non-empty strings, from a list or a single string."""
    items = as_list(option, value)
    for item in items:
        if not isinstance(item, str) or not item:
            raise TreeKVError(f"{option} must be text, got {item!r}")
    return require_distinct(option, items)


def as_list(option: str, value: Any) -> list[Any]:
    """A list with at least one entry; a single value becomes a list of one."""
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    if not items:
        raise TreeKVError(f"{option} must have at least one entry")
    return items


def require_distinct(option: str, items: list[Any]) -> list[Any]:
    """`items`, none of which occurs twice."""
    twice = [item for index, item in enumerate(items) if item in items[:index]]
    if twice:
        raise TreeKVError(f"{option} has {twice[0]!r} twice")
    return items
