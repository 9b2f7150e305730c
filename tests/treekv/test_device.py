"""A device is refused by its name."""

from __future__ import annotations

import pytest
import torch

from treekv import TreeKVError
from treekv.device import usable_device


def test_a_device_by_its_name() -> None:
    assert usable_device(None) == usable_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("given", ["nonsense", 2.5])
def test_what_is_no_device_is_named(given) -> None:
    with pytest.raises(TreeKVError, match=f"device must be one such as 'cpu' or 'cuda', got {given!r}"):
        usable_device(given)
