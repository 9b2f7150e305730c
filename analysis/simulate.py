"""What each policy would keep of a captured text, without running the model again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from analysis import store
from analysis.capture import Capture
from analysis.retention import FORMAT
from treekv import policies, prefill
from treekv.cache import observers
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError
from treekv.ledger import Ledger
from treekv.trace import LayerTrace

QUERIES_AT_ONCE = 16  # attention logits exist for this many queries at a time

Progress = Callable[[int, int], None]


def simulate(
    run: Capture,
    configs: Mapping[str, TreeKVConfig],
    *,
    layers: Sequence[int] | None = None,
    prompt: int = 0,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Let each policy watch the captured text go by and record what it evicts.

    The ledger and the policies are those of the real cache. It differs from a real run in two ways. Queries
    and keys come from a model that saw the full cache, while in a real run every layer sees what the layer
    below made of a compressed one. And attention is computed at the true positions, also where the
    settings say positions="rank". Weights are taken over the tokens that the policy still holds, as in a real run.

    Args:
        run: the captured text.
        configs: settings by the name that the result should give them.
        layers: the model's numbers of the layers to simulate; all captured ones by default.
        prompt: treat this many tokens as a prompt, by `config.prefill`; the rest is decoded one by one. With 0
            everything is decoded, in blocks of `config.block_size` where `config.prefill` is "stream".
        progress: called with (done, total), both counted in tokens times layers times settings.

    Returns:
        Dataset with `evicted_at` and `survivor`, int32 (policy, layer, head, position); heads are KV heads.
        `evicted_at` is the position of the token that was processed when this one went, -1 if it stayed;
        `survivor` the position of the token that won the comparison, -1 if nothing was compared.

    Raises:
        TreeKVError: no settings, a layer that was not captured, or a prompt longer than the text.
    """
    if not configs:
        raise TreeKVError("no settings to simulate; pass a dictionary such as {'tree': TreeKVConfig()}")
    if not 0 <= prompt <= run.tokens:
        raise TreeKVError(f"prompt must be between 0 and the {run.tokens} captured tokens, got {prompt}")
    layers = list(run.layers if layers is None else layers)
    for layer in layers:
        if layer not in run.layers:
            raise TreeKVError(f"layer {layer} was not captured; captured are {run.layers}")

    shape = (len(configs), len(layers), run.kv_heads, run.tokens)
    evicted_at, survivor = (np.full(shape, -1, dtype=np.int32) for _ in range(2))
    done, total = 0, run.tokens * len(layers) * len(configs)
    for number, config in enumerate(configs.values()):
        for own, group in _groups(run, config, layers):

            def advance(tokens: int, done: int = done, size: int = len(group)) -> None:
                if progress is not None:
                    progress(done + tokens * size, total)

            trace = _watch(run, own, group, prompt, advance)
            rows = [layers.index(layer) for layer in group]
            evicted_at[number, rows] = trace.evicted_at.cpu().numpy()
            survivor[number, rows] = trace.survivor.cpu().numpy()
            done += run.tokens * len(group)

    dims = ("policy", "layer", "head", "position")
    return xr.Dataset(
        {"evicted_at": (dims, evicted_at), "survivor": (dims, survivor)},
        coords={
            "policy": list(configs),
            "layer": np.asarray(layers, dtype=np.int32),
            "head": np.arange(run.kv_heads, dtype=np.int32),
            "position": np.arange(run.tokens, dtype=np.int32),
            "token": ("position", np.asarray(run.token_text, dtype=np.str_)),
        },
        attrs={
            "format": FORMAT,
            "format_version": store.FORMAT_VERSION,
            "steps": run.tokens,
            "prompt": prompt,
            "source": "simulation",
            "model": run.model,
            "configs": json.dumps({name: config.to_dict() for name, config in configs.items()}),
        },
    )


def _groups(run: Capture, config: TreeKVConfig, layers: list[int]) -> list[tuple[TreeKVConfig, list[int]]]:
    """Layers that can be the rows of one ledger: the same settings, and a policy that asks for no layer number."""
    by_layer = dict(zip(run.layers, config.per_layer(len(run.layers)), strict=True))
    if policies.get(config.policy).depends_on_layer:
        return [(by_layer[layer], [layer]) for layer in layers]
    groups: dict[TreeKVConfig, list[int]] = {}
    for layer in layers:
        groups.setdefault(by_layer[layer], []).append(layer)
    return list(groups.items())


