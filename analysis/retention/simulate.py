"""What each policy would keep of a captured text, without running the model again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from analysis import netcdf
from analysis.captures.data import Capture
from analysis.named_settings import Settings, by_name
from analysis.progress import Progress
from analysis.retention.captured_contents import CapturedContents
from analysis.retention.kernels import Rule
from analysis.retention.ledger_simulation import Place, contents_of, simulate_with_ledger
from analysis.retention.record import FORMAT
from analysis.retention.simulated_cache import SimulatedCache, advance_all
from treekv import policies
from treekv.attention import softmax
from treekv.cache.future import future_key, scores_from_after
from treekv.cache.ledger import Ledger
from treekv.cache.reduced_prompt import choose_shared
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError


@torch.inference_mode()
def simulate(
    captured: Capture,
    configs: Settings,
    *,
    layers: Sequence[int] | None = None,
    prompt: int = 0,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Let each policy watch the captured text go by and record what it evicts.

    The rules are those of the real cache: compiled ones for the policies that come with it, for others their own code.
    It differs from a real run in two ways. Queries and keys come from a model that saw the full cache, while in a real
    run every layer sees what the layer below made of a compressed one. And attention is computed at the true positions,
    whatever the settings say of positions. Weights are taken over the tokens that the policy still holds, as in a
    real run.
    A layer or head gets what it would get in the model, whichever others were captured: its own share of
    `config.budgets`.

    Args:
        captured: the captured text.
        configs: settings, several of them, or a dictionary with the names that the result should give them; without
            names they are called by their policies.
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
            number of KV heads, or of layers than the model has with full attention.
    """
    configs = by_name(configs)
    if not configs:
        raise TreeKVError("no settings to simulate; pass some, such as TreeKVConfig(cache_size=128)")
    if not 0 <= prompt <= captured.tokens:
        raise TreeKVError(f"prompt must be between 0 and the {captured.tokens} captured tokens, got {prompt}")
    layers = list(dict.fromkeys(captured.layers if layers is None else layers))
    for layer in layers:
        if layer not in captured.layers:
            raise TreeKVError(f"layer {layer} was not captured; captured are {captured.layers}")

    shape = (len(configs), len(layers), captured.kv_heads, captured.tokens)
    evicted_at, survivor = (np.full(shape, -1, dtype=np.int32) for _ in range(2))
    done, total = 0.0, captured.tokens * len(layers) * len(configs)

    def advance(tokens: float) -> None:
        nonlocal done
        done += tokens
        if progress is not None:
            progress(round(done), total)

    compiled: dict[int, list[SimulatedCache]] = {layer: [] for layer in layers}
    seen_ahead: dict[Any, Tensor] = {}  # settings of several sizes often move the same queries of a prompt
    for number, config in enumerate(configs.values()):
        for own, places in _groups(captured, config, layers):
            ledger, contents = _ledger(captured, own, places, 0 if own.prefill == "stream" else prompt, seen_ahead)
            policy = ledger.policy
            part = captured.kv_heads if places[0].head is not None else 1  # of a layer is a row
            if not policy.evicts_after(config):
                advance(captured.tokens * len(places) / part)
            elif not policy.has_contest:
                of_part = partial(_advance_part, advance, part)
                simulate_with_ledger(captured, ledger, places, contents, prompt, of_part)
            assert ledger.trace is not None
            so_far = [found.cpu().numpy() for found in (ledger.trace.evicted_at, ledger.trace.survivor)]
            for row, place in enumerate(places):
                written = [whole[number, layers.index(place.layer), place.heads] for whole in (evicted_at, survivor)]
                for target, found in zip(written, so_far, strict=True):
                    target[:, : found.shape[2]] = found[row]
                if policy.evicts_after(config) and policy.has_contest:
                    compiled[place.layer].append(_simulated_cache(captured, ledger, row, place, prompt, *written))
    for layer in layers:
        if compiled[layer]:
            i = captured.layers.index(layer)
            advance_all(captured.q[i], captured.k[i], captured.scaling[i], compiled[layer], advance)

    dims = ("policy", "layer", "head", "position")
    return xr.Dataset(
        {"evicted_at": (dims, evicted_at), "survivor": (dims, survivor)},
        coords={
            "policy": list(configs),
            "layer": np.asarray(layers, dtype=np.int32),
            "head": np.arange(captured.kv_heads, dtype=np.int32),
            "position": np.arange(captured.tokens, dtype=np.int32),
            "token": ("position", np.asarray(captured.token_text, dtype=np.str_)),
        },
        attrs={
            "format": FORMAT,
            "format_version": netcdf.FORMAT_VERSION,
            "steps": captured.tokens,
            "prompt": prompt,
            "source": "simulation",
            "model": captured.model,
            "configs": json.dumps({name: config.to_dict() for name, config in configs.items()}),
            **netcdf.versions(),
        },
    )


def _advance_part(advance: Callable[[float], None], part: int, tokens: int) -> None:
    advance(tokens / part)


