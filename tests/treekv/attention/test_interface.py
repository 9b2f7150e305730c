"""The hook into transformers: a marked key is answered by its handler, any other by PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from treekv import TreeKVError
from treekv.attention import interface


class Handler:
    def __init__(self) -> None:
        self.calls: list[interface.AttentionCall] = []

    def attend(self, call: interface.AttentionCall) -> torch.Tensor:
        self.calls.append(call)
        return call.query


def states():
    return [torch.randn(1, heads, 3, 4) for heads in (4, 2, 2)]


def test_the_mark_belongs_to_one_tensor():
    key, handler = torch.randn(1, 2, 3, 4), Handler()
    marked = interface.attach_handler(key, handler)
    assert interface.handler_of(marked) is handler and torch.equal(marked, key)
    assert interface.handler_of(key) is None and interface.handler_of(marked.clone()) is None


def test_a_handler_gets_the_call_and_its_output_is_turned_for_transformers():
    query, key, value = states()
    handler, positions = Handler(), torch.arange(3)[None]
    output, weights = interface.treekv_attention(
        nn.Module(), query, interface.attach_handler(key, handler), value, None, position_ids=positions
    )
    (call,) = handler.calls
    assert weights is None and torch.equal(output, query.transpose(1, 2))
    assert torch.equal(call.key, key) and call.value is value and call.position_ids is positions
    assert call.scoring == (4**-0.5, None, None) and call.padding is None


def test_a_key_without_a_handler_goes_to_pytorch():
    module = nn.Module()
    module.num_key_value_groups, module.is_causal = 2, True
    query, key, value = states()
    output, _ = interface.treekv_attention(module, query, key, value, None)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    assert torch.allclose(output, expected.transpose(1, 2), atol=1e-6)


@pytest.mark.parametrize("padding, expected", [([[True] * 5], None), ([[False, True, True, True, True]], "a mask")])
def test_the_mask_is_passed_on_only_where_new_tokens_are_padding(padding, expected):
    given = torch.tensor(padding)
    mask = interface.treekv_mask(1, 5, 5, attention_mask=given)
    query, key, value = [torch.randn(1, heads, 5, 4) for heads in (4, 2, 2)]
    handler = Handler()
    interface.treekv_attention(nn.Module(), query, interface.attach_handler(key, handler), value, mask)
    found = handler.calls[0].padding
    assert found is None if expected is None else torch.equal(found, given)


@pytest.mark.parametrize(
    "given, words", [(torch.ones(1, 1, 3, 3), "4 dimensions"), ("mask", "str"), (torch.ones(3), "1 dimensions")]
)
def test_other_masks_are_refused(given, words):
    with pytest.raises(TreeKVError, match=words):
        interface.treekv_mask(1, 3, 3, attention_mask=given)


def test_dropout_is_refused():
    query, key, value = states()
    with pytest.raises(TreeKVError, match=r"attention_dropout 0.1\), which a TreeKV cache does not do: set"):
        interface.treekv_attention(
            nn.Module(), query, interface.attach_handler(key, Handler()), value, None, dropout=0.1
        )
