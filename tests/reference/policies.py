"""The eviction rules as their papers tell them, on Python lists, one token at a time.

A rule evicts one entry from each head of a layer: `evict(heads, step)`, where `heads` is a list with one list of
entries per KV head, oldest first, all equally long.
"""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np

from tests.policies_table import TABLE
from tests.reference import contents, openvino, prompts
from tests.reference.contents import Moment, losers
from tests.reference.draws import splitmix
from tests.reference.entries import Entry, Eviction
from tests.reference.ladders import CascadeRule, LaCacheRule, as_if_decoded
from tests.reference.sharing import shared
from treekv import policies
from treekv.policies import AVERAGE, DRAW, LAST, SUM


def late_delay(config) -> int:
    """Importance "late": only queries at least this many tokens later count."""
    return min(32, config.recent_size // 2) if config.importance == "late" else 0


def frozen(evicted: int, height: int, ranks: int) -> tuple[int, int]:
    """How many ranks a sweep over `ranks` leaves alone after so many evictions, and one in 2 to the power of what is
    left there."""
    counted, level = max(evicted - (height - 1) * ranks, 0), height
    while counted // 2**level > ranks // 2:
        level += 1
    return counted // 2**level, level


class TreeRule:
    """Section 2: compare `scope` neighbours at the cursor (the paper: two), evict one, advance."""

    def __init__(self, capacity, sink, recent, stride=1, scope=2, left=False, height=None, clipped=False) -> None:
        self.sink, self.recent, self.stride, self.scope, self.left = sink, recent, stride, scope, left
        self.height = height
        # With two neighbours the cursor runs over the whole region; with more it stops where the last fit, or runs on
        # and fewer compete.
        self.ranks = capacity - sink - recent - (0 if clipped else scope - 2)
        self.cursor = 0

    def evict(self, heads: list[list], step: int) -> list[Eviction]:
        if self.height and self.cursor == 0:
            evicted = step + 1 - len(heads[0])
            count, level = frozen(evicted, self.height, self.ranks)
            if frozen(evicted + self.ranks, self.height, self.ranks)[1] == level:
                self.cursor = count
        evictions = [self.evict_from(entries, step) for entries in heads]
        self.cursor = (self.cursor + self.stride) % self.ranks
        return evictions

    def evict_from(self, entries: list, step: int) -> Eviction:
        first = self.sink + self.cursor
        ranks = list(range(first, min(first + self.scope, len(entries) - self.recent)))
        loser = first
        if not self.left:
            for rank in ranks:
                if entries[rank].average < entries[loser].average:
                    loser = rank
        winner = None
        for rank in ranks:
            if rank != loser and (winner is None or entries[rank].average >= entries[winner].average):
                winner = rank
        eviction = Eviction(entries[loser].position, entries[winner].position, step)
        del entries[loser]
        return eviction


class SimilarTreeRule(TreeRule):
    """The same tree, comparing how far each token's key is from those of its neighbours."""

    def evict_down(self, heads: list[list], contents: list[contents.Head], capacity: int, step: int) -> list[list]:
        """Evictions of each head; `contents` of its entries."""
        keys = [dict(zip(entries, held.keys)) for entries, held in zip(heads, contents)]
        evictions: list[list[Eviction]] = [[] for _ in heads]
        while len(heads[0]) > capacity:
            for entries, own in zip(heads, keys):
                for entry, detail in zip(entries, details([own[entry] for entry in entries])):
                    entry.total, entry.count = detail, 1
            for past, eviction in zip(evictions, self.evict(heads, step)):
                past.append(eviction)
        return evictions


def details(keys: list) -> list[float]:
    """Of each key, the mean length of its Haar details with the key before and the one after; one that lacks a
    neighbour has the other twice."""
    lengths = [float(np.linalg.norm((a - b) / np.sqrt(2))) for a, b in itertools.pairwise(keys)]
    return [(before + after) / 2 for before, after in zip(lengths[:1] + lengths, lengths + lengths[-1:])]


class StreamingRule:
    """StreamingLLM: the first `sink` tokens and the last ones."""

    def __init__(self, sink: int) -> None:
        self.sink = sink

    def evict(self, heads: list[list], step: int) -> list[Eviction]:
        return [Eviction(entries.pop(self.sink).position, None, step) for entries in heads]


class H2ORule:
    """The lowest sum of weights among those that are not protected; the older of equals."""

    def __init__(self, sink: int, recent: int) -> None:
        self.sink, self.recent = sink, recent

    def evict(self, heads: list[list], step: int) -> list[Eviction]:
        evictions = []
        for entries in heads:
            candidates = range(self.sink, len(entries) - self.recent)
            loser = min(candidates, key=lambda rank: (entries[rank].total, rank))
            evictions.append(Eviction(entries.pop(loser).position, None, step))
        return evictions


class TOVARule:
    """The lowest weight of the last query, averaged over all heads; every head drops the same token."""

    def __init__(self, sink: int, recent: int) -> None:
        self.sink, self.recent = sink, recent

    def evict(self, heads: list[list], step: int) -> list[Eviction]:
        candidates = range(self.sink, len(heads[0]) - self.recent)
        loser = min(candidates, key=lambda rank: (sum(entries[rank].last for entries in heads), rank))
        return [Eviction(entries.pop(loser).position, None, step) for entries in heads]


class RandomRule:
    """Any token that is not protected, by a hash of seed, layer, head, number held and step."""

    def __init__(self, sink: int, recent: int, seed: int, layer: int, numbers=None) -> None:
        self.sink, self.recent, self.seed, self.layer, self.numbers = sink, recent, seed, layer, numbers

    def evict(self, heads: list[list], step: int) -> list[Eviction]:
        evictions = []
        for h, entries in enumerate(heads):
            candidates = len(entries) - self.sink - self.recent
            draw = splitmix(self.seed, self.layer, h if self.numbers is None else self.numbers[h], len(entries), step)
            evictions.append(Eviction(entries.pop(self.sink + draw % candidates).position, None, step))
        return evictions


class ContestRule:
    """A `treekv.Contest` as its docstring says it: compete, evict one, move the cursor."""

    def __init__(self, contest, layer: int = 0, numbers=None) -> None:
        self.contest, self.layer, self.numbers, self.cursor = contest, layer, numbers, 0

    def evict(self, heads: list[list], step: int) -> list[Eviction]:
        contest, held = self.contest, len(heads[0])
        if contest.height and self.cursor == 0:
            evicted = step + 1 - held
            count, level = frozen(evicted, contest.height, contest.wrap)
            if frozen(evicted + contest.wrap, contest.height, contest.wrap)[1] == level:
                self.cursor = count
        competing = list(range(contest.first + self.cursor, held - contest.recent))
        if contest.width:
            competing = competing[: contest.width]
        pairs = []
        for h in range(len(heads)):
            judged = range(len(heads)) if contest.heads_together else [h]
            scores = {rank: sum((self.score(heads[j][rank]) for j in judged), np.float32(0)) for rank in competing}
            loser = min(competing, key=lambda rank: (scores[rank], rank))
            if contest.by == DRAW:
                number = h if self.numbers is None else self.numbers[h]
                hashed = splitmix(contest.seed, self.layer, 0 if contest.heads_together else number, held, step)
                loser = competing[hashed % len(competing)]
            others = [rank for rank in competing if rank != loser]
            pairs.append((loser, max(others, key=lambda rank: (scores[rank], rank)) if contest.absorbs else None))
        self.cursor = (self.cursor + contest.stride) % contest.wrap
        evictions = []
        for entries, (loser, survivor) in zip(heads, pairs):
            evictions.append(
                Eviction(entries[loser].position, None if survivor is None else entries[survivor].position, step)
            )
            del entries[loser]
        return evictions

    def score(self, entry: Entry) -> np.float32:
        """In float32, so that sums over heads round as they do in the cache."""
        if self.contest.by == AVERAGE:
            return np.float32(entry.total) / np.float32(entry.count) if entry.count else np.float32(np.inf)
        return np.float32({SUM: entry.total, LAST: entry.last}.get(self.contest.by, 0))


class OpenVINORule:
    """Whole blocks at once, the same of all heads."""

    def __init__(self, config, capacity: int) -> None:
        self.config, self.capacity = config, capacity

    def evict(self, heads: list[list], step: int) -> list[list[Eviction]]:
        ranks = openvino.ranks_to_evict(self.config, heads[0], self.capacity)
        evictions = [[Eviction(entries[rank].position, None, step) for rank in ranks] for entries in heads]
        for entries in heads:
            for rank in reversed(ranks):
                del entries[rank]
        return evictions


class ContentsRule:
    """Several at once, by keys and values: when the cache is full, down to what `interval` - 1 more tokens fill."""

    def __init__(self, config, layer: int, numbers=None) -> None:
        self.config, self.layer, self.numbers = config, layer, numbers

    def evict_down(self, heads: list[list], contents: list[contents.Head], capacity: int, step: int) -> list[list]:
        """Evictions of each head; `contents` of its entries."""
        count = len(heads[0]) - (capacity + 1 - self.config.interval)
        evictions = []
        for h, (entries, held) in enumerate(zip(heads, contents)):
            number = h if self.numbers is None else self.numbers[h]
            now = Moment(len(entries) - count, step, self.layer, number)
            ranks = losers(self.config, TABLE[self.config.policy].importance(self.config, held, now), count)
            evictions.append([Eviction(entries[rank].position, None, step) for rank in ranks])
            for rank in reversed(ranks):
                del entries[rank]
        return evictions


def capacity_of(config) -> int:
    """The most tokens that are held."""
    if config.policy == "cascade":
        return config.sink_size + (config.cache_size - config.sink_size) // config.recent_size * config.recent_size
    return openvino.capacity(config) if config.policy == "openvino" else config.cache_size


def usual_sizes(policy: str, variant: str, cache_size: int) -> tuple[int, int]:
    """Sinks and recent tokens of a method that evicts while decoding, as its paper or the one that compares it says."""
    half = cache_size // 2
    return {
        ("tree", "published"): (4, half - 4),
        ("streaming", "published"): (4, cache_size - 4),
        ("h2o", "published"): (0, half),  # half recent, half heavy
        ("h2o", "paper"): (4, half - 4),  # the TreeKV paper: 1,024 = 4 initial + 508 recent + 512 chosen
        ("tova", "published"): (0, 0),  # the whole cache competes
        ("tova", "paper"): (4, half - 4),
        ("keydiff", "paper"): (4, half - 4),
    }[policy, variant]


def make_rule(config, capacity: int | None = None, layer: int = 0, numbers=None):
    """The rule for a TreeKVConfig, literally from its paper where one is written above, else its contest; `capacity`
    where it is not the cache size, `numbers` of the heads that it sees where those are not all."""
    capacity = capacity or config.cache_size
    sink, recent = config.sink_size, config.recent_size
    if config.policy in ("tree", "tree_left"):
        left, clipped = config.policy == "tree_left", config.scope_end == "clipped"
        kind = SimilarTreeRule if config.importance == "similarity" else TreeRule
        return kind(capacity, sink, recent, config.stride, config.scope, left, config.max_height, clipped)
    if config.policy == "streaming":
        return StreamingRule(sink)
    if config.policy == "h2o":
        return H2ORule(sink, recent)
    if config.policy == "tova":
        return TOVARule(sink, recent)
    if config.policy == "random":
        return RandomRule(sink, recent, config.seed, layer, numbers)
    if policies.get(config.policy).reads_contents:
        return ContentsRule(config, layer, numbers)
    if config.policy == "openvino":
        return OpenVINORule(config, capacity)
    if config.policy == "lacache":
        return LaCacheRule(config, capacity, layer)
    if config.policy == "cascade":
        return CascadeRule(config, capacity_of(config) if capacity == config.cache_size else capacity)
    return ContestRule(policies.get(config.policy).contest(config, capacity), layer, numbers)


def select_prompt(config, heads: list[list[Entry]], layer: int = 0, layers: int = 1, held=None) -> list[list[int]]:
    """Section 4 and the baselines: which positions of a prompt stay in each head of a layer; `held` are the contents of
    the heads, for a policy that reads them."""
    length, size = len(heads[0]), config.block_size
    if length <= capacity_of(config):
        return [list(range(length)) for _ in heads]
    sinks = list(range(config.sink_size))
    recents = list(range(length - config.recent_size, length))
    middle = range(config.sink_size, length - config.recent_size)

    def top(score, count: int, candidates) -> list[int]:
        """The highest scores; of equals the newer."""
        return sorted(sorted(candidates, key=lambda p: (score(p), p))[len(candidates) - count :])

    if config.policy == "streaming":
        return [sinks + recents for _ in heads]
    if config.share_heads and config.policy in ("h2o", "tree", "expected"):
        what = "total" if config.policy == "h2o" else "future"
        counts = shared([[getattr(entries[p], what) for p in middle] for entries in heads], config.region_size)
        kept = []
        for count, entries in zip(counts, heads):
            own = SimpleNamespace(**vars(config), region_size=count)
            own.share_heads, own.cache_size = False, config.cache_size - config.region_size + count
            kept.append(select_prompt(own, [entries], layer, layers)[0])
        return kept
    if config.policy == "h2o":
        return [sinks + top(lambda p, e=e: e[p].total, config.region_size, middle) + recents for e in heads]
    if config.policy == "tova":
        common = top(lambda p: sum(e[p].last for e in heads), config.region_size, middle)
        return [sinks + common + recents for _ in heads]
    if config.policy == "random":
        draws = [lambda p, h=h: splitmix(config.seed, layer, h, length, p) for h in range(len(heads))]
        return [sinks + top(draw, config.region_size, middle) + recents for draw in draws]
    if config.policy in ("snapkv", "pyramidkv"):
        prefix = length - config.window_size
        budget = config.cache_size - config.window_size
        if config.policy == "pyramidkv" and layers > 1:
            least = budget // 20
            most = 2 * budget - least
            budget = most - layer * ((most - least) // (layers - 1))
        window = list(range(prefix, length))
        totals = [[entry.total for entry in entries[:prefix]] for entries in heads]
        smoothed = [pooled(own, config.kernel_size, config.pooling) for own in totals]
        counts = [min(budget, prefix)] * len(heads)
        if config.share_heads:
            counts = shared(smoothed, counts[0])
        return [top(own.__getitem__, count, range(prefix)) + window for own, count in zip(smoothed, counts)]

    if config.policy == "tree" and config.prompt_score == "future":
        window = [[entries[p].total for p in middle] for entries in heads]
        smoothed = [pooled(weights, config.kernel_size, config.pooling) for weights in window]
        return [prompts.choose(config, f, [e.future for e in entries])[0] for f, entries in zip(smoothed, heads)]

    if policies.get(config.policy).reads_contents:
        kept = []
        for h, head in enumerate(held):
            now = Moment(config.cache_size, length - 1, layer, h)
            importance = TABLE[config.policy].importance(config, head, now)
            gone = losers(config, importance, length - config.cache_size)
            kept.append([p for p in range(length) if p not in gone])
        return kept

    if config.policy in ("cascade", "lacache"):
        return as_if_decoded(config, capacity_of(config), heads, layer)

    if config.policy in TABLE and TABLE[config.policy].keeps:
        return TABLE[config.policy].keeps(config, heads)

    blocks = [list(range(first, min(first + size, length))) for first in range(0, length, size)]
    rule = TreeRule(
        config.cache_size // size,
        -(-config.sink_size // size),
        sum(1 for block in blocks if block[-1] >= length - config.recent_size),  # any recent token in it
        config.stride,
        config.scope,
        left=config.policy == "tree_left",
        height=config.max_height,
        clipped=config.scope_end == "clipped",
    )
    averages = [[entry.average for entry in entries] for entries in heads]
    if config.importance == "similarity":
        averages = [details(list(head.keys)) for head in held]
    cache: list[list[Entry]] = [[] for _ in heads]
    for number, block in enumerate(blocks):
        for average, kept_blocks in zip(averages, cache):
            mean = sum(average[p] for p in block) / len(block)
            if len(block) < size:
                mean = float("inf")  # a short last block is never evicted
            kept_blocks.append(Entry(number, mean, 1))
        if number >= config.cache_size // size:
            rule.evict(cache, number)
    return [[p for entry in kept_blocks for p in blocks[entry.position]] for kept_blocks in cache]


def pooled(scores: list[float], kernel: int, kind: str) -> list[float]:
    """Average (padding counts as zero) or maximum over `kernel` neighbours, or average over those before."""
    if kind == "forward":
        return prompts.pooled_forward(scores, kernel)
    half = kernel // 2
    result = []
    for i in range(len(scores)):
        near = scores[max(i - half, 0) : i + half + 1]
        result.append(sum(near) / kernel if kind == "average" else max(near))
    return result
