"""Numbers with their unit as text."""

from __future__ import annotations

from typing import Final

_BYTES: Final = ("B", "kB", "MB", "GB", "TB")


def format_bytes(number: float) -> str:
    """Bytes as text, in powers of ten with one decimal: "1.2 MB"."""
    for unit in _BYTES[:-1]:
        if number < 1000:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} {_BYTES[-1]}"


def count(number: int, noun: str) -> str:
    """A number and its noun, in the plural unless it is one: "1 layer", "2,048 tokens"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
