"""Files are written completely or not at all."""

from __future__ import annotations

import pytest

from treekv import TreeKVError
from treekv.files import atomic_write


def test_the_file_appears_at_the_end(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert not path.exists() and temporary.parent == tmp_path
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_an_interruption_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_place_that_does_not_exist_is_one_sentence(tmp_path):
    with pytest.raises(TreeKVError, match="cannot write"), atomic_write(tmp_path / "no" / "a.txt") as temporary:
        temporary.write_text("x")
