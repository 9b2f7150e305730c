"""Figure 3 of the paper: one sentence, read word by word into a cache of a few words.

The evictions are made by the ledger and the policy "tree" of the real cache, without protected words. Only the
attention is a toy, since there is no model: see `toy_attention`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from treekv.cache.ledger import Ledger
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError

NO_WORD = -1


@dataclass(frozen=True)
class Step:
    """One word arrives and, if the cache is one over, one word goes. Words are named by their positions in `words`.

    Attributes:
        words: those read so far; the last one has just arrived.
        held: what is in the cache before one goes, oldest first, the new word included.
        importances: of each of `held`: the mean of the attention weights that it got since it arrived.
        cursor: the rank in `held` at which the next contest starts, counted from 0.
        compared: the two neighbours, the older one first; None while there is room.
        loser: the one of them that goes; None while there is room.
        parent: of each word, the word that won against it; -1 while it is cached.
        level: of each word, its height in the tree of contests: 0 when it arrives, and after a contest one more than
            the higher of the two. A word that is gone has the level of the contest that it lost.
    """

    words: tuple[str, ...]
    held: tuple[int, ...]
    importances: tuple[float, ...]
    cursor: int
    compared: tuple[int, int] | None
    loser: int | None
    parent: tuple[int, ...]
    level: tuple[int, ...]

    @property
    def number(self) -> int:
        """Counted from 1, as in the paper."""
        return len(self.words)

    @property
    def winner(self) -> int | None:
        """The one of the compared words that stays."""
        if self.compared is None:
            return None
        older, newer = self.compared
        return newer if self.loser == older else older

    @property
    def kept(self) -> tuple[int, ...]:
        """What is in the cache after the step, oldest first."""
        return tuple(position for position in self.held if position != self.loser)

    def importance(self, position: int) -> float:
        """The importance of a word that is `held`."""
        return self.importances[self.held.index(position)]

    def numbers(self) -> tuple[str, ...]:
        """The importances as text; those of compared words with enough digits to tell them apart."""
        texts = [_number(value) for value in self.importances]
        if self.compared is not None:
            pair = [self.held.index(position) for position in self.compared]
            values = [self.importances[rank] for rank in pair]
            digits = next((n for n in range(2, 8) if len({_number(value, n) for value in values}) == 2), 2)
            for rank, value in zip(pair, values, strict=True):
                texts[rank] = _number(value, digits)
        return tuple(texts)

    def in_words(self) -> str:
        """One sentence on what happens."""
        arrives = f"Step {self.number}: \u201c{self.words[-1]}\u201d arrives"
        if self.compared is None or self.loser is None:
            return f"{arrives}; there is room for it, so all words stay."
        numbers = dict(zip(self.held, self.numbers(), strict=True))
        older, newer = (f"\u201c{self.words[position]}\u201d ({numbers[position]})" for position in self.compared)
        equal = len({self.importance(position) for position in self.compared}) == 1
        goes = f"\u201c{self.words[self.loser]}\u201d goes{', the older of equals' if equal else ''}"
        return f"{arrives}; {older} and {newer} are compared; {goes}."


def figure3(
    words: str | Sequence[str], capacity: int = 4, seed: int = 0, scores: Sequence[float] | None = None
) -> tuple[Step, ...]:
    """Read a sentence word by word into a cache that keeps `capacity` words, none of them protected.

    Args:
        words: the words, or a sentence that is split at its spaces.
        capacity: how many words stay after each step; the paper's figure has 4.
        seed: of the toy attention, which gives the importances.
        scores: an importance for each word, which then never changes; the toy attention is not used.

    Returns:
        One step for each word. Source: section 3 and figure 3 of the paper; the cursor, which is at the oldest word
        when the cache is full for the first time, is there again after every `capacity` steps.

    Raises:
        TreeKVError: no words, a capacity below 2, a seed below 0, or scores that are not one finite number a word.
    """
    words = tuple(words.split() if isinstance(words, str) else words)
    if not words:
        raise TreeKVError("there are no words to read; give a sentence")
    for name, value, least in (("capacity", capacity, 2), ("seed", seed, 0)):
        if not isinstance(value, (int, np.integer)) or value < least:
            raise TreeKVError(f"{name} must be a whole number of at least {least}, got {value!r}")
    given = None if scores is None else _checked(scores, len(words))
    logits = torch.tensor(toy_attention(len(words), seed))
    # Constant scores are compared by their order alone. Their places in it are small whole numbers, whose sums and
    # quotients are exact, so that equal scores stay equal.
    order = None if given is None else torch.tensor(np.unique(given, return_inverse=True)[1], dtype=torch.float32)
    config = TreeKVConfig(cache_size=capacity, sink_size=0, recent_size=0, prefill="stream", block_size=1, trace=True)
    ledger, row = Ledger(config, rows=1, heads=1), slice(0, 1)
    parent, level = [NO_WORD] * len(words), [0] * len(words)
    steps = []
    for new in range(len(words)):
        cursor = ledger.cursor[0]
        plan = ledger.plan_slots(row, 1, distance=False)
        position = ledger.position[0, 0, : plan.used].clone()
        position.scatter_(0, plan.slots[0, 0], new)
        observed = logits[new, position].softmax(0).float() if order is None else order[position]
        ledger.step(row, plan, observed[None, None])
        # The slot of an evicted word still has its sum.
        averages = (ledger.sums / ledger.counts(row))[0, 0, : plan.used]
        ranks = position.argsort()
        held = position[ranks].tolist()
        importances = averages[ranks].tolist() if given is None else [given[word] for word in held]
        compared = loser = None
        assert ledger.trace is not None
        gone = (ledger.trace.evicted_at[0, 0] == new).nonzero().flatten().tolist()
        if gone:
            loser = gone[0]
            parent[loser] = int(ledger.trace.survivor[0, 0, loser])
            compared = min(loser, parent[loser]), max(loser, parent[loser])
            level[loser] = level[parent[loser]] = 1 + max(level[loser], level[parent[loser]])
        so_far = slice(0, new + 1)
        steps.append(
            Step(
                words[so_far],
                tuple(held),
                tuple(importances),
                cursor,
                compared,
                loser,
                tuple(parent[so_far]),
                tuple(level[so_far]),
            )
        )
    return tuple(steps)


def toy_attention(words: int, seed: int) -> np.ndarray:
    """Attention logits, float64 [words, words]: row t has those of word t towards the words before it and itself.

    Each word draws how much it is looked at, and each later word looks at it a little more or less; both are normal
    with standard deviation 1/2. Softmax over the cached words makes weights of them. A longer sentence begins with the
    same rows.
    """
    draw = np.random.RandomState(seed)  # its stream is the same in every version of numpy
    logits, appeal = np.full((words, words), -np.inf), np.empty(words)
    for word in range(words):
        appeal[word], *more_or_less = draw.standard_normal(word + 2)
        logits[word, : word + 1] = (appeal[: word + 1] + more_or_less) / 2
    return logits


def _checked(scores: Sequence[float], words: int) -> list[float]:
    given = [float(score) for score in scores]
    if len(given) != words:
        raise TreeKVError(f"scores must have one number for each of the {words} words, got {len(given)}")
    wrong = next((score for score in given if not math.isfinite(score)), None)
    if wrong is not None:
        raise TreeKVError(f"scores must be finite numbers, got {wrong}")
    return given


def _number(value: float, digits: int = 2) -> str:
    return f"{value:g}" if round(value, digits) == value else f"{value:.{digits}f}"