def _watch(
    run: Capture,
    config: TreeKVConfig,
    layers: list[int],
    prompt: int,
    progress: Callable[[int], object],
) -> LayerTrace:
    """One policy over the whole text; the layers are the rows of one ledger."""
    index = [run.layers.index(layer) for layer in layers]
    keys = torch.stack([run.k[i] for i in index]).float()
    ledger = Ledger(config.replace(trace=True), len(index), keys.shape[1], keys.device, index[0], len(run.layers))
    policy, rows = ledger.policy, slice(0, len(index))
    assert ledger.trace is not None
    if not policy.evicts_prompt:
        ledger.trace.extend(run.tokens)
        progress(run.tokens)
        return ledger.trace
    norms = None
    if config.importance == "contribution":
        norms = torch.stack([torch.linalg.vector_norm(run.v[i].float(), dim=-1) for i in index])
    scaling = torch.tensor([run.scaling[i] for i in index], device=keys.device)[:, None, None, None]

    start = prompt if config.prefill != "stream" else 0
    if start:
        sums = counts = None
        if policy.uses_attention:
            queries = torch.stack([run.q[i][:, :prompt] for i in index]).float() * scaling
            sums, counts = prefill.window_scores(queries, keys[:, :, :prompt], 1.0, observers(config, prompt))
            if norms is not None:
                sums = sums * norms[..., :prompt]
        selection = ledger.choose_prompt(prompt, sums, counts)
        held = prompt if selection is None else selection.kept.shape[-1]
        ledger.reserve(held, max(held, config.cache_size))
        ledger.admit_prompt(rows, prompt, selection, sums, counts)

    block = config.block_size if config.prefill == "stream" else 1
    chunk = block * max(QUERIES_AT_ONCE // block, 1)
    for first in range(start, run.tokens, chunk):
        last = min(first + chunk, run.tokens)
        logits = None
        if policy.uses_attention and policy.evicts_decoding:
            queries = torch.stack([run.q[i][:, first:last] for i in index]).float() * scaling
            logits = _logits(queries, keys[:, :, :last])
        for begin in range(first, last, block):
            end = min(begin + block, last)
            observed = None
            if logits is not None:
                observed = _observe(ledger, logits[:, :, :, begin - first : end - first], begin, end, norms)
            capacity, wanted = ledger.capacity[0], ledger.held[0] + end - begin
            ledger.reserve(wanted if capacity is None else min(wanted, capacity), capacity)
            ledger.step(rows, end - begin, observed)
        progress(last)
    return ledger.trace


def _logits(queries: Tensor, keys: Tensor) -> Tensor:
    """[layers, kv_heads, group, q, T] from queries [layers, query_heads, q, dim], keys [layers, kv_heads, T, dim]."""
    layers, heads, q, dim = queries.shape
    kv_heads = keys.shape[1]
    grouped = queries.reshape(layers, kv_heads, heads // kv_heads * q, dim)
    return (grouped @ keys.transpose(2, 3)).unflatten(2, (heads // kv_heads, q))


def _observe(ledger: Ledger, logits: Tensor, begin: int, end: int, norms: Tensor | None) -> Tensor:
    """Attention of tokens begin..end-1 to what is held and to themselves, as `Ledger.step` wants it."""
    layers, kv_heads, group, q, _ = logits.shape
    held = ledger.held[0]
    newcomers = torch.arange(begin, end, device=logits.device).expand(layers, kv_heads, q)
    visible = torch.cat([ledger.position[:, :, :held], newcomers], dim=2)
    if not ledger.policy.accumulates:
        logits, q = logits[:, :, :, -1:], 1
    index = visible[:, :, None, None].expand(layers, kv_heads, group, q, visible.shape[2])
    seen = logits.gather(4, index)
    if q > 1:
        seen = seen.masked_fill(~prefill.causal_mask(q, held + q, logits.device), float("-inf"))
    observed = seen.softmax(-1).mean(2).sum(2)
    return observed if norms is None else observed * norms.gather(2, visible)
