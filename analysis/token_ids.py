"""Texts as token ids: the tokens of the text itself, and the special ones that belong before it."""

from __future__ import annotations

from typing import Any

from treekv.files import check_text


def special_prefix(tokenizer: Any) -> list[int]:
    """The special tokens that the tokenizer puts before every text, often none."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    complete = tokenizer("a")["input_ids"]
    return list(complete[: complete.index(bare[0])])


def encode(tokenizer: Any, text: str) -> list[int]:
    """The token ids of a text without special tokens. Raises TreeKVError for a text with a lone surrogate."""
    check_text(text, "the text")
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else []
