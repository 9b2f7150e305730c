"""A Llama that forgets, written out: one row, one token, one head at a time, with nothing shared with treekv.

Keys are kept before rotary embedding and rotated to whatever position the method wants, every time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tests.reference.policies import Entry, Eviction, make_rule, select_prompt


class Head:
    """What one KV head of one layer holds."""

    def __init__(self, rule) -> None:
        self.rule = rule
        self.entries: list[TokenEntry] = []
        self.evictions: list[Eviction] = []

    def shrink(self, capacity: int, step: int) -> None:
        while len(self.entries) > capacity:
            self.evictions.append(self.rule.evict_one(self.entries, step))


class TokenEntry(Entry):
    def __init__(self, position: int, key: Tensor, value: Tensor) -> None:
        super().__init__(position)
        self.key, self.value = key, value


class ReferenceLlama:
    """Runs a transformers Llama's own weights by hand under a TreeKVConfig."""

    def __init__(self, model, config) -> None:
        self.model, self.config = model, config
        self.shape = model.config
        self.groups = self.shape.num_attention_heads // self.shape.num_key_value_heads
        self.dim = self.shape.head_dim
        self.seen = 0
        self.capacity = config.cache_size
        self.heads = [
            [Head(None if config.policy == "full" else make_rule(config)) for _ in range(self.shape.num_key_value_heads)]
            for _ in range(self.shape.num_hidden_layers)
        ]

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

    # -- the stages

    def feed(self, tokens: list[int]) -> Tensor:
        """The next call with these tokens: a prompt if it is the first, else blocks of the decoding rule."""
        if self.seen == 0 and self.config.prefill != "stream":
            return self.prompt(tokens)
        size = self.config.block_size
        return torch.cat([self.block(tokens[i : i + size]) for i in range(0, len(tokens), size)])

    def prompt(self, tokens: list[int]) -> Tensor:
        length = len(tokens)
        window = min(self.config.window_size, length)

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            out = torch.empty(length, self.shape.num_attention_heads, self.dim)
            for h, head in enumerate(self.heads[layer]):
                head.entries = [TokenEntry(p, keys[p, h], values[p, h]) for p in range(length)]
                for t in range(length):
                    group = []
                    for g in range(self.groups):
                        q = queries[t, h * self.groups + g]
                        w = self.weights(q, t, [e.key for e in head.entries[: t + 1]], list(range(t + 1)))
                        out[t, h * self.groups + g] = w @ values[: t + 1, h]
                        group.append(w)
                    if t >= length - window:
                        mean = torch.stack(group).mean(0)
                        for p in range(t + 1):
                            head.entries[p].total += mean[p].item()
                            head.entries[p].count += 1
                if self.config.policy != "full" and self.config.prefill == "tree":
                    kept, _ = select_prompt(self.config, [e.average for e in head.entries])
                    head.entries = [head.entries[p] for p in kept]
            return out

        logits = self.run(tokens, attend)
        if self.config.prefill == "none" and self.config.policy != "full":
            self.capacity = max(self.capacity, length)
            for head in (head for layer in self.heads for head in layer):
                head.rule = make_rule(self.config, self.capacity)
        self.seen = length
        return logits

    def block(self, tokens: list[int]) -> Tensor:
        original = self.config.positions == "original"

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            out = torch.empty(len(tokens), self.shape.num_attention_heads, self.dim)
            for h, head in enumerate(self.heads[layer]):
                for i in range(len(tokens)):
                    head.entries.append(TokenEntry(self.seen + i, keys[i, h], values[i, h]))
                    entries = head.entries
                    places = [e.position for e in entries] if original else list(range(len(entries)))
                    group = []
                    for g in range(self.groups):
                        q = queries[i, h * self.groups + g]
                        w = self.weights(q, places[-1], [e.key for e in entries], places)
                        out[i, h * self.groups + g] = w @ torch.stack([e.value for e in entries])
                        group.append(w)
                    mean = torch.stack(group).mean(0)
                    for j, entry in enumerate(entries):
                        entry.total += mean[j].item()
                        entry.count += 1
                if self.config.policy != "full":
                    head.shrink(self.capacity, self.seen + len(tokens) - 1)
            return out

        logits = self.run(tokens, attend)
        self.seen += len(tokens)
        return logits

    def kept(self, layer: int) -> list[list[int]]:
        return [[entry.position for entry in head.entries] for head in self.heads[layer]]
