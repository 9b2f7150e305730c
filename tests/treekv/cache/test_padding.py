"""Where the padding of new tokens is, and which positions the real ones have."""

from __future__ import annotations

import pytest
import torch

from treekv import TreeKVError
from treekv.cache.padding import TokenPositions, split_padding


def mask(*rows: str) -> torch.Tensor:
    return torch.tensor([[column == "1" for column in row] for row in rows])


def test_no_padding():
    assert split_padding(None, 3, 5) == ([0, 0, 0], {})
    assert split_padding(mask("11111", "11111"), 2, 3) == ([0, 0], {})


def test_padding_on_the_left_is_counted_among_the_newest_columns():
    pads, scattered = split_padding(mask("0001111", "0000011", "0000000"), 3, 5)
    assert pads == [1, 3, 5] and scattered == {}


def test_padding_between_real_tokens_names_the_real_columns():
    pads, scattered = split_padding(mask("110011", "111111"), 2, 5)
    assert pads == [2, 0] and list(scattered) == [0]
    assert scattered[0].tolist() == [0, 3, 4]


def test_padding_on_the_right_is_refused():
    with pytest.raises(TreeKVError, match="right of the last token of row 1"):
        split_padding(mask("1111", "1110"), 2, 4)


def test_true_positions_come_from_the_model_or_from_what_was_seen():
    ids = torch.tensor([[4, 5, 6, 7], [1, 2, 3, 4]])
    given = TokenPositions(ids, slice(1, 2), 1, [], ids.device)
    assert given.true(2).tolist() == [[2, 3]] and given.after(1).true(2).tolist() == [[3, 4]]
    position_ids, rows, first, count = given.columns(3)
    assert position_ids is ids and (rows, first, count) == (slice(1, 2), 1, 3)
    shared = TokenPositions(ids[:1], slice(1, 2), 0, [], ids.device)
    assert shared.true(2).tolist() == [[4, 5]]
    counted = TokenPositions(None, slice(0, 2), 0, [10, 20], ids.device)
    assert counted.true(2).tolist() == [[10, 11], [20, 21]] and counted.after(3).true(1).tolist() == [[13], [23]]
    position_ids, rows, first, count = counted.columns(2)
    assert position_ids.tolist() == [[10, 11], [20, 21]] and (rows, first, count) == (slice(0, 2), 0, 2)
