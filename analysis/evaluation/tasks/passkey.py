"""Task "passkey": find one number in a text of filler sentences, over a grid of lengths and depths."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, ClassVar

from analysis.evaluation.tasks import haystack
from analysis.evaluation.tasks.needle import Needle


@dataclass(kw_only=True)
class Passkey(Needle):
    """Find the pass key.

    Like task "needle", but the number has no other name than "the pass key", and it is stated twice. With more than one
    of `keys`, the others are numbers stated not to be the pass key.

    Source: Mohtashami and Jaggi, "Landmark Attention" (arXiv 2305.16300), in our own words.
    """

    haystacks: list[str] = field(default_factory=lambda: [haystack.NOISE])
    keys: int = 1
    digits: int = 5
    name: ClassVar[str] = "passkey"

    def _hide(self, tokenizer: Any, hay: list[str], length: int, depth: float, draw: random.Random) -> dict[str, Any]:
        numbers = haystack.draw_numbers(draw, self.keys, self.digits)
        things = [f"The pass key is {numbers[0]}. Keep it in mind: {numbers[0]} is the pass key."]
        things += [f"The number {number} is of no use. It is not the pass key." for number in numbers[1:]]
        depths = [depth, *(draw.uniform(0, 100) for _ in things[1:])]
        intro = "A pass key is hidden in a lot of unimportant text. Find it and remember it.\n\n"
        question = "\n\nQuestion: What is the pass key?"
        return self.fill(
            tokenizer, intro, hay, things, depths, question, "\nAnswer: The pass key is", [numbers[0]], length
        )
