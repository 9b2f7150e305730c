"""What each policy would keep of a captured text, without running the model again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from analysis import netcdf
from analysis.captures.data import Capture
from analysis.retention import simulated_cache
from analysis.retention.record import FORMAT
from treekv import policies
from treekv.attention import softmax
from treekv.cache.layer import observers
from treekv.cache.ledger import Ledger, Places
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError

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

    The rules are those of the real cache: compiled ones for the policies that come with it, for others their own code.
    It differs from a real run in two ways. Queries and keys come from a model that saw the full cache, while in a real
    run every layer sees what the layer below made of a compressed one. And attention is computed at the true positions,
    also where the settings say positions="rank". Weights are taken over the tokens that the policy still holds, as in a
    real run.
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
    layers = list(dict.fromkeys(run.layers if layers is None else layers))
    for layer in layers:
        if layer not in run.layers:
            raise TreeKVError(f"layer {layer} was not captured; captured are {run.layers}")

    shape = (len(configs), len(layers), run.kv_heads, run.tokens)
    evicted_at, survivor = (np.full(shape, -1, dtype=np.int32) for _ in range(2))
    done, total = 0, run.tokens * len(layers) * len(configs)

    def advance(tokens: int) -> None:
        nonlocal done
        done += tokens
        if progress is not None:
            progress(done, total)

    walkers: dict[int, list[simulated_cache.Walker]] = {layer: [] for layer in layers}
    for number, config in enumerate(configs.values()):
        for own, group in _groups(run, config, layers):
            ledger = _ledger(run, own, group, 0 if own.prefill == "stream" else prompt)
            compiled = type(ledger.policy) in simulated_cache.KINDS
            if not ledger.policy.evicts_decoding:
                advance(run.tokens * len(group))
            elif not compiled:
                _watch(run, ledger, group, prompt, advance)
            assert ledger.trace is not None
            so_far = [found.cpu().numpy() for found in (ledger.trace.evicted_at, ledger.trace.survivor)]
            for row, layer in enumerate(group):
                written = [whole[number, layers.index(layer)] for whole in (evicted_at, survivor)]
                for target, found in zip(written, so_far, strict=True):
                    target[:, : found.shape[2]] = found[row]
                if compiled:
                    walkers[layer].append(_walker(run, ledger, row, layer, prompt, *written))
    for layer in layers:
        if walkers[layer]:
            i = run.layers.index(layer)
            simulated_cache.walk(run.q[i], run.k[i], run.scaling[i], walkers[layer], advance)

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
            "format_version": netcdf.FORMAT_VERSION,
            "steps": run.tokens,
            "prompt": prompt,
            "source": "simulation",
            "model": run.model,
            "configs": json.dumps({name: config.to_dict() for name, config in configs.items()}),
            **netcdf.versions(),
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


def _ledger(run: Capture, config: TreeKVConfig, layers: list[int], prompt: int) -> Ledger:
    """The books of some layers, the rows, after a prompt."""
    # The ledger counts as the cache does: among all the layers that the model has compressed.
    every = run.full_layers
    places = [every.index(layer) for layer in layers]
    ledger = Ledger(config.replace(trace=True), len(layers), run.kv_heads, run.k[0].device, places, len(every))
    if not prompt or ledger.keeps_everything:
        return ledger
    sums, counts, window = None, None, 0
    if ledger.policy.uses_attention:
        # Layer by layer: a policy that looks at every query of a prompt needs room for no more.
        window = observers(config, prompt)
        parts = []
        for i in map(run.layers.index, layers):
            q, k = run.q[i][None, :, :prompt].float(), run.k[i][None, :, :prompt].float()
            part, counts = softmax.window_scores(q, k, run.scaling[i], window)
            norms = _norms(run, config, i)
            parts.append(part if norms is None else part * norms[:, :prompt])
        sums = torch.cat(parts)
    rows = slice(0, len(layers))
    selection = ledger.choose_prompt(rows, prompt, sums, counts)
    ledger.admit_prompt(rows, prompt, selection, sums, window)
    return ledger


def _norms(run: Capture, config: TreeKVConfig, i: int) -> Tensor | None:
    """float32 [kv_heads, T], of the values of the i-th captured layer, if these settings weigh attention by them."""
    return torch.linalg.vector_norm(run.v[i].float(), dim=-1) if config.importance == "contribution" else None


def _walker(
    run: Capture, ledger: Ledger, row: int, layer: int, prompt: int, evicted_at: np.ndarray, survivor: np.ndarray
) -> simulated_cache.Walker:
    """Goes on from where a row of a ledger stands."""
    capacity, held = ledger.capacity[row], ledger.held[row]
    assert capacity is not None  # it evicts
    place, blocks_end = run.full_layers.index(layer), prompt or run.tokens
    rule = simulated_cache.rule(ledger.config, capacity, place, blocks_end, ledger.since[row])
    positions = ledger.positions(slice(row, row + 1))[0].cpu().numpy()
    sums = ledger.sums[row].gather(1, ledger.order[row][:, :held]).cpu().numpy()
    norms = _norms(run, ledger.config, run.layers.index(layer))
    known = positions, sums, None if norms is None else norms.cpu().numpy()
    return simulated_cache.Walker(rule, ledger.seen[row], *known, evicted_at, survivor)


def _watch(run: Capture, ledger: Ledger, layers: list[int], prompt: int, progress: Callable[[int], object]) -> None:
    """Walk through the text with the policy's own code; the rows of the ledger are layers."""
    index = [run.layers.index(layer) for layer in layers]
    rows = slice(0, len(layers))
    keys = torch.stack([run.k[i] for i in index]).float() if ledger.policy.uses_attention else None
    config = ledger.config
    each = [own for own in (_norms(run, config, i) for i in index) if own is not None]
    norms = torch.stack(each) if each else None
    block = config.block_size if config.prefill == "stream" else 1
    chunk = block * max(QUERIES_AT_ONCE // block, 1)
    blocks_end = prompt or run.tokens
    progress(ledger.seen[0] * len(layers))
    for start in range(ledger.seen[0], run.tokens, chunk):
        stop = min(start + chunk, run.tokens)
        logits = None
        if keys is not None:
            queries = torch.stack([run.q[i][:, start:stop].float() * run.scaling[i] for i in index])
            logits = _Logits(queries, keys, start, ledger)
        first = start
        while first < stop:
            last = min(first + block, blocks_end, stop) if first < blocks_end else first + 1
            places = ledger.places(rows, last - first, distance=False)
            ledger.step(rows, places, _observed(logits, norms, ledger, places, first) if logits is not None else None)
            first = last
        progress((stop - start) * len(layers))


class _Logits:
    """Attention logits of some queries by slot of a ledger, where newcomers take the place of what was evicted."""

    def __init__(self, queries: Tensor, keys: Tensor, first: int, ledger: Ledger) -> None:
        """`queries` [layers, query_heads, q, head_dim] of the tokens from `first` on, `keys` [layers, kv_heads, T,
        head_dim] of all."""
        asking = queries.shape[2]
        grouped = queries.unflatten(1, (keys.shape[1], -1)).flatten(2, 3)
        newest = keys[:, :, first : first + asking]
        # As many slots as can be in use when the last of these queries has been here.
        slots = max(max(ledger.held[:]) + asking, *ledger.width[:])
        position = torch.nn.functional.pad(ledger.position, (0, max(slots - ledger.slots, 0)))[..., :slots]
        held = keys.gather(2, position[..., None].expand(*position.shape, keys.shape[3]))
        self._first = first
        self._new, self._all = ((grouped @ each.transpose(2, 3)).unflatten(2, (-1, asking)) for each in (newest, held))
        # Nobody sees who comes later.
        self._new += torch.full((asking, asking), float("-inf"), device=keys.device).triu(1)

    def of(self, places: Places, first: int) -> Tensor:
        """[layers, kv_heads, group, q, n], of the q newcomers from position `first` on, in their `places`."""
        begin, q = first - self._first, places.slots.shape[2]
        still = self._all[..., begin:, :]
        index = places.slots[:, :, None, None].expand(*still.shape[:-1], -1)
        still.scatter_(4, index, self._new[..., begin:, begin : begin + q])
        seen = still[..., :q, : places.n]
        if places.all_used:
            return seen
        visible = softmax.visible(places.distance, q, False)
        assert visible is not None  # there are free slots
        return seen.masked_fill(~visible[:, :, None], float("-inf"))


def _observed(logits: _Logits, norms: Tensor | None, ledger: Ledger, places: Places, first: int) -> Tensor:
    """Weights as `Ledger.step` wants them, of the newcomers from position `first` on, which go to `places`; `norms`
    [layers, kv_heads, T] of all tokens."""
    weights = logits.of(places, first).softmax(-1).mean(2)
    observed = weights.sum(2) if ledger.policy.accumulates else weights[:, :, -1]
    if norms is None:
        return observed
    new = first + torch.arange(places.slots.shape[2], device=norms.device).expand(places.slots.shape)
    position = ledger.position[..., : places.n].scatter(2, places.slots, new)
    return observed * norms.gather(2, position)
