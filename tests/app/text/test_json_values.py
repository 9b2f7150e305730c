"""NaN and infinities become None, everything else stays."""

from __future__ import annotations

import json
import math

from app.text.json_values import without_nan


def test_nan_and_infinities_become_none_at_any_depth() -> None:
    value = {"a": math.nan, "b": [1, -math.inf, {"c": math.inf}], "d": "nan", "e": 0.5, "f": None, "g": True}
    assert without_nan(value) == {"a": None, "b": [1, None, {"c": None}], "d": "nan", "e": 0.5, "f": None, "g": True}
    json.dumps(without_nan(value), allow_nan=False)


def test_the_given_value_is_not_changed() -> None:
    value = {"a": [math.nan]}
    without_nan(value)
    assert math.isnan(value["a"][0])
