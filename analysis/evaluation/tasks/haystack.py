"""Haystacks: long texts, and sentences hidden in them at given depths within a number of tokens."""

from __future__ import annotations

import functools
import itertools
import random
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from analysis.evaluation.tasks import texts
from analysis.evaluation.tasks.tokens import count_tokens
from treekv.errors import TreeKVError
from treekv.files import read_text

NOISE: Final = "noise"
PYDOC: Final = "pydoc"
_FILLER: Final = (
    "Rain fell on the hill all day.",
    "The river runs past the old mill.",
    "Somebody closed a window upstairs.",
    "The bread is still warm.",
    "Nothing else happened that evening.",
)
_LONGEST: Final = 60  # words; longer sentences are split, so that depths are met
_ADJECTIVES: Final = (
    "amber ancient bitter blue brave brief broken calm careful clever cold crooked curious dark distant dusty eager "
    "early empty faint famous fierce flat gentle golden green grey happy heavy hidden hollow humble icy idle jolly "
    "kind late lazy little lonely loud lucky mellow narrow noisy odd old pale patient plain polite proud quick quiet "
    "rapid red restless rough round rusty salty sharp silky shy silent silver simple sleepy slow small smooth soft "
    "spare steep strange sunny sweet tall tame thin tidy tiny warm weary wild wise wooden yellow young"
)
_NOUNS: Final = (
    "acorn anchor apple apron arrow badger barrel basket beacon bell bottle branch bridge bucket button cabin candle "
    "canoe carpet castle cellar chimney clock coat compass copper corner cottage cradle curtain desk diary doctor drum "
    "eagle engine falcon farmer feather fiddle forest fountain garden gate glove hammer harbor harvest hedge helmet "
    "horse island jacket jewel kettle kitchen ladder lantern letter lizard market meadow mirror needle orchard oven "
    "paddle palace pencil pepper pillow planet pocket puzzle rabbit ribbon robin saddle sailor school shovel spoon "
    "stable statue stone sugar tailor temple thread ticket tower tunnel turtle valley violin wagon whistle window"
)


def sentences(source: str) -> list[str]:
    """The sentences of a haystack.

    Args:
        source: "noise", five short sentences repeated; "pydoc", the reference text that ships with Python; or a text
            file, a folder of text files or a pattern.

    Raises:
        TreeKVError: no such file, or no text in it.
    """
    return list(_sentences(source))


