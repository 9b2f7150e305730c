"""Pseudo-random numbers, in arithmetic that needs no care."""

from __future__ import annotations


def splitmix(*parts: int) -> int:
    """SplitMix64's finalizer over the parts, in arithmetic modulo 2**64; the upper 31 bits."""
    mask = 2**64 - 1
    value = 0
    for part in parts:
        value = (value + part + 1) * 0x9E3779B97F4A7C15 & mask
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & mask
        value = (value ^ value >> 27) * 0x94D049BB133111EB & mask
        value = value ^ value >> 31
    return value >> 33
