"""What each policy would keep of a captured text, without running the model again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import numpy as np
import torch
import xarray as xr
from threadpoolctl import ThreadpoolController
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
NEWCOMERS_AT_ONCE = 64  # of policies that heed ranks only
BLOCK_TOGETHER = 4  # settings with larger blocks gain nothing from each other
TOGETHER = 2**18  # logits of one block, over layers, heads and settings: with many more, caches of a CPU overflow
SMALL = 2**15  # numbers of a step; below that torch's threads share few functions, but softmax

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
    watchers = _watchers(run, list(configs.values()), layers, prompt)
    done, total = 0, run.tokens * len(layers) * len(configs)

    def advance(tokens: int) -> None:
        nonlocal done
        done += tokens
        if progress is not None:
            progress(done, total)

    for watcher in watchers:
        with _one_thread() if watcher.small else nullcontext():
            watcher.watch(run, advance)
        cells = np.ix_(watcher.numbers, [layers.index(layer) for layer in watcher.layers])
        for target, found in ((evicted_at, watcher.trace.evicted_at), (survivor, watcher.trace.survivor)):
            target[cells] = found.cpu().numpy().reshape(*cells[0].shape[:1], -1, *shape[2:])

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


def _watchers(run: Capture, configs: list[TreeKVConfig], layers: list[int], prompt: int) -> list[_Watcher]:
    """Settings that go the same way watch together, for a small step costs hardly more for several of them."""
    together: dict[tuple, list[tuple[int, TreeKVConfig, list[int]]]] = {}
    for number, config in enumerate(configs):
        for own, group in _groups(run, config, layers):
            policy = policies.get(own.policy)
            block = _block(own)
            way = (
                *(tuple(group), own.cache_size, own.prefill, block, own.importance),
                *(policy.evicts_prompt, policy.evicts_decoding),
                # Settings that watch together evict one token at a time, which is slow where one alone evicts many.
                number if block > BLOCK_TOGETHER or policy.heeds_ranks_only else None,
            )
            together.setdefault(way, []).append((number, own, group))
    watchers = []
    for members in together.values():
        members.sort(key=lambda member: (not _reads(member[1]), not policies.get(member[1].policy).accumulates))
        _, config, group = members[0]
        held = max(config.cache_size, prompt if config.prefill == "none" else 0)
        most = max(TOGETHER // (len(group) * run.query_heads * held * _block(config)), 1)
        watchers += [_Watcher(run, members[i : i + most], prompt) for i in range(0, len(members), most)]
    return watchers


class _Watcher:
    """Some settings over the whole text; the rows of its ledger are the layers under the first of them, and so on.

    Attributes:
        numbers: which settings these are; those that read attention come first.
        layers: the model's numbers of the layers.
        parts: the rows of each of the settings.
        reading: the rows of those that read attention.
        adding: the rows of those that read and accumulate it.
        start: the first position that is decoded; what comes before is the prompt.
        block: tokens that are processed together, or more while there is room, up to position `blocks_end`; from there
            on it is one at a time.
        small: whether a step is so little work that one thread is quickest.
        chunk: tokens for which attention logits are computed at one time, whole blocks.
        whole_chunks: whether the tokens of a chunk come together, since the policy heeds ranks only.
    """

    def __init__(self, run: Capture, members: list[tuple[int, TreeKVConfig, list[int]]], prompt: int) -> None:
        configs = [config for _, config, _ in members]
        self.numbers = [number for number, _, _ in members]
        self.layers = members[0][2]
        size, config = len(self.layers), configs[0]
        self.parts = [slice(first, first + size) for first in range(0, size * len(members), size)]
        self.rows = slice(0, size * len(members))
        self.reading = slice(0, size * sum(map(_reads, configs)))
        self.adding = slice(0, size * sum(_reads(own) and policies.get(own.policy).accumulates for own in configs))
        self._index = [run.layers.index(layer) for layer in self.layers]
        # The ledger counts as the cache does: among all the layers that the model has compressed.
        every = run.full_layers
        places = [every.index(layer) for layer in self.layers] * len(configs)
        each = [own.replace(trace=True) for own in configs for _ in self.layers]
        self.ledger = Ledger(each, len(each), run.kv_heads, run.k[0].device, places, len(every))
        self.norms: Tensor | None = None
        if config.importance == "contribution":
            self.norms = torch.stack([torch.linalg.vector_norm(run.v[i].float(), dim=-1) for i in self._index])
        self.block = _block(config)
        self.whole_chunks = policies.get(config.policy).heeds_ranks_only
        at_once = NEWCOMERS_AT_ONCE if self.whole_chunks else QUERIES_AT_ONCE
        self.chunk = self.block * max(at_once // self.block, 1)
        held = max(most or 0 for most in self.ledger.capacity[:])
        numbers = max(self.reading.stop * run.query_heads * self.block, self.rows.stop * run.kv_heads) * held
        self.small = run.k[0].device.type == "cpu" and numbers < SMALL
        self.start = prompt if config.prefill != "stream" else 0
        self.blocks_end = prompt or run.tokens
        if self.ledger.keeps_everything:
            self.start = run.tokens
            self.trace.extend(self.rows, run.tokens)
        elif self.start:
            for own, rows in zip(configs, self.parts, strict=True):
                self._admit(run, own, rows, prompt)

    @property
    def trace(self) -> LayerTrace:
        assert self.ledger.trace is not None
        return self.ledger.trace

    def _admit(self, run: Capture, config: TreeKVConfig, rows: slice, prompt: int) -> None:
        sums, counts, window = None, None, 0
        if policies.get(config.policy).uses_attention:
            # Layer by layer: a policy that looks at every query of a prompt needs room for no more.
            window = observers(config, prompt)
            parts = []
            for i in self._index:
                q, k = run.q[i][None, :, :prompt].float(), run.k[i][None, :, :prompt].float()
                part, counts = prefill.window_scores(q, k, run.scaling[i], window)
                parts.append(part)
            sums = torch.cat(parts)
            if self.norms is not None:
                sums = sums * self.norms[..., :prompt]
        selection = self.ledger.choose_prompt(rows, prompt, sums, counts)
        self.ledger.admit_prompt(rows, prompt, selection, sums, window)

    def watch(self, run: Capture, progress: Callable[[int], object]) -> None:
        """Walk through the text; `progress` is told how many tokens of rows are done."""
        progress(self.start * self.rows.stop)
        keys = None
        if self.reading.stop and self.start < run.tokens:
            keys = torch.stack([run.k[i] for i in self._index]).float()
        for first in range(self.start, run.tokens, self.chunk):
            last = min(first + self.chunk, run.tokens)
            logits = None
            if keys is not None:
                queries = torch.stack([run.q[i][:, first:last].float() * run.scaling[i] for i in self._index])
                logits = _Logits(queries, keys, first, self.ledger, self.reading)
            begin = first
            while begin < last:
                piece, until = (self.block, min(self.blocks_end, last)) if begin < self.blocks_end else (1, last)
                free = self._free() // piece * piece
                end = min(begin + (self.chunk if self.whole_chunks else max(piece, free)), until)
                self._step(logits, begin, end, piece)
                begin = end
            progress((last - first) * self.rows.stop)

    def _free(self) -> int:
        """How many newcomers all rows have room for, which together make the same as one by one; 0 if rows differ."""
        ledger = self.ledger
        held, capacity = ledger.held.only, ledger.capacity.only
        return 0 if held is None or capacity is None else capacity - held

    def _step(self, logits: _Logits | None, first: int, last: int, piece: int) -> None:
        """Tokens first..last-1, which come `piece` at a time."""
        ledger = self.ledger
        # After a prompt some settings may hold more than others.
        together = len(self.parts) == 1 or ledger.held.alike(self.rows)
        for rows in [self.rows] if together else self.parts:
            places = ledger.places(rows, last - first, distance=False)
            observed = None
            reading = slice(rows.start, min(rows.stop, self.reading.stop))
            if logits is not None and reading.start < reading.stop:
                seen = logits.by_slot(reading, places, first)
                observed = _observe(seen, places, max(self.adding.stop - rows.start, 0))
                if self.norms is not None:
                    observed *= self._by_slot(self.norms, reading, places, first)
            ledger.step(rows, places, observed, piece=piece)

    def _by_slot(self, values: Tensor, rows: slice, places: Places, first: int) -> Tensor:
        """[rows, kv_heads, n] from `values` [layers, kv_heads, T] by position; newcomers begin at `first`."""
        new = first + torch.arange(places.slots.shape[2], device=values.device)
        slots = places.slots[: rows.stop - rows.start]
        position = self.ledger.part(self.ledger.position, rows)[..., : places.n]
        position = position.scatter(2, slots, new.expand(slots.shape))
        return values.repeat(len(position) // len(values), 1, 1).gather(2, position)


def _one_thread() -> AbstractContextManager[object]:
    """Steps without OpenMP's other threads: to wake one that sleeps takes longer than a small softmax, and one that
    does not sleep keeps other programs from running."""
    return _openmp().limit(limits=1, user_api="openmp")


@cache
def _openmp() -> ThreadpoolController:
    return ThreadpoolController()


def _block(config: TreeKVConfig) -> int:
    """Tokens that the settings take together."""
    return config.block_size if config.prefill == "stream" else 1


def _reads(config: TreeKVConfig) -> bool:
    """Whether the settings need attention weights while decoding."""
    policy = policies.get(config.policy)
    return policy.uses_attention and policy.evicts_decoding


class _Logits:
    """Attention logits of some queries by slot of a ledger, where newcomers take the place of what was evicted."""

    def __init__(self, queries: Tensor, keys: Tensor, first: int, ledger: Ledger, rows: slice) -> None:
        """`queries` [layers, query_heads, q, dim] of the positions from `first` on, `keys` [layers, kv_heads, T, dim]
        of all positions; `rows` are these layers, once or several times."""
        layers, heads, q, dim = queries.shape
        kv_heads, tokens = keys.shape[1:3]
        group, settings = heads // kv_heads, rows.stop // layers
        grouped = queries.unflatten(1, (kv_heads, group)).transpose(2, 3).flatten(2, 3)
        new = grouped @ keys[:, :, first : first + q].transpose(2, 3)
        # Nobody sees who comes later.
        new += torch.full((q, q), float("-inf"), device=keys.device).triu(1).repeat_interleave(group, 0)
        # As many slots as can be in use before the last of these queries has been here.
        n = max(max(ledger.held[:]) + q, *ledger.width[:])
        position = ledger.position[rows, :, :n]
        if n > position.shape[2]:
            position = torch.nn.functional.pad(position, (0, n - position.shape[2]))
        heads_before = torch.arange(layers * kv_heads, device=keys.device).view(layers, kv_heads, 1)
        index = (position.unflatten(0, (settings, layers)) + heads_before * tokens).flatten()
        held_keys = keys.flatten(0, 2).index_select(0, index).view(settings, layers, kv_heads, n, dim)
        self._logits = (grouped @ held_keys.transpose(3, 4)).flatten(0, 1)  # [rows, kv_heads, q * group, n]
        self._new = new.repeat(settings, 1, 1, 1)
        self._by_query = self._logits.unflatten(2, (q, group))
        self._group, self._first = group, first

    def by_slot(self, rows: slice, places: Places, first: int) -> Tensor:
        """[rows, kv_heads, q, group, n], of the q newcomers from position `first` on, in their `places`."""
        begin, q, slots = first - self._first, places.slots.shape[2], places.slots
        logits, new, by_query = self._logits, self._new, self._by_query
        if rows.start or rows.stop < logits.shape[0]:
            logits, new, by_query = logits[rows], new[rows], by_query[rows]
        if logits.shape[0] < slots.shape[0]:
            slots = slots.narrow(0, 0, logits.shape[0])
        # Queries that were asked before need not know.
        done, left = begin * self._group, logits.shape[2] - begin * self._group
        index = slots.unsqueeze(2).expand(-1, -1, left, -1)
        logits.narrow(2, done, left).scatter_(3, index, new.narrow(2, done, left).narrow(3, begin, q))
        asked = by_query.narrow(2, begin, q)
        return asked if places.n == asked.shape[4] else asked.narrow(4, 0, places.n)


def _observe(seen: Tensor, places: Places, adding: int) -> Tensor:
    """Attention of newcomers to what is held and to themselves, as `Ledger.step` wants it, from logits [rows,
    kv_heads, q, group, n]: that of all in the first rows, which are `adding`, and of the last in the others."""
    rows, q = seen.shape[0], seen.shape[2]
    if q > 1 and adding < rows:
        last = _observe(seen[adding:, :, -1:], places.of(slice(adding, rows)), 0)
        return torch.cat([_observe(seen[:adding], places, adding), last]) if adding else last
    if not places.all_used:
        visible = prefill.visible(places.distance, q, False)
        assert visible is not None  # there are free slots
        seen = seen.masked_fill(~visible[:rows, :, :, None], float("-inf"))
    if q == 1:
        return seen.select(2, 0).softmax(-1).mean(2)
    return seen.softmax(-1).mean(3).sum(2)