@functools.lru_cache(maxsize=8)
def _sentences(source: str) -> tuple[str, ...]:
    if source == NOISE:
        return _FILLER
    if source == PYDOC:
        from pydoc_data.topics import topics

        text = "\n\n".join(topics[name] for name in sorted(topics))
    else:
        text = "\n\n".join(read_text(file) for file in texts.find([source], [".txt", ".md"]))
    found = sentences_of(text)
    if not found:
        raise TreeKVError(f"the haystack {source!r} has no text")
    return tuple(found)


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, none longer than 60 words."""
    found = []
    for sentence in re.split(r"(?<=[.!?])[\"')\]_*]*\s+|\n\s*\n", text):
        words = sentence.split()
        found += [" ".join(words[at : at + _LONGEST]) for at in range(0, len(words), _LONGEST)]
    return found


def words(source: str) -> list[str]:
    """The distinct lower-case words of four to nine letters in a haystack, sorted."""
    text = " ".join(_sentences(source))
    return sorted(set(re.findall(r"(?<![\w'-])[a-z]{4,9}(?![\w'-])", text)))


def draw_names(draw: random.Random, number: int) -> list[str]:
    """Draw distinct names of things, each an adjective and a noun.

    Raises:
        TreeKVError: there are not that many.
    """
    adjectives, nouns = _ADJECTIVES.split(), _NOUNS.split()
    most = len(adjectives) * len(nouns)
    if number > most:
        raise TreeKVError(f"there are only {most} names for hidden things, {number} are needed")
    return [f"{adjectives[pick // len(nouns)]} {nouns[pick % len(nouns)]}" for pick in draw.sample(range(most), number)]


def draw_numbers(draw: random.Random, number: int, digits: int) -> list[str]:
    """Draw distinct numbers of `digits` digits without leading zeros; random UUIDs if `digits` is 0.

    Raises:
        TreeKVError: there are not that many.
    """
    if digits == 0:
        return [str(uuid.UUID(int=draw.getrandbits(128), version=4)) for _ in range(number)]
    least = 10 ** (digits - 1)
    if number > 9 * least:
        raise TreeKVError(f"there are only {9 * least} numbers of {digits} digits, {number} are needed")
    return [str(value) for value in draw.sample(range(least, 10 * least), number)]


@dataclass(frozen=True)
class Hidden:
    """A haystack with hidden sentences.

    Attributes:
        text: the whole text.
        starts: the index of the first character of each hidden sentence.
    """

    text: str
    starts: list[int]


def hide(
    tokenizer: Any,
    hay: Sequence[str],
    things: Sequence[str],
    depths: Sequence[float],
    room: int,
    lead: str = "",
    joint: str = " ",
) -> Hidden:
    """Hide sentences in the longest haystack that fits; its last sentence is truncated between words.

    Args:
        tokenizer: counts tokens.
        hay: sentences, repeated from the start if there are too few.
        things: sentences to hide.
        depths: for each of them the share of the haystack's tokens before it, in per cent, rounded to the nearest
            start of a sentence.
        room: the most tokens of the whole, lead included.
        lead: text directly before the haystack.
        joint: text between sentences.

    Raises:
        TreeKVError: there is no room for the hidden sentences and one more word.
    """
    own = count_tokens(tokenizer, lead) + sum(count_tokens(tokenizer, joint + thing) for thing in things)
    used: list[str] = []
    costs: list[int] = []
    while own + sum(costs) < room:
        if len(used) < len(hay):
            costs.append(max(count_tokens(tokenizer, joint + hay[len(used)]), 1))
        else:
            costs.append(costs[len(used) % len(hay)])
        used.append(hay[len(used) % len(hay)])
    while used:
        hidden = _interleave(used, costs, things, depths, joint)
        over = count_tokens(tokenizer, lead + hidden.text) - room
        if over <= 0:
            return hidden
        words = used[-1].split()
        kept = min(
            int(len(words) * (1 - over / costs[-1])), len(words) - 1
        )  # token counts of parts do not add up exactly
        if kept > 0:
            used[-1] = " ".join(words[:kept])
            costs[-1] = count_tokens(tokenizer, joint + used[-1])
        else:
            used.pop()
            costs.pop()
    raise TreeKVError(
        f"the hidden sentences and what leads to them take {own} tokens, which leaves no room for a haystack in "
        f"{room}: choose a greater length or hide less"
    )


def _interleave(hay: list[str], costs: list[int], things: Sequence[str], depths: Sequence[float], joint: str) -> Hidden:
    before = [0, *itertools.accumulate(costs)]
    places = [
        min(range(len(before)), key=lambda index: abs(before[index] - depth / 100 * before[-1])) for depth in depths
    ]
    parts: list[str] = []
    starts = [0] * len(things)
    length = 0

    def put(part: str) -> int:
        nonlocal length
        start = length + (len(joint) if parts else 0)
        parts.append(part)
        length = start + len(part)
        return start

    for place in range(len(hay) + 1):
        for thing, where in enumerate(places):
            if where == place:
                starts[thing] = put(things[thing])
        if place < len(hay):
            put(hay[place])
    return Hidden(joint.join(parts), starts)


def rotate(hay: Sequence[str], draw: random.Random) -> list[str]:
    """The haystack rotated to start at a random sentence, so that documents differ."""
    first = draw.randrange(len(hay))
    return [*hay[first:], *hay[:first]]
