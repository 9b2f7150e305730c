"""Values per row against a plain list."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from treekv.cache.row_values import RowValues, same

ROWS = 4
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["set", "add", "assign", "select"]),
        st.integers(0, ROWS - 1),
        st.integers(1, ROWS),
        st.lists(st.integers(0, 3), min_size=ROWS, max_size=ROWS),
    ),
    max_size=12,
)


@given(OPERATIONS)
def test_operations_are_those_of_a_list(operations):
    values, plain = RowValues(0, ROWS), [0] * ROWS
    for what, start, stop, numbers in operations:
        rows = slice(start, max(stop, start + 1))
        if what == "set":
            values.set(rows, numbers[0])
            plain[rows] = [numbers[0]] * len(plain[rows])
        elif what == "add":
            values.add(rows, numbers[0])
            plain[rows] = [value + numbers[0] for value in plain[rows]]
        elif what == "assign":
            values[rows] = numbers[: len(plain[rows])]
            plain[rows] = numbers[: len(plain[rows])]
        else:
            values.select(numbers)
            plain = [plain[row] for row in numbers]
        assert values[:] == plain and len(values) == ROWS
        assert values[rows] == plain[rows] and values[start] == plain[start]
        assert values.first(rows) == plain[start]
        assert values.uniform(rows) == (len(set(plain[rows])) == 1)
        operand = values.as_operand(rows, torch.device("cpu"))
        if isinstance(operand, int):
            assert plain[rows] == [operand] * len(plain[rows])
        else:
            assert operand.flatten().tolist() == plain[rows] and operand.shape[1:] == (1, 1)


def test_equal_values_are_stored_once():
    values = RowValues(3, 2)
    assert values.covers(slice(0, 2)) and not values.covers(slice(0, 1))
    values[slice(0, 1)] = [4]
    assert values._each == [4, 3]
    values.add(slice(1, 2), 1)
    assert values._each is None and values[:] == [4, 4]


@pytest.mark.parametrize("values, expected", [([1, 1], True), ([1, 2], False), ([0], True)])
def test_same(values, expected):
    assert same(values) is expected
