"""Texts from files and layers from words."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest

from app.text.inputs import read_layers, read_text, uploaded_text
from treekv import TreeKVError


def test_a_text_is_read_without_its_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_bytes(b"\xef\xbb\xbfwords\n")
    assert read_text(str(file)) == "words\n"


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("Ümläut".encode())))
    assert read_text("-") == "Ümläut"


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"\xff\xfe\x00", "is not UTF-8 text (byte 0"), (b" \n", "is empty"), (None, "there is no file")],
)
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "text.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(TreeKVError) as error:
        read_text(str(file))
    assert words in str(error.value)
    with pytest.raises(TreeKVError, match="is a folder"):
        read_text(str(tmp_path))


@pytest.mark.parametrize(
    ("words", "layers"), [(None, None), (" ", None), ("3", [3]), ("0,5,10-12", [0, 5, 10, 11, 12]), (" 1 , 2", [1, 2])]
)
def test_layers_are_read(words: str | None, layers: list[int] | None) -> None:
    assert read_layers(words) == layers


@pytest.mark.parametrize("words", ["1-", "2-1", "a", "1,,2", "-1", "0-99999"])
def test_other_words_are_refused(words: str) -> None:
    with pytest.raises(TreeKVError, match="cannot be read at"):
        read_layers(words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"%PDF-1.7\n", "'a' is a PDF; save its text"),
        (b"PK\x03\x04\0\0", "'a' is no text file"),
        (b"caf\xe9", "'a' is not UTF-8 text (byte 3"),
        (b" \n", "'a' is empty"),
    ],
)
def test_an_uploaded_file_that_is_no_text_is_one_sentence(content: bytes, words: str) -> None:
    with pytest.raises(TreeKVError, match=re.escape(words)):
        uploaded_text(content, "'a'")
    assert uploaded_text(b"\xef\xbb\xbfone\r\ntwo", "'a'") == "one\ntwo"
