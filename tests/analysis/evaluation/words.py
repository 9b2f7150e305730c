"""A tokenizer that needs no files: every word, mark and run of white space is one token."""

from __future__ import annotations

import re
from typing import Any

PIECES = re.compile(r"\s?\w+|\s|[^\w\s]")


class Words:
    """Ids in the order in which pieces are met, after the token for the beginning of a text."""

    chat_template: str | None = None
    eos_token_id = 1

    def __init__(self, bos: bool = True) -> None:
        self.pieces = ["<begin>", "<end>"]
        self.known = {piece: index for index, piece in enumerate(self.pieces)}
        self.bos = bos

    def __call__(self, text: str, add_special_tokens: bool = True, **_: Any) -> dict[str, list[int]]:
        ids = [0] if add_special_tokens and self.bos else []
        for piece in PIECES.findall(text):
            if piece not in self.known:
                self.known[piece] = len(self.pieces)
                self.pieces.append(piece)
            ids.append(self.known[piece])
        return {"input_ids": ids}

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(self.pieces[i] for i in ids if not (skip_special_tokens and i < 2))

    def apply_chat_template(self, turns: list[dict[str, str]], **_: Any) -> str:
        return "".join(f"[{turn['role']}]{turn['content']}[/]" for turn in turns) + "[answer]"
