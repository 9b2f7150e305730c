"""Reading user input: text from files, layer numbers from words. Errors are one sentence."""

from __future__ import annotations

import sys

from treekv.errors import TreeKVError


def read_text(path: str) -> str:
    """The text in a UTF-8 file, or on standard input for "-".

    Raises:
        TreeKVError: no such file, a folder, not UTF-8, or nothing in it.
    """
    name = "standard input" if path == "-" else repr(path)
    try:
        if path == "-":
            text = sys.stdin.buffer.read().decode("utf-8-sig")
        else:
            with open(path, encoding="utf-8-sig") as file:
                text = file.read()
    except FileNotFoundError as error:
        raise TreeKVError(f"there is no file {name}") from error
    except IsADirectoryError as error:
        raise TreeKVError(f"{name} is a folder; give a text file") from error
    except UnicodeDecodeError as error:
        raise TreeKVError(f"{name} is not UTF-8 text (byte {error.start} cannot be read)") from error
    except OSError as error:
        raise TreeKVError(f"{name} cannot be read: {error.strerror or error}") from error
    if not text.strip():
        raise TreeKVError(f"{name} is empty; give a text")
    return text


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