def _groups(captured: Capture, config: TreeKVConfig, layers: list[int]) -> list[tuple[TreeKVConfig, list[Place]]]:
    """Layers, or heads, that can be the rows of one ledger: the same settings, and a policy that can take them
    together."""
    every = captured.full_layers
    if config.splits_heads:
        table = dict(zip(every, config.per_head(len(every), captured.kv_heads), strict=True))
        places = [(own, Place(layer, head)) for layer in layers for head, own in enumerate(table[layer])]
    else:
        by_layer = dict(zip(every, config.per_layer(len(every)), strict=True))
        places = [(by_layer[layer], Place(layer)) for layer in layers]
    policy = policies.get(config.policy)
    groups: dict[tuple[TreeKVConfig, int], list[Place]] = {}
    for own, place in places:
        alone = policy.depends_on_layer and not policy.takes_layers_together
        groups.setdefault((own, place.layer if alone else 0), []).append(place)
    return [(own, group) for (own, _), group in groups.items()]


def _ledger(
    captured: Capture, config: TreeKVConfig, places: list[Place], prompt: int, seen_ahead: dict[Any, Tensor]
) -> tuple[Ledger, CapturedContents | None]:
    """The ledger of some layers or heads, its rows, after a prompt, and what its policy reads of them. What queries
    from after the prompt see is looked up in `seen_ahead`, and added to it."""
    # The ledger counts as the cache does: among all the layers that the model has compressed.
    every = captured.full_layers
    numbers = [every.index(place.layer) for place in places]
    heads = [place.head for place in places if place.head is not None]
    count = 1 if heads else captured.kv_heads
    device = captured.k[0].device
    ledger = Ledger(config.replace(trace=True), len(places), count, device, numbers, len(every), heads or None)
    contents = contents_of(captured, ledger, places)
    if not prompt or ledger.keeps_everything:
        return ledger, contents
    counts, window = None, 0
    ahead = ledger.policy.future_by(config) if ledger.reduces_prompt(prompt) else None
    parts, parts_ahead = [], []
    for place in places if ledger.policy.uses_attention or ahead else []:
        # Row by row: a policy that looks at every query of a prompt needs room for no more.
        q, k = (each[None, :, :prompt].float() for each in (place.queries(captured), place.keys(captured)))
        scoring, norms = softmax.Scoring(place.scaling(captured)), place.value_norms(captured, config)
        weighting = 1.0 if norms is None else norms[:, :prompt]
        if ledger.policy.uses_attention:
            window = ledger.policy.scoring_queries(config, prompt)
            part, counts = softmax.window_scores(q, k, scoring, window, config.delay)
            parts.append(part * weighting)
        if ahead is not None:
            key = (place, future_key(ahead, config, prompt))
            if key not in seen_ahead:
                position = torch.arange(prompt, device=device)[None]
                seen_ahead[key] = scores_from_after(
                    ahead, config, q, k, scoring, position, captured.rotary(place.layer)
                )
            parts_ahead.append(seen_ahead[key] * weighting)
    sums, future = (torch.cat(found) if found else None for found in (parts, parts_ahead))
    rows = slice(0, len(places))
    if config.share_heads and ledger.reduces_prompt(prompt):
        _share(ledger, prompt, sums, counts, future, window, captured.kv_heads)
        return ledger, contents
    of_prompt = None if contents is None else contents.prompt(prompt)
    selection = ledger.choose_prompt(ledger.prompt(rows, prompt, sums, counts, future, of_prompt))
    ledger.admit_prompt(rows, prompt, selection, sums, window)
    return ledger, contents


def _share(
    ledger: Ledger,
    prompt: int,
    sums: Tensor | None,
    counts: Tensor | None,
    future: Tensor | None,
    window: int,
    heads: int,
) -> None:
    """Keep of a prompt what the heads of each layer keep together; each head is a row of the ledger, those of a layer
    successive rows."""
    for first in range(0, len(ledger.held), heads):
        rows = [slice(row, row + 1) for row in range(first, first + heads)]
        own, ahead = ([None if each is None else each[row] for row in rows] for each in (sums, future))
        prompts = [
            ledger.prompt(*seen) for seen in zip(rows, [prompt] * heads, own, [counts] * heads, ahead, strict=True)
        ]
        for row, selection, seen in zip(rows, choose_shared(ledger, prompts), own, strict=True):
            ledger.admit_prompt(row, prompt, selection, seen, window)


def _simulated_cache(
    captured: Capture, ledger: Ledger, row: int, place: Place, prompt: int, evicted_at: np.ndarray, survivor: np.ndarray
) -> SimulatedCache:
    """Continues where a row of a ledger is after the prompt."""
    config, capacity, held = ledger.config, ledger.capacity[row], ledger.held[row]
    assert capacity is not None  # it evicts
    rule = Rule(
        contest=ledger.policy.contest(config, capacity),
        capacity=capacity,
        layer_index=captured.full_layers.index(place.layer),
        first_head=place.head or 0,
        block=config.block_size if config.prefill == "stream" else 1,
        blocks_end=prompt or captured.tokens,
        since=ledger.first_query[row],
        delay=config.delay,
    )
    positions = ledger.positions(slice(row, row + 1))[0].cpu().numpy()
    sums = ledger.sums[row].gather(1, ledger.order[row][:, :held]).cpu().numpy()
    norms = place.value_norms(captured, config)
    known = positions, sums, None if norms is None else norms.cpu().numpy()
    return SimulatedCache(rule, ledger.seen[row], *known, evicted_at, survivor, place.heads)
