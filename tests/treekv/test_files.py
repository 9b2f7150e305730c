"""Files are written completely or not at all."""

from __future__ import annotations

import pytest

from treekv import TreeKVError
from treekv.files import atomic_write, check_text, parse_json, read_text


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


def test_text_is_read_as_utf8_with_newlines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree \xc3\xa9\n")
    assert read_text(path) == "one\ntwo\nthree \u00e9\n"


@pytest.mark.parametrize(
    "content, words", [(b"a\xff", "not UTF-8 text .byte 1"), (b" \n", "is empty"), (None, "there is no file")]
)
def test_text_that_cannot_be_read_is_one_sentence(tmp_path, content, words):
    path = tmp_path / "a.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TreeKVError, match=rf"a\.txt.*{words}|{words}.*a\.txt"):
        read_text(path)


def test_a_folder_is_no_text(tmp_path):
    with pytest.raises(TreeKVError, match="is a folder"):
        read_text(tmp_path)


@pytest.mark.parametrize(
    "text, words",
    [
        ('{"a":', "a.json is not JSON: .* at line 1, column 6"),
        ('{"a":' * 50_000, "a.json is nested too deeply to be read"),
        ('{"a": ' + "9" * 5000 + "}", "a.json has a whole number of 5000 digits; no number has more than 30"),
        ('{"a": -' + "9" * 31 + "}", "a.json has a whole number of 32 digits"),
    ],
    ids=["cut", "deep", "long", "negative"],
)
def test_json_that_cannot_be_read_is_one_sentence(text, words):
    with pytest.raises(TreeKVError, match=words):
        parse_json(text, "a.json")


def test_json_is_read():
    assert parse_json('{"a": [1, -2, 0.5, "b", null], "c": 18446744073709551615}', "a.json") == {
        "a": [1, -2, 0.5, "b", None],
        "c": 2**64 - 1,
    }


def test_half_of_a_surrogate_pair_is_no_text():
    check_text("any text, \u00e9 \U0001f333 too", "the text")
    with pytest.raises(TreeKVError, match=r"the text has half of a surrogate pair, '.ud800', at character 4") as found:
        check_text("tree\ud800", "the text")
    str(found.value).encode()  # the sentence itself can be printed
