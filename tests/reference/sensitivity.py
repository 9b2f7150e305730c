"""Slow transcription: the gradient of a text's loss along each attention output, and the damage of an eviction.

The attention output of a layer is what its output projection is given.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def loss(model, ids: list[int]) -> Tensor:
    """Sum of the next-token losses, from the logits of the whole text."""
    logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    return sum(F.cross_entropy(logits[t].double(), torch.tensor(ids[t + 1])) for t in range(len(ids) - 1))


def gradients(model, ids: list[int]) -> list[Tensor]:
    """Per layer [query_heads, T, value_dim], by autograd through the whole model at once."""
    outputs: list[Tensor] = []

    def keep(module, arguments):
        output = arguments[0] if arguments[0].requires_grad else arguments[0].requires_grad_()
        outputs.append(output)

    blocks = model.base_model.layers
    hooks = [block.self_attn.o_proj.register_forward_pre_hook(keep) for block in blocks]
    try:
        with torch.inference_mode(False), torch.enable_grad():
            found = torch.autograd.grad(loss(model, ids), outputs)
    finally:
        for hook in hooks:
            hook.remove()
    heads = model.config.num_attention_heads
    return [g[0].unflatten(-1, (heads, -1)).transpose(0, 1).detach() for g in found]


def finite_difference(model, ids: list[int], layer: int, head: int, t: int, channel: int, step: float) -> float:
    """How the loss changes when one number of one attention output is moved by `step` either way, divided by 2 step."""
    heads = model.config.num_attention_heads

    def moved(by: float) -> float:
        def move(module, arguments):
            output = arguments[0].clone()
            output.unflatten(-1, (heads, -1))[0, t, head, channel] += by
            return (output,)

        hook = model.base_model.layers[layer].self_attn.o_proj.register_forward_pre_hook(move)
        try:
            with torch.no_grad():
                return loss(model, ids).item()
        finally:
            hook.remove()

    return (moved(step) - moved(-step)) / (2 * step)


def damage(captured, evicted_at, layer: int, kv_head: int) -> float:
    """1/2 mean over tokens of (sum over the group of g . (output over the kept - output over all))^2, one by one.

    `evicted_at` [T] is -1 for a token that stays, else the position of the last query that sees it.
    """
    i = captured.layers.index(layer)
    k, v = captured.k[i][kv_head].double(), captured.v[i][kv_head].double()
    group = captured.query_heads // captured.kv_heads
    squares = []
    for t in range(captured.tokens - 1):
        kept = [j for j in range(t + 1) if evicted_at[j] < 0 or evicted_at[j] >= t]
        change = 0.0
        for head in range(kv_head * group, (kv_head + 1) * group):
            logits = captured.scaling[i] * k @ captured.q[i][head, t].double()
            output = logits[: t + 1].softmax(0) @ v[: t + 1]
            left = logits[kept].softmax(0) @ v[kept]
            change += float(captured.gradient(layer)[head, t].double() @ (left - output))
        squares.append(change**2)
    return sum(squares) / len(squares) / 2


def regret(captured, evicted_at, layer: int, kv_head: int, j: int) -> float:
    """Of token j, evicted at `evicted_at` (-1 if it stays): softmax over all but j, query by query."""
    i = captured.layers.index(layer)
    k, v = captured.k[i][kv_head].double(), captured.v[i][kv_head].double()
    group = captured.query_heads // captured.kv_heads
    total = 0.0
    for t in range(captured.tokens - 1):
        if evicted_at < 0 or t <= evicted_at:
            continue
        change = 0.0
        others = [n for n in range(t + 1) if n != j]
        for head in range(kv_head * group, (kv_head + 1) * group):
            logits = captured.scaling[i] * k @ captured.q[i][head, t].double()
            without = logits[others].softmax(0) @ v[others]
            output = logits[: t + 1].softmax(0) @ v[: t + 1]
            change += float(captured.gradient(layer)[head, t].double() @ (without - output))
        total += change**2 / 2
    return total


def need(captured, layer: int, kv_head: int, every: int, distance: int, sinks: int = 4) -> float:
    """Mean over queries of the summed squares of the finest Haar coefficients, pair by pair."""
    i = captured.layers.index(layer)
    group = captured.query_heads // captured.kv_heads
    energies = []
    for t in range(every, captured.tokens - 1, every):
        if t - distance - sinks + 1 < 2:
            continue
        energy = 0.0
        for head in range(kv_head * group, (kv_head + 1) * group):
            logits = captured.scaling[i] * captured.k[i][kv_head].double() @ captured.q[i][head, t].double()
            weights = logits[: t + 1].softmax(0)
            signal = weights * (captured.v[i][kv_head][: t + 1].double() @ captured.gradient(layer)[head, t].double())
            far = signal[sinks : t - distance + 1].tolist()
            energy += sum((a - b) ** 2 / 2 for a, b in zip(far[::2], far[1::2]))
        energies.append(energy)
    return sum(energies) / len(energies)


def survival(captured, evicted_at, queries, level, edges, kind, components, sinks: int = 4) -> list[list[float]]:
    """[bands][distances], each component of each channel reconstructed alone by `components` (PyWavelets).

    `evicted_at` is [layers, kv_heads, T]; `kind` "values" or "loss".
    """
    group = captured.query_heads // captured.kv_heads
    sums = [[[0.0, 0.0, 0.0] for _ in edges[1:]] for _ in range(level + 1)]
    for i, layer in enumerate(captured.layers):
        for head in range(captured.query_heads):
            values = captured.v[i][head // group].double()
            for t in queries:
                logits = captured.scaling[i] * captured.k[i][head // group].double() @ captured.q[i][head, t].double()
                weights = logits[: t + 1].softmax(0)
                gone = evicted_at[i][head // group][: t + 1]
                held = torch.tensor([float(e < 0 or e >= t) for e in gone])
                left = weights * held / (weights * held).sum()
                vectors = values[: t + 1]
                if kind == "loss":
                    vectors = (vectors @ captured.gradient(layer)[head, t].double())[:, None]
                for channel in range(vectors.shape[1]):
                    whole, rest = (
                        components((w * vectors[:, channel])[sinks:].numpy(), "haar", level) for w in (weights, left)
                    )
                    for band in range(level + 1):
                        for place in range(t + 1 - sinks):
                            distance = t - sinks - place
                            cell = next(n for n, end in enumerate(edges[1:]) if distance < end)
                            a, b = whole[band][place], rest[band][place]
                            for number, product in enumerate((a * b, a * a, b * b)):
                                sums[band][cell][number] += product
    return [[ab**2 / (aa * bb) if bb > 0 else 0.0 for ab, aa, bb in band] for band in sums]
