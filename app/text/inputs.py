"""Reading user input: text from files, layer numbers from words. Errors are one sentence."""

from __future__ import annotations

import sys

from treekv import files
from treekv.errors import TreeKVError


def read_text(path: str) -> str:
    """The text in a UTF-8 file, or on standard input for "-".

    Raises:
        TreeKVError: no such file, a folder, not UTF-8, or nothing in it.
    """
    if path == "-":
        return files.decoded(sys.stdin.buffer.read(), "standard input")
    return files.read_text(path)


def uploaded_text(content: bytes, name: str) -> str:
    """The text in an uploaded file; `name` is the file's in error messages.

    Raises:
        TreeKVError: a PDF or another file that is no text, not UTF-8, or nothing in it.
    """
    if content.startswith(b"%PDF"):
        raise TreeKVError(f"{name} is a PDF; save its text as a UTF-8 file, such as .txt, and upload that")
    if b"\0" in content[:4096]:
        raise TreeKVError(f"{name} is no text file; upload plain text in UTF-8, such as .txt or .md")
    return files.decoded(content, name)


def read_layers(words: str | None) -> list[int] | None:
    """Layer numbers from a word such as "0,5,10-12"; None, which means all layers, for an empty one.

    Raises:
        TreeKVError: this is not such a word.
    """
    if words is None or not words.strip():
        return None
    layers: list[int] = []
    for part in words.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not (last.isdecimal() and int(first) <= int(last) < 10_000)):
            raise TreeKVError(f"the layers {words!r} cannot be read at {part!r}; write them as 0,5,10-12")
        layers += range(int(first), int(last if dash else first) + 1)
    return layers
