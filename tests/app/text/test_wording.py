"""Titles of policies, sentences about settings, numbers as text."""

from __future__ import annotations

import math

import pytest

from app.text import wording
from treekv import TreeKVConfig, policies


def test_titles_are_those_of_the_registry() -> None:
    assert wording.policy_title("streaming") == "StreamingLLM"
    assert wording.policy_title("tree (real run)") == "TreeKV (real run)"
    assert wording.policy_title("h2o paper (simulated)") == "H2O, paper's allocation (simulated)"
    assert wording.policy_title("h2o 2") == "h2o 2" and wording.policy_title("tree paper") == "tree paper"
    assert [wording.policy_title(name) for name in policies.names()] == [policies.title(n) for n in policies.names()]


def test_a_policy_registered_later_has_its_title_at_once() -> None:
    class Own(type(policies.get("streaming"))):
        name, title = "own", "My policy"

    assert wording.policy_title("own") == "own"
    policies.register(Own())
    try:
        assert wording.policy_title("own (simulated)") == "My policy (simulated)"
    finally:
        policies.unregister("own")


@pytest.mark.parametrize(("items", "text"), [([5], "5"), ([5, 15], "5 and 15"), (["a", "b", "c"], "a, b and c")])
def test_lists_as_text(items: list, text: str) -> None:
    assert wording.listed(items) == text


def test_numbers_and_bytes_as_text() -> None:
    assert wording.number(1.25, ".1f") == "1.2"
    assert wording.number(None, ".1f") == wording.number(math.nan, ".1f") == "-"
    assert [wording.size(n) for n in (999, 1200, 3_400_000, 5e9)] == ["999 B", "1.2 kB", "3.4 MB", "5.0 GB"]


def test_widths_of_bands() -> None:
    assert [wording.band_in_words(band) for band in ("D1", "D3", "A8", "ad", "D")] == [
        "D1: adjacent tokens",
        "D3: adjacent 4-token averages",
        "A8: 256-token average",
        "ad",
        "D",
    ]
    assert [wording.band_width("D1", 1), wording.band_width("D4", 4), wording.band_width("A8", 8)] == [
        "1",
        "8",
        "256 and more",
    ]


def test_errors_name_the_controls() -> None:
    assert wording.by_control("cache_size 64 minus sink_size 4") == "Budget 64 minus Sinks 4"


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        (TreeKVConfig(policy="full"), ["full cache: every token is kept"]),
        (TreeKVConfig(cache_size=1024), ["TreeKV: 1,024 tokens", "4 sinks", "508 recent", "512 in the tree"]),
        (TreeKVConfig(cache_size=1024, max_height=5), ["512 in the tree of height 5)"]),
        (TreeKVConfig(policy="streaming", cache_size=64, prefill="stream"), ["60 recent", "blocks of"]),
        (TreeKVConfig(cache_size=64, prompt_score="future"), ["reduced at its end, by what coming queries would see"]),
        (TreeKVConfig(policy="h2o", cache_size=64, prefill="none"), ["H2O: 64 tokens", "a prompt is kept whole"]),
    ],
)
def test_settings_in_words(config: TreeKVConfig, parts: list[str]) -> None:
    words = wording.settings_in_words(config)
    assert [part for part in parts if part not in words] == []


def test_a_cache_is_never_more_of_less() -> None:
    assert wording.size_beside(3500, 6500) == "3.5 kB of 6.5 kB"
    assert wording.size_beside(6500, 3500) == "6.5 kB, with room for more than the 3.5 kB of all tokens so far"
