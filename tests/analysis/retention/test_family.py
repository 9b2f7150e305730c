"""The family of a kept token: against every token's chain of winners, of a simulation and of a real cache's trace."""

from __future__ import annotations

import pytest

import analysis
from tests.analysis.retention.test_tree import record
from tests.reference.forgotten import family as slow_family
from treekv import TreeKVCache, TreeKVConfig, TreeKVError


@pytest.fixture(scope="module")
def traced(llama, token_ids):
    """The record of a real run."""
    cache = TreeKVCache(TreeKVConfig(cache_size=16, sink_size=2, trace=True, prefill="stream"), llama.config)
    llama(token_ids[None], past_key_values=cache)
    return analysis.retention_from_cache(cache, tokens=[f" w{number}" for number in token_ids.tolist()])


@pytest.mark.parametrize("step", [50, 170, None])
@pytest.mark.parametrize("layer, head", [(0, 0), (1, 1)])
def test_equals_the_chains_of_winners_in_the_trace(traced, layer, head, step):
    one = traced.sel(policy="tree", layer=layer, head=head)
    last = int(traced.attrs["steps"]) - 1 if step is None else step
    kept = analysis.kept_mask(traced, last).sel(policy="tree", layer=layer, head=head).values.nonzero()[0]
    sizes = analysis.eviction_tree(traced, last)["size"].sel(policy="tree", layer=layer, head=head).values
    deepest = 0
    for position in kept.tolist():
        found = analysis.family(traced, position, layer=layer, head=head, step=step)
        expected = slow_family(one["evicted_at"].values.tolist(), one["survivor"].values.tolist(), position, last)
        assert set(map(tuple, found)) == expected and len(found) == len(expected) == sizes[position] - 1
        assert [(own.level, own.step) for own in found] == sorted((own.level, own.step) for own in found)
        deepest = max(deepest, *(own.level for own in found), 0)
    assert deepest > 2


def test_in_words():
    # 1 is absorbed by 2 at step 4, 3 by 2 at step 5, then 2 by 4 at step 6; 0 and 4 to 6 stay.
    made = record([-1, 4, 6, 5, -1, -1, -1], [-1, 2, 4, 2, -1, -1, -1])
    made = made.assign_coords(token=("position", list("abcdefg")))
    assert analysis.family_in_words(made, 4) == [
        "\u201ce\u201d (4) stands for 4 tokens: itself and those below it.",
        "Level 1: it beat \u201cc\u201d (2) at step 6.",
        "Level 2: \u201cc\u201d (2) had beaten \u201cb\u201d (1) at step 4; "
        "\u201cc\u201d (2) had beaten \u201cd\u201d (3) at step 5.",
    ]
    assert analysis.family_in_words(made, 0) == ["\u201ca\u201d (0) has beaten no token: it stands for itself alone."]
    assert analysis.family_in_words(made.drop_vars("token"), 4, step=4) == [
        "The token at 4 has beaten no token: it stands for itself alone."
    ]


def test_long_levels_are_cut():
    gone = record([-1] + [40] * 38 + [-1, -1], [-1] + [0] * 38 + [-1, -1])
    sentences = analysis.family_in_words(gone, 0)
    assert sentences[1].endswith("; and 26 more.") and sentences[1].count(";") == 12


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(position=2), "position 2 was evicted at step 6; give one that is kept"),
        (dict(position=9), "between 0 and 6, the last one read, got 9"),
        (dict(position=0, step=7), "step 7 is outside the record; give 0 to 6"),
        (dict(position=0, layer=5), "layer 5 is not in the record"),
    ],
)
def test_bad_requests_are_one_sentence(arguments, words):
    made = record([-1, 4, 6, 5, -1, -1, -1], [-1, 2, 4, 2, -1, -1, -1])
    with pytest.raises(TreeKVError, match=words):
        analysis.family(made, **arguments)
