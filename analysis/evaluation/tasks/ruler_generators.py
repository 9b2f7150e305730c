"""Generators for the kinds of RULER documents: what is hidden, what is asked, and the expected answers.

Each generator draws only from the `random.Random` it is given. The tasks are those of Hsieh et al., "RULER" (arXiv
2404.06654, code at https://github.com/NVIDIA/RULER), with the published numbers of keys, hops and words as defaults
where small models can be expected to cope; the wording is our own, so scores are comparable with each other, not with
published tables. For those, read the published files.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from analysis.evaluation.tasks import haystack
from analysis.evaluation.tasks.tokens import count_tokens
from treekv.errors import TreeKVError


@dataclass(frozen=True)
class GeneratorOptions:
    """The options of a generator; see `ruler.Ruler`."""

    source: str
    keys: int
    digits: int
    hops: int
    chains: int
    common: int
    rare: int
    asked: int


@dataclass(frozen=True)
class GeneratedDocument:
    """A generated document; context, question and start together fit into the given number of tokens."""

    context: str
    question: str
    start: str
    answers: list[str]


def single(tokenizer: Any, draw: random.Random, room: int, sizes: GeneratorOptions) -> GeneratedDocument:
    """The only number of the only thing (niah_single)."""
    return _needles(tokenizer, draw, room, sizes, keys=1, values=1, asked=1)


def multikey(tokenizer: Any, draw: random.Random, room: int, sizes: GeneratorOptions) -> GeneratedDocument:
    """The number of one of `keys` things (niah_multikey)."""
    return _needles(tokenizer, draw, room, sizes, keys=sizes.keys, values=1, asked=1)


def multivalue(tokenizer: Any, draw: random.Random, room: int, sizes: GeneratorOptions) -> GeneratedDocument:
    """All `keys` numbers of one thing (niah_multivalue)."""
    return _needles(tokenizer, draw, room, sizes, keys=1, values=sizes.keys, asked=1)


def multiquery(tokenizer: Any, draw: random.Random, room: int, sizes: GeneratorOptions) -> GeneratedDocument:
    """The numbers of all of `keys` things (niah_multiquery)."""
    return _needles(tokenizer, draw, room, sizes, keys=sizes.keys, values=1, asked=sizes.keys)


def _needles(
    tokenizer: Any, draw: random.Random, room: int, sizes: GeneratorOptions, keys: int, values: int, asked: int
) -> GeneratedDocument:
    kind = "number" if sizes.digits else "code"
    names = haystack.draw_names(draw, keys)
    numbers = haystack.draw_numbers(draw, keys * values, sizes.digits)
    owners = [name for name in names for _ in range(values)]
    one = "One of the secret" if values > 1 else "The secret"
    kinds = f"{kind}s" if values > 1 else kind
    things = [f"{one} {kinds} of the {key} is {value}." for key, value in zip(owners, numbers, strict=True)]
    wanted = _listed([f"the {name}" for name in names[:asked]])
    many = values > 1 or asked > 1
    question = f"\n\nQuestion: What {'are' if many else 'is'} the secret {kind}{'s' if many else ''} of {wanted}?"
    start = f"\nAnswer: The secret {kind}{'s' if many else ''} of {wanted} {'are' if many else 'is'}"
    intro = f"The text below says the secret {kind}s of some things. Remember them.\n\n"
    depths = [draw.uniform(0, 100) for _ in things]
    context = _hide(tokenizer, draw, sizes.source, things, depths, room, intro, question + start)
    return GeneratedDocument(context, question, start, numbers[: asked * values])


def tracking(tokenizer: Any, draw: random.Random, room: int, sizes: GeneratorOptions) -> GeneratedDocument:
    """All variables that received a value, one from another over `hops` (variable tracking, vt), in `chains` chains.

    A small solved example precedes them, as in the published task.
    """
    names: set[str] = set()
    chains = [_chain(draw, sizes.hops, names) for _ in range(sizes.chains + 1)]
    example, *chains = chains
    statements: list[tuple[float, str]] = []
    for _, lines, _ in chains:  # each chain keeps its order, the chains are interleaved
        statements += zip(sorted(draw.uniform(0, 100) for _ in lines), lines, strict=True)
    statements.sort()
    question, start = _about_chain(*chains[0][::2])
    shown_question, shown_start = _about_chain(*example[::2])
    task = "Follow the variables in the text below.\n\n"
    shown = f"{task}{' '.join(example[1])}{shown_question}{shown_start} {', '.join(example[2])}.\n\n"
    context = _hide(
        tokenizer,
        draw,
        sizes.source,
        [line for _, line in statements],
        [depth for depth, _ in statements],
        room,
        shown + task,
        question + start,
    )
    return GeneratedDocument(context, question, start, chains[0][2])


def _chain(draw: random.Random, hops: int, taken: set[str]) -> tuple[str, list[str], list[str]]:
    """A value, the statements that pass it on, and the variables that then have it."""
    names: list[str] = []
    while len(names) <= hops:
        name = "".join(draw.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=3))
        if name not in taken:
            taken.add(name)
            names.append(name)
    value = str(draw.randrange(10000, 100000))
    lines = [f"VAR {names[0]} = {value}."]
    lines += [f"VAR {new} = VAR {old}." for old, new in itertools.pairwise(names)]
    return value, lines, names


def _about_chain(value: str, names: list[str]) -> tuple[str, str]:
    return (
        f"\n\nQuestion: Which variables have the value {value}?",
        f"\nAnswer: The {len(names)} variables with the value {value} are",
    )


def common_words(tokenizer: Any, draw: random.Random, room: int, sizes: GeneratorOptions) -> GeneratedDocument:
    """The `asked` words that occur `common` times in a numbered list, the others `rare` times (cwe).

    The words are those of the haystack.
    """
    known = haystack.words(sizes.source)
    if len(known) <= sizes.asked:
        raise TreeKVError(f"the haystack has {len(known)} different words, more than {sizes.asked} are needed")
    draw.shuffle(known)
    frequent, others = known[: sizes.asked], known[sizes.asked :]
    intro = "Below is a numbered list of words. Some of them are in it more often than the others.\n\n"
    question = f"\n\nQuestion: Which {sizes.asked} words are in the list most often?"
    start = f"\nAnswer: The {sizes.asked} words that are in the list most often are"

    order = draw.getrandbits(64)

    def text(number: int) -> str:
        entries = frequent * sizes.common + others[:number] * sizes.rare
        random.Random(order).shuffle(entries)
        return intro + " ".join(f"{index}. {word}" for index, word in enumerate(entries, start=1))

    space = room - count_tokens(tokenizer, question + start)
    number = _largest(lambda number: count_tokens(tokenizer, text(number)) <= space, len(others))
    if number < 1:
        raise TreeKVError(
            f"{sizes.asked} words {sizes.common} times and one more {sizes.rare} times do not fit into {space} tokens: "
            "choose a greater length or a smaller number for common or asked"
        )
    return GeneratedDocument(text(number), question, start, frequent)


def frequent_words(tokenizer: Any, draw: random.Random, room: int, sizes: GeneratorOptions) -> GeneratedDocument:
    """The three most frequent of made-up words, whose counts fall with the square of their rank (fwe).

    The most frequent "word" are dots, which the question excludes, as in the published task.
    """
    codes: list[str] = []
    while len(codes) < max(room // 50, 10):
        code = "".join(draw.choice("bdfgklmnprstvz") + draw.choice("aeiou") for _ in range(3))
        if code not in codes:
            codes.append(code)
    intro = "Below is a text in code. Some of its words are more frequent than the others.\n\n"
    question = "\n\nQuestion: Leave out the dots. Which three words of the code are the most frequent?"
    start = "\nAnswer: The three most frequent words of the code are"
    order = draw.getrandbits(64)

    def text(number: int) -> str:
        ranked = ["..." if rank == 1 else codes[rank - 2] for rank in range(1, len(codes) + 2)]
        entries = [word for rank, word in enumerate(ranked, start=1) for _ in range(int(number / rank**2))]
        random.Random(order).shuffle(entries)
        return intro + " ".join(entries)

    space = room - count_tokens(tokenizer, question + start)
    number = _largest(lambda number: count_tokens(tokenizer, text(number)) <= space, space)
    if int(number / 16) == int(number / 25):  # the third of the words and the next are equally frequent
        raise TreeKVError(f"no code with three words more frequent than the others fits into {space} tokens")
    return GeneratedDocument(text(number), question, start, codes[:3])


def _hide(
    tokenizer: Any,
    draw: random.Random,
    source: str,
    things: list[str],
    depths: list[float],
    room: int,
    intro: str,
    end: str,
) -> str:
    hay = haystack.rotate(haystack.sentences(source), draw)
    return intro + haystack.hide(tokenizer, hay, things, depths, room - count_tokens(tokenizer, end), intro).text


def _largest(fits: Callable[[int], bool], limit: int) -> int:
    """The greatest number up to `limit` that fits, 0 if none does; every number below one that fits does too."""
    low, high = 0, limit + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


#: The generator of each kind, and the most tokens of its answer.
GENERATORS: Final[dict[str, tuple[Callable[[Any, random.Random, int, GeneratorOptions], GeneratedDocument], int]]] = {
    "single": (single, 24),
    "multikey": (multikey, 24),
    "multivalue": (multivalue, 64),
    "multiquery": (multiquery, 64),
    "tracking": (tracking, 40),
    "common": (common_words, 80),
    "frequent": (frequent_words, 40),
}
