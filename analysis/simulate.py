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
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError
from treekv.layer import observers
from treekv.ledger import Ledger, Places
from treekv.trace import LayerTrace

QUERIES_AT_ONCE = 16  # attention logits exist for this many queries at a time

Progress = Callable[[int, int], None]


@torch.inference_mode()
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
    A layer gets what it would get in the model, whichever others were captured: its own share of `config.budgets`.

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
        TreeKVError: no settings, a layer that was not captured, a prompt longer than the text, or budgets for another
            number of layers than the model has with full attention.
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
    watchers = [
        (number, _Watcher(run, own, group, prompt))
        for number, config in enumerate(configs.values())
        for own, group in _groups(run, config, layers)
    ]
    done, total = 0, run.tokens * len(layers) * len(configs)

    def advance(tokens: int) -> None:
        nonlocal done
        done += tokens
        if progress is not None:
            progress(done, total)

    _watch(run, layers, [watcher for _, watcher in watchers], advance)
    for number, watcher in watchers:
        rows = [layers.index(layer) for layer in watcher.layers]
        evicted_at[number, rows] = watcher.trace.evicted_at.cpu().numpy()
        survivor[number, rows] = watcher.trace.survivor.cpu().numpy()

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
            **store.versions(),
        },
    )


def _groups(run: Capture, config: TreeKVConfig, layers: list[int]) -> list[tuple[TreeKVConfig, list[int]]]:
    """Layers that can be the rows of one ledger: the same settings, and a policy that can take them together."""
    by_layer = dict(zip(run.full_layers, config.per_layer(len(run.full_layers)), strict=True))
    policy = policies.get(config.policy)
    if policy.depends_on_layer and not policy.takes_layers_together:
        return [(by_layer[layer], [layer]) for layer in layers]
    groups: dict[TreeKVConfig, list[int]] = {}
    for layer in layers:
        groups.setdefault(by_layer[layer], []).append(layer)
    return list(groups.items())


