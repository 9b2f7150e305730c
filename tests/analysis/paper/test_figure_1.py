"""The paper's figure 1: the rules without protection, and numbers that follow from what is kept."""

import numpy as np
import pytest

import analysis
from analysis.paper import figure1
from analysis.paper.figure_1 import longest_gap
from analysis.retention.bias import gini
from tests import tiny
from tests.reference.policies import Entry, make_rule
from treekv import TreeKVConfig, TreeKVError

TOKENS, SIZE = 120, 30


@pytest.fixture(scope="module")
def text(llama):
    return analysis.capture(llama, None, tiny.tokens(TOKENS)[0], max_tokens=TOKENS, queries=1)


@pytest.fixture(scope="module")
def found(text):
    return figure1(text)


def slowly_kept(text, policy, layer):
    """[head, position], by the rule on lists: weights over what is held, one token after another."""
    rule = make_rule(TreeKVConfig(policy=policy, cache_size=SIZE, sink_size=0, recent_size=0, prefill="none"))
    q, k = text.q[layer].double(), text.k[layer].double()
    group = len(q) // len(k)
    heads = [[] for _ in k]
    for t in range(TOKENS):
        for head, entries in enumerate(heads):
            entries.append(Entry(t))
            held = [entry.position for entry in entries]
            logits = q[head * group : (head + 1) * group, t] @ k[head, held].T * text.scaling[layer]
            for entry, weight in zip(entries, logits.softmax(-1).mean(0).tolist()):
                entry.total, entry.count, entry.last = entry.total + weight, entry.count + 1, weight
        if t >= SIZE:
            rule.evict(heads, t)
    return np.array([[t in {entry.position for entry in entries} for t in range(TOKENS)] for entries in heads])


@pytest.mark.parametrize("policy", ["h2o", "tova", "tree"])
def test_what_is_kept_follows_the_rule_on_lists(text, found, policy):
    for layer in range(2):
        expected = slowly_kept(text, policy, layer)
        np.testing.assert_array_equal(found["kept"].sel(policy=policy, layer=layer), expected)


def test_a_quarter_is_kept_by_the_three_of_the_paper(found):
    assert found["policy"].values.tolist() == ["h2o", "tova", "tree"]
    assert found["kept"].dims == ("policy", "layer", "head", "position")
    assert (found["kept"].sum("position") == SIZE).all()
    assert (found.attrs["tokens"], found.attrs["cache_size"]) == (TOKENS, SIZE)
    assert found["token"].sizes == {"position": TOKENS}


def test_the_numbers_follow_from_what_is_kept(found):
    for index in np.ndindex(3, 2, 2):
        kept = found["kept"].values[index]
        tenths = kept.reshape(10, TOKENS // 10).mean(1)
        assert found["gini"].values[index] == pytest.approx(gini(tenths))
        gaps = "".join("1" if one else "0" for one in kept).split("1")
        assert found["longest_gap"].values[index] == max(map(len, gaps))
    # The ideal is that of a tree without protection: three sweeps, each halving what it passed.
    ideal = np.repeat([1 / 8, 1 / 4, 1 / 2], [60, 30, 30])
    assert found["ideal_gini"].values == pytest.approx(gini(ideal.reshape(10, 12).mean(1)))
    assert found["distance"].sel(policy="tree").max() < 1.5 < found["distance"].sel(policy="h2o").min()


def test_longest_gap():
    assert longest_gap(np.array([[1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)).tolist() == [2, 5, 0]


def test_progress_and_chosen_layers(text):
    seen = []
    one = figure1(text, 40, policies=["random"], layers=[1], progress=lambda *call: seen.append(call))
    assert one["layer"].values.tolist() == [1] and (one["kept"].sum("position") == 40).all()
    assert seen[-1] == (TOKENS, TOKENS)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(cache_size=TOKENS), f"cache_size is {TOKENS}; give 2 to {TOKENS - 1}"),
        (dict(cache_size=1), "cache_size is 1"),
        (dict(policies=["snapkv"]), "figure 1 protects nothing, which 'snapkv' does not allow"),
        (dict(policies=["streaming"]), "figure 1 protects nothing, which 'streaming' does not allow"),
        (dict(policies=["lru"]), "policy must be one of"),
        (dict(policies=[]), "no settings"),
        (dict(layers=[9]), "layer 9 was not captured"),
    ],
)
def test_bad_input_is_refused(text, changes, words):
    with pytest.raises(TreeKVError, match=words):
        figure1(text, **changes)
