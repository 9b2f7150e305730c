"""A Llama that forgets, written out: one row, one token, one head at a time, with none of treekv's arithmetic.

Keys are kept before rotary embedding and rotated to whatever position the method wants, every time.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from tests.reference import openvino, prompts
from tests.reference.contents import Head
from tests.reference.policies import (
    ContentsRule,
    Entry,
    Eviction,
    SimilarTreeRule,
    capacity_of,
    late_delay,
    make_rule,
    select_prompt,
)
from tests.reference.positions import places
from treekv import policies


class Layer:
    """What one layer holds: a list of entries per KV head, and what happened to them. Heads of equal capacity have one
    rule; where capacities differ, each head has its own, and is the only one that it sees."""

    def __init__(self, configs, number: int) -> None:
        self.number, self.configs = number, configs
        self.heads: list[list[TokenEntry]] = [[] for _ in configs]
        self.evictions: list[list[Eviction]] = [[] for _ in configs]
        self.queries: list[list[Tensor]] = [[] for _ in configs]  # of each head all that there were, [group, dim]
        self.capacity = [capacity_of(own) if keeps_bound(own) else None for own in configs]
        self.make_rules()

    def make_rules(self) -> None:
        sets = [list(range(len(self.configs)))]
        if any(own != self.configs[0] for own in self.configs):
            sets = [[head] for head in sets[0]]
        self.rules = [
            (own, make_rule(self.configs[own[0]], self.capacity[own[0]], self.number, own))
            for own in sets
            if self.capacity[own[0]] is not None
        ]

    def grow(self, length: int) -> None:
        self.capacity = [max(most, length) for most in self.capacity]
        self.make_rules()

    def shrink(self, step: int, contents) -> None:
        """`contents(number)` of a head, for a policy that reads them."""
        for own, rule in self.rules:
            heads = [self.heads[head] for head in own]
            if isinstance(rule, (ContentsRule, SimilarTreeRule)) and len(heads[0]) > self.capacity[own[0]]:
                held = [contents(head) for head in own]
                for head, evictions in zip(own, rule.evict_down(heads, held, self.capacity[own[0]], step)):
                    self.evictions[head] += evictions
            while len(heads[0]) > self.capacity[own[0]]:
                for head, eviction in zip(own, rule.evict(heads, step)):
                    self.evictions[head] += eviction if isinstance(eviction, list) else [eviction]


class TokenEntry(Entry):
    def __init__(self, position: int, key: Tensor, value: Tensor) -> None:
        super().__init__(position)
        self.key, self.value = key, value


class ReferenceLlama:
    """Runs a transformers Llama's own weights by hand under a TreeKVConfig."""

    def __init__(self, model, config) -> None:
        self.model = model
        self.shape = model.config
        self.groups = self.shape.num_attention_heads // self.shape.num_key_value_heads
        self.dim = self.shape.head_dim
        self.seen = 0
        count = self.shape.num_hidden_layers
        self.configs = config.per_head(count, self.shape.num_key_value_heads)
        self.layers = [Layer(own, n) for n, own in enumerate(self.configs)]

    # -- the model's arithmetic

    def rotate(self, x: Tensor, positions: list[int]) -> Tensor:
        """`x` [n, dim], each row to its position."""
        half = self.dim // 2
        frequencies = self.shape.rope_parameters["rope_theta"] ** (-2 * torch.arange(half) / self.dim)
        angle = torch.tensor(positions)[:, None] * frequencies
        first, second = x[:, :half], x[:, half:]
        return torch.cat(
            [first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], dim=1
        )

    def run(self, tokens: list[int], attend) -> Tensor:
        """Logits [tokens, vocabulary]; `attend(layer, queries, keys, values)` on [tokens, heads, dim] before
        rotary embedding returns [tokens, query heads, dim]."""
        base = self.model.model
        hidden = base.embed_tokens(torch.tensor(tokens))
        for number, layer in enumerate(base.layers):
            x = layer.input_layernorm(hidden)
            count = len(tokens)
            attention = layer.self_attn
            queries = attention.q_proj(x).view(count, -1, self.dim)
            keys = attention.k_proj(x).view(count, -1, self.dim)
            values = attention.v_proj(x).view(count, -1, self.dim)
            out = attend(number, queries, keys, values)
            hidden = hidden + attention.o_proj(out.reshape(count, -1))
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return self.model.lm_head(base.norm(hidden))

    def weights(self, query: Tensor, position: int, keys: list[Tensor], positions: list[int]) -> Tensor:
        turned = self.rotate(torch.stack(keys), positions)
        return (turned @ self.rotate(query[None], [position])[0] / self.dim**0.5).softmax(0)

    def contents(self, number: int, h: int) -> Head:
        """What a head holds: keys rotated to their true positions where these are kept. The last queries and all keys
        are seen where a block of these queries would see them, or at their true positions in a prompt."""
        layer, config = self.layers[number], self.configs[number][h]
        entries = layer.heads[h]
        true = [entry.position for entry in entries]
        keys = torch.stack([entry.key for entry in entries])
        m = policies.get(config.policy).last_queries(config)
        at = true if self.seen == 0 else places(true, true[-m] if m else true[-1], config.positions or "rank")
        turned = self.rotate(keys, at)
        logits = [
            [turned @ self.rotate(query[None], [at[len(at) - m + i]])[0] / self.dim**0.5 for query in queries]
            for i, queries in enumerate(layer.queries[h][-m:] if m else [])
        ]
        by_group = torch.stack([torch.stack(each) for each in logits], 1).double().numpy() if m else None
        pairs = keys.unflatten(1, (2, -1)).transpose(1, 2).flatten(1)  # what is rotated together stands side by side
        stored = self.rotate(keys, true) if config.positions == "original" else pairs
        values = torch.stack([entry.value for entry in entries])
        return Head(stored.double().numpy(), values.double().numpy(), by_group)

    # -- the stages

    def feed(self, tokens: list[int]) -> Tensor:
        """The next call with these tokens: a prompt if it is the first, else blocks of the decoding rule."""
        config = self.configs[0][0]
        if self.seen == 0 and config.prefill != "stream":
            return self.prompt(tokens)
        size = config.block_size
        return torch.cat([self.block(tokens[i : i + size]) for i in range(0, len(tokens), size)])

    def prompt(self, tokens: list[int]) -> Tensor:
        length = len(tokens)

        def attend(number: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            layer, config = self.layers[number], self.configs[number][0]
            window = length if policies.get(config.policy).observes_whole_prompt else min(config.window_size, length)
            out = torch.empty(length, self.shape.num_attention_heads, self.dim)
            for h in range(len(layer.heads)):
                entries = layer.heads[h] = [TokenEntry(p, keys[p, h], values[p, h]) for p in range(length)]
                for t in range(length):
                    group = []
                    for g in range(self.groups):
                        q = queries[t, h * self.groups + g]
                        w = self.weights(q, t, [e.key for e in entries[: t + 1]], list(range(t + 1)))
                        out[t, h * self.groups + g] = w @ values[: t + 1, h]
                        group.append(w)
                    own = self.configs[number][h]
                    layer.queries[h].append(queries[t, h * self.groups : (h + 1) * self.groups])
                    self.observe(own, entries[: t + 1], torch.stack(group).mean(0), t >= length - window, False)
                if config.prompt_score == "future":
                    self.look_ahead(
                        self.configs[number][h], entries, queries[:, h * self.groups : (h + 1) * self.groups]
                    )
                if config.policy == "expected" and length > config.cache_size:
                    own = queries[:, h * self.groups : (h + 1) * self.groups].transpose(0, 1)
                    turned = self.rotate(keys[:, h], list(range(length)))
                    seen = [each.double().numpy() for each in (own, turned, values[:, h])]
                    for entry, future in zip(entries, prompts.expected_weights(*seen, config.sink_size)):
                        entry.future = future
            openvino.observe(layer.heads, together=True)
            selected: dict[int, list[int]] = {}
            if config.policy not in ("full", "openvino") and config.prefill == "once":
                for own in self.configs[number]:  # what this head's settings choose for it, among all heads
                    reads = policies.of(config).reads_contents
                    reads = reads and length > own.cache_size
                    held = [self.contents(number, h) for h in range(len(layer.heads))] if reads else None
                    chosen = select_prompt(own, list(layer.heads), number, len(self.layers), held)
                    kept_by_head = [kept if other == own else None for kept, other in zip(chosen, self.configs[number])]
                    selected.update({h: kept for h, kept in enumerate(kept_by_head) if kept is not None})
                for h, kept in selected.items():
                    layer.heads[h] = [layer.heads[h][p] for p in kept]
            return out

        logits = self.run(tokens, attend)
        for layer in self.layers:
            if layer.configs[0].prefill == "none" and keeps_bound(layer.configs[0]):
                layer.grow(length)
        self.seen = length
        return logits

    def block(self, tokens: list[int]) -> Tensor:
        def attend(number: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            layer, config = self.layers[number], self.configs[number][0]
            rule = "original" if config.policy == "full" else config.positions or "rank"
            out = torch.empty(len(tokens), self.shape.num_attention_heads, self.dim)
            for h, entries in enumerate(layer.heads):
                for i in range(len(tokens)):
                    entries.append(TokenEntry(self.seen + i, keys[i, h], values[i, h]))
                    at = places([e.position for e in entries], self.seen, rule)
                    group = []
                    for g in range(self.groups):
                        q = queries[i, h * self.groups + g]
                        w = self.weights(q, at[-1], [e.key for e in entries], at)
                        out[i, h * self.groups + g] = w @ torch.stack([e.value for e in entries])
                        group.append(w)
                    layer.queries[h].append(queries[i, h * self.groups : (h + 1) * self.groups])
                    self.observe(self.configs[number][h], entries, torch.stack(group).mean(0), True)
            openvino.observe(layer.heads, together=False)
            layer.shrink(self.seen + len(tokens) - 1, functools.partial(self.contents, number))
            return out

        logits = self.run(tokens, attend)
        self.seen += len(tokens)
        return logits

    def observe(self, config, entries: list, weights: Tensor, counts: bool, decays: bool = True) -> None:
        decay = 0.01 ** (1 / config.recent_size) if config.policy == "cascade" and decays else 1.0
        for entry, weight in zip(entries, weights.tolist()):
            if config.importance == "contribution":
                weight *= entry.value.norm().item()
            if counts and config.policy == "openvino":
                entry.given[entries[-1].position] = weight
                entry.count += 1
            elif counts:
                entry.see(weight, entries[-1].position, late_delay(config), decay)

    def look_ahead(self, config, entries: list, queries: Tensor) -> None:
        """Every 8th query, or more of them, from a place after the prompt, sees all of its tokens; `queries` [tokens,
        group, dim]."""
        length, keys = len(entries), [entry.key for entry in entries]
        for i in range(0, length, prompts.distance(config, length)):
            there = prompts.place(i, length, config.future_window, config.seed)
            for query in queries[i]:
                for entry, weight in zip(entries, self.weights(query, there, keys, list(range(length))).tolist()):
                    norm = entry.value.norm().item() if config.importance == "contribution" else 1.0
                    entry.future += (weight**2 if config.future_reduction == "energy" else weight) * norm

    def kept(self, layer: int) -> list[list[int]]:
        return [[entry.position for entry in entries] for entries in self.layers[layer].heads]


def keeps_bound(config) -> bool:
    """Whether the capacity holds while decoding."""
    return policies.get(config.policy).evicts_decoding and config.after_prompt == "evict"
