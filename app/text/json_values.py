"""Values as JSON can write them."""

from __future__ import annotations

import math
from typing import Any


def without_nan(value: Any) -> Any:
    """The same value with None for NaN and infinities, which JSON does not have; dicts and lists are copied."""
    if isinstance(value, dict):
        return {name: without_nan(part) for name, part in value.items()}
    if isinstance(value, list):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
