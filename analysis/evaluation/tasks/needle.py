"""Task "needle": find one of several numbers hidden in a long text, over a grid of lengths and depths."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, ClassVar

from analysis.evaluation.tasks import haystack, metrics, options, texts
from analysis.evaluation.tasks.answering import AnswerTask
from analysis.evaluation.tasks.base import Document
from analysis.evaluation.tasks.tokens import count_tokens


@dataclass(kw_only=True)
class Needle(AnswerTask):
    """Find the number that belongs to one of several things.

    One document per haystack, length, depth and sample; its score is the share of the requested numbers that the answer
    contains, in per cent.

    Args:
        lengths: tokens of prompt and answer together; a document has at most this many, and only a few fewer.
        depths: where the needle starts, in per cent of the haystack.
        haystacks: "noise", "pydoc" (see `haystack.sentences`), text files or folders.
        keys: number of things with a number; all but one are distractors, at random depths.
        digits: digits of each number; 0 for UUIDs.
        samples: documents per cell of the grid.
        seed: of all random draws.
        new_tokens: the most tokens of an answer.
        question, chat: see `AnswerTask`.

    Source: the test of G. Kamradt (https://github.com/gkamradt/LLMTest_NeedleInAHaystack), with RULER's keys and
    numbers (arXiv 2404.06654) and wordings of our own.
    """

    lengths: list[int] = field(default_factory=lambda: [1024, 2048])
    depths: list[float] = field(default_factory=lambda: [0, 25, 50, 75, 100])
    haystacks: list[str] = field(default_factory=lambda: [haystack.PYDOC])
    keys: int = 8
    digits: int = 4
    samples: int = 2
    seed: int = 0
    new_tokens: int = 16
    name: ClassVar[str] = "needle"
    _paths: ClassVar[tuple[str, ...]] = ("haystacks",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.lengths = options.require_ints("lengths", self.lengths, 64)
        self.depths = options.require_percents("depths", self.depths)
        self.haystacks = options.require_texts("haystacks", self.haystacks)
        options.require_distinct("haystacks", texts.names(self.haystacks))
        options.require_int("keys", self.keys, 1)
        options.require_int("digits", self.digits, 0, 15)
        options.require_int("samples", self.samples, 1)
        options.require_int("seed", self.seed, 0)
        options.require_int("new_tokens", self.new_tokens, 1)

    def documents(self, tokenizer: Any) -> list[Document]:
        """One document per haystack, length, depth and sample, generated from the seed alone."""
        return [
            self._document(tokenizer, source, length, depth, sample)
            for source in self.haystacks
            for length in self.lengths
            for depth in self.depths
            for sample in range(self.samples)
        ]

    def score(self, data: dict[str, Any], answer: str) -> float:
        return metrics.match_all(answer, data["answers"])

    def _document(self, tokenizer: Any, source: str, length: int, depth: float, sample: int) -> Document:
        name = texts.names([source])[0]
        key = f"{name}-{length}-{depth:g}-{sample}"
        draw = random.Random(f"{self.name} {self.seed} {key}")
        hay = haystack.rotate(haystack.sentences(source), draw)
        data = self._hide(tokenizer, hay, length, depth, draw)
        context, question = self.prompt_ids(tokenizer, data)
        facts = {"length": length, "depth": depth, "haystack": name, "sample": sample, "keys": self.keys}
        return Document(key, {"tokens": len(context) + len(question), **facts, **data})

    def _hide(self, tokenizer: Any, hay: list[str], length: int, depth: float, draw: random.Random) -> dict[str, Any]:
        names = haystack.draw_names(draw, self.keys)
        numbers = haystack.draw_numbers(draw, self.keys, self.digits)
        kind = "number" if self.digits else "code"
        things = [f"The secret {kind} of the {key} is {value}." for key, value in zip(names, numbers, strict=True)]
        depths = [depth, *(draw.uniform(0, 100) for _ in things[1:])]
        intro = f"The text below says the secret {kind}s of some things. Remember them.\n\n"
        question = f"\n\nQuestion: What is the secret {kind} of the {names[0]}?"
        start = f"\nAnswer: The secret {kind} of the {names[0]} is"
        return self.fill(tokenizer, intro, hay, things, depths, question, start, [numbers[0]], length)

    def fill(
        self,
        tokenizer: Any,
        intro: str,
        hay: list[str],
        things: list[str],
        depths: list[float],
        question: str,
        start: str,
        answers: list[str],
        length: int,
    ) -> dict[str, Any]:
        """The data of a document whose prompt and answer take at most `length` tokens together."""
        around = {"context": "", "question": question, "start": start}
        room = length - self.new_tokens - sum(len(part) for part in self.prompt_ids(tokenizer, around))
        hidden = haystack.hide(tokenizer, hay, things, depths, room, intro)
        context = intro + hidden.text
        before = count_tokens(tokenizer, context[: len(intro) + hidden.starts[0]])
        return {
            "context": context,
            "question": question,
            "start": start,
            "answers": answers,
            "new_tokens": self.new_tokens,
            "at": round(100 * before / count_tokens(tokenizer, context), 2),
        }