class _Watcher:
    """One policy over the whole text; its layers are the rows of one ledger.

    Attributes:
        start: the first position that is decoded; what comes before is the prompt.
        block: tokens that are processed together, up to position `blocks_end`; from there on it is one at a time.
        chunk: tokens for which attention logits are wanted at one time, whole blocks.
        reads: whether they are wanted at all.
    """

    def __init__(self, run: Capture, config: TreeKVConfig, layers: list[int], prompt: int) -> None:
        self.layers = layers
        self.config = config
        index = [run.layers.index(layer) for layer in layers]
        device = run.k[0].device
        # The ledger counts as the cache does: among all the layers that the model has compressed.
        every = run.full_layers
        places = [every.index(layer) for layer in layers]
        self.ledger = Ledger(config.replace(trace=True), len(index), run.kv_heads, device, places, len(every))
        self.rows = slice(0, len(index))
        policy = self.ledger.policy
        self.norms: Tensor | None = None
        if config.importance == "contribution":
            self.norms = torch.stack([torch.linalg.vector_norm(run.v[i].float(), dim=-1) for i in index])
        self.reads = policy.uses_attention and policy.evicts_decoding
        self.block = config.block_size if config.prefill == "stream" else 1
        self.chunk = self.block * max(QUERIES_AT_ONCE // self.block, 1)
        self.start = prompt if config.prefill != "stream" else 0
        self.blocks_end = prompt or run.tokens
        if not policy.evicts_prompt:  # nothing is ever evicted
            self.start = run.tokens
            self.trace.extend(self.rows, [run.tokens] * len(index))
        elif self.start:
            self._admit(run, index, prompt)

    @property
    def trace(self) -> LayerTrace:
        assert self.ledger.trace is not None
        return self.ledger.trace

    def _admit(self, run: Capture, index: list[int], prompt: int) -> None:
        sums, counts, window = None, None, 0
        if self.ledger.policy.uses_attention:
            # Layer by layer: a policy that looks at every query of a prompt needs room for no more.
            window = observers(self.config, prompt)
            parts = []
            for i in index:
                q, k = run.q[i][None, :, :prompt].float(), run.k[i][None, :, :prompt].float()
                part, counts = prefill.window_scores(q, k, run.scaling[i], window)
                parts.append(part)
            sums = torch.cat(parts)
            if self.norms is not None:
                sums = sums * self.norms[..., :prompt]
        selection = self.ledger.choose_prompt(self.rows, prompt, sums, counts)
        self.ledger.admit_prompt(self.rows, prompt, selection, sums, window)

    def step(self, logits: Tensor | None, first: int, last: int) -> None:
        """Tokens first..last-1; `logits` [layers, kv_heads, group, last - first, last] or None."""
        ledger = self.ledger
        begin = first
        while begin < last:
            end = min(begin + self.block, self.blocks_end, last) if begin < self.blocks_end else begin + 1
            places = ledger.places(self.rows, end - begin, distance=False)
            observed = None
            if logits is not None:
                observed = _observe(ledger, places, logits[:, :, :, begin - first : end - first], self.norms)
            ledger.step(self.rows, places, observed)
            begin = end


def _watch(run: Capture, layers: list[int], watchers: list[_Watcher], progress: Callable[[int], object]) -> None:
    """Walk through the text once for all watchers that read it in the same pieces: logits are most of the work."""
    together: dict[tuple[int, int], list[_Watcher]] = {}
    for watcher in watchers:
        together.setdefault((watcher.start, watcher.chunk), []).append(watcher)
        progress(watcher.start * len(watcher.layers))
    for (start, chunk), group in together.items():
        # The layers that somebody reads, each once.
        wanted = [layer for layer in layers if any(w.reads and layer in w.layers for w in group)]
        rows = {id(w): _rows([wanted.index(layer) for layer in w.layers]) for w in group if w.reads}
        index = [run.layers.index(layer) for layer in wanted]
        keys = torch.stack([run.k[i] for i in index]).float() if index and start < run.tokens else None
        for first in range(start, run.tokens, chunk):
            last = min(first + chunk, run.tokens)
            logits = None
            if keys is not None:
                queries = torch.stack([run.q[i][:, first:last].float() * run.scaling[i] for i in index])
                logits = _logits(queries, keys[:, :, :last])
            for watcher in group:
                seen = None if logits is None or not watcher.reads else logits[rows[id(watcher)]]
                watcher.step(seen, first, last)
                progress((last - first) * len(watcher.layers))


def _rows(index: list[int]) -> slice | list[int]:
    """A slice where one will do, so that indexing copies nothing."""
    whole = index == list(range(index[0], index[0] + len(index)))
    return slice(index[0], index[0] + len(index)) if whole else index


def _logits(queries: Tensor, keys: Tensor) -> Tensor:
    """[layers, kv_heads, group, q, T] from queries [layers, query_heads, q, dim], keys [layers, kv_heads, T, dim]."""
    layers, heads, q, dim = queries.shape
    kv_heads = keys.shape[1]
    grouped = queries.reshape(layers, kv_heads, heads // kv_heads * q, dim)
    return (grouped @ keys.transpose(2, 3)).unflatten(2, (heads // kv_heads, q))


def _observe(ledger: Ledger, places: Places, logits: Tensor, norms: Tensor | None) -> Tensor:
    """Attention of newcomers to what is held and to themselves, as `Ledger.step` wants it."""
    q, n = logits.shape[3], places.n
    position = ledger.position[..., :n]
    if q == 1:
        position = position.scatter(2, places.slots, ledger.seen[0])
    else:
        newest = ledger.seen[0] + torch.arange(q, device=logits.device)
        position = position.scatter(2, places.slots, newest.expand(places.slots.shape))
    if not ledger.policy.accumulates:
        logits, q = logits[:, :, :, -1:], 1
    seen = logits.gather(4, position[:, :, None, None].expand(*logits.shape[:4], n))
    if not places.all_used:
        visible = prefill.visible(places.distance, q, False)
        assert visible is not None  # there are free slots
        seen = seen.masked_fill(~visible[:, :, None], float("-inf"))
    elif q > 1:
        later = torch.full((q, q), float("-inf"), device=logits.device).triu(1)
        newcomers = places.slots[:, :, None, None].expand(*seen.shape[:4], q)
        seen.scatter_add_(4, newcomers, later.expand(newcomers.shape))
    observed = seen.softmax(-1).mean(2)
    observed = observed[:, :, 0] if q == 1 else observed.sum(2)
    return observed if norms is None else observed * norms.gather(2, position)
