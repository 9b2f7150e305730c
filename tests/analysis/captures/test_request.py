"""What a capture request resolves, and what it refuses before the model runs."""

import pytest
import torch

import analysis
from tests import tiny
from treekv import TreeKVError


def test_the_last_queries_of_a_prefix_are_observed(token_ids):
    model, seen = tiny.llama(), []
    short = analysis.capture(
        model, None, token_ids.tolist(), max_tokens=100, queries=7, progress=lambda *a: seen.append(a)
    )
    assert short.tokens == 100
    assert short.token_ids.tolist() == token_ids[:100].tolist()
    assert short.query_positions == list(range(93, 100))
    assert seen == [(1, 2), (2, 2)]


def test_chosen_layers_only(llama, captured, token_ids, sharp_llama):
    seen = []
    model = sharp_llama("treekv")
    one = analysis.capture(model, None, token_ids, queries=5, layers=[1, 1], progress=lambda *call: seen.append(call))
    assert (one.layers, len(one.q), seen) == ([1], 1, [(1, 1)])
    torch.testing.assert_close(one.contributions(1, 299), captured.contributions(1, 299))
    for layers, words in (([2], "layer 2 cannot"), ([-1], "layer -1 cannot"), ([], "an empty list")):
        with pytest.raises(TreeKVError, match=rf"{words}.*\[0, 1\]"):
            analysis.capture(llama, None, token_ids, layers=layers)


@pytest.mark.parametrize(
    ("text", "changes", "words"),
    [
        ("", {}, "empty"),
        (" \n\t", {}, "empty"),
        ("some text", {}, "tokenizer"),
        ("some text \ud800", {}, "the text has half of a surrogate pair, '.ud800', at character 10"),
        ([], {}, "0 tokens.*32"),
        (list(range(31)), {}, "31 tokens.*32"),
        (list(range(50)), {"queries": 40}, "50 tokens.*56"),
        (list(range(50)), {"queries": 0}, "queries is 0"),
        (list(range(50)), {"max_tokens": 20}, "max_tokens is 20.*32"),
        ([*range(50), 97], {}, "97.*vocabulary"),
        ([*range(50), -1], {}, "-1.*vocabulary"),
        ([1] * 600, {}, "600 tokens.*512"),
    ],
)
def test_bad_text_is_refused(llama, text, changes, words):
    with pytest.raises(TreeKVError, match=words):
        analysis.capture(llama, None, text, **changes)
