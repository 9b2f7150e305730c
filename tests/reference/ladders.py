"""Rules without a choice among all: buffers behind one another, and a ladder over the layers, on lists."""

from __future__ import annotations

from tests.reference.entries import Entry, Eviction


class CascadeRule:
    """Buffers behind one another; a token that a full one drops falls into the next, which takes it or compares it."""

    def __init__(self, config, capacity: int) -> None:
        self.sink, self.size, self.capacity = config.sink_size, config.recent_size, capacity
        self.buffers = (capacity - config.sink_size) // config.recent_size

    def evict(self, heads: list[list], step: int) -> list[Eviction]:
        # Of several that came together they are taken one after another.
        new = step - (len(heads[0]) - self.capacity - 1)
        return [Eviction(self.insert(entries, new).position, None, step) for entries in heads]

    def insert(self, entries: list, new: int) -> Entry:
        """Cascade the token at position `new`, which is entry number `capacity`; returns what goes."""
        sinks, later = entries[: self.sink], entries[self.capacity + 1 :]
        firsts = [self.sink + i * self.size for i in range(self.buffers)]
        buffers = [entries[first:last] for first, last in zip(firsts, [*firsts[1:], self.capacity])]
        buffers.reverse()  # the newest first, in each the oldest token first
        falling = entries[self.capacity]
        for i, buffer in enumerate(buffers):
            if new <= self.capacity or (new - self.sink) % 2**i == 0:
                buffer.append(falling)
                falling = buffer.pop(0)
                continue
            if falling.total >= buffer[-1].total:
                falling, buffer[-1] = buffer[-1], falling
            break
        entries[:] = sinks + [entry for buffer in reversed(buffers) for entry in buffer] + later
        return falling


class LaCacheRule:
    """Of `interval` + 1 neighbours at the cursor each layer keeps one, the next layer the next one."""

    def __init__(self, config, capacity: int, layer: int) -> None:
        self.sink, self.width, self.layer, self.cursor = config.sink_size, config.interval + 1, layer, 0
        self.first_protected = capacity + 1 - config.recent_size  # when one token too many is held

    def evict(self, heads: list[list], step: int) -> list[list[Eviction]]:
        first = self.sink + self.cursor
        gone = [first + i for i in range(self.width) if i != self.layer % self.width]
        evictions = [[Eviction(entries[rank].position, None, step) for rank in gone] for entries in heads]
        for entries in heads:
            for rank in reversed(gone):
                del entries[rank]
        self.cursor += 1
        if self.sink + self.cursor + self.width > self.first_protected:
            self.cursor = 0
        return evictions


def as_if_decoded(config, capacity: int, heads: list[list], layer: int) -> list[list[int]]:
    """What is kept of a prompt whose tokens come one after another, with the scores that they have at its end."""
    rule = LaCacheRule(config, capacity, layer) if config.policy == "lacache" else CascadeRule(config, capacity)
    read: list[list] = [[] for _ in heads]
    for p in range(len(heads[0])):
        for entries, own in zip(read, heads):
            entries.append(own[p])
        if len(read[0]) > capacity:
            rule.evict(read, p)
    return [[entry.position for entry in entries] for entries in read]
