"""Settings on the command line that have no option of their own, as NAME=VALUE."""

from __future__ import annotations

from typing import Any


def named_values(words: list[str]) -> dict[str, Any]:
    """Settings by name; values are read as in a YAML file: numbers, true, null, or text.

    Raises:
        TreeKVError: not of the form NAME=VALUE, or a name is given twice.
    """
    found: dict[str, Any] = {}
    if not words:
        return found
    from analysis.evaluation.sweep.grid import read_item
    from treekv import TreeKVError

    for word in words:
        name, equals, value = word.partition("=")
        name = name.strip()
        if not equals or not name:
            raise TreeKVError(f"--set takes NAME=VALUE, such as prefill=stream, got {word!r}")
        if name in found:
            raise TreeKVError(f"--set {name} is given twice")
        found[name] = read_item(value)
    return found
