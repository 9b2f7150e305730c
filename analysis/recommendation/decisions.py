"""The decisions of `recommend`, one function each: compare candidates in a `Search` and report the outcome."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from analysis.captures.data import Capture
from analysis.recommendation.search import CLOSE, Search
from analysis.wavelets.spectrum import spectrum
from treekv.config import TreeKVConfig

SINK_SHARE = 0.01  # a token is a sink if it gets this share of the attention on average
SINK_WINDOW = 16  # only the first tokens, this many, can be sinks
RECENT_SHARES = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75)
REACHED = 0.9  # share of the amplitude of the highest band
SCOPES = (2, 4, 8)
BLOCKS = (2, 4, 8, 16, 32, 64)
QUESTIONS = ("sinks", "scope", "recent", "layers", "block")  # in the order they are decided
DEFAULT_QUESTIONS = ("block",)  # the others did not help in real runs, see docs/recommend.md


def sink_mass(captured: Capture) -> np.ndarray:
    """Mean share of attention of each of the first 16 tokens, float [16].

    The mean is over layers, query heads and 16 queries spread over the second half of the text.
    """
    queries = np.unique(np.linspace(captured.tokens // 2, captured.tokens - 1, 16).astype(int)).tolist()
    first = [captured.weights(layer, queries)[..., :SINK_WINDOW].mean((0, 1)) for layer in captured.layers]
    return torch.stack(first).mean(0).cpu().numpy()


def _sinks(search: Search) -> None:
    mass = sink_mass(search.captured)
    strong = np.flatnonzero(mass >= SINK_SHARE)
    sinks = int(strong[-1]) + 1 if len(strong) else 0
    sinks = min(sinks, search.best.cache_size // 8)
    freed = search.best.sink_size - sinks
    words = f"{sinks} sink{'' if sinks == 1 else 's'}"
    first = "The first token gets" if sinks == 1 else f"The first {sinks} tokens get"
    if freed == 0:
        search.sentences.append(
            f"Sinks: the first {sinks} tokens, the default; the last of the first {SINK_WINDOW} with at least "
            f"{SINK_SHARE:.0%} of the attention is token {sinks - 1}."
        )
        return
    config = search.best.replace(sink_size=sinks, recent_size=search.best.recent_size)
    (measured,) = search.measure({words: config}).values()
    # The attention itself shows where the sinks end, so the error need not fall; it must only not rise.
    chosen = measured[0] <= search.error * (1 + CLOSE)
    search.log("sinks", words, config, measured[0], measured[1], chosen)
    share = float(mass[:sinks].sum())
    verdict = "adopted" if chosen else "rejected, since the simulated error rises"
    search.sentences.append(
        f"Sinks: {sinks}, {verdict}. {first} {share:.0%} of the attention, no other of the first "
        f"{SINK_WINDOW} gets {SINK_SHARE:.0%}; error {measured[0]:.4f} against {search.error:.4f} with "
        f"{search.best.sink_size}."
    )
    if chosen:
        search.best, search.error, search.layer_errors = config, measured[0], measured[2]


def detail_reach(captured: Capture, sinks: int) -> int:
    """How many of the last tokens carry 90 % of the amplitude of the highest band: neighbours there differ most.

    The amplitude is that of D1 in `analysis.spectrum`, mean over layers and heads, without the first `sinks` tokens.
    """
    sinks = min(sinks, min(captured.query_positions) - 1)
    amplitude = (
        spectrum(captured, level=1, sinks="separate", sink_count=sinks)["amplitude"]
        .mean(("layer", "head"))
        .sel(band="D1")
        .values
    )
    from_end = np.cumsum(amplitude[::-1], dtype=np.float64)
    return int(np.searchsorted(from_end, REACHED * from_end[-1])) + 1


def _recent(search: Search) -> None:
    size, before = search.best.cache_size, search.best
    reached = detail_reach(search.captured, before.sink_size)
    shares = {share: f"{share:.1%} recent".replace(".0%", "%") for share in RECENT_SHARES}
    # As far back as neighbours differ, within what a cache of this size can keep besides a tree.
    by_spectrum = min(max(reached, RECENT_SHARES[0] * size), RECENT_SHARES[-1] * size) / size
    shares.setdefault(by_spectrum, f"{by_spectrum:.1%} recent, from the spectrum".replace(".0%", "%"))
    candidates = {}
    for share, name in shares.items():
        recent = round(share * size) - before.sink_size
        if recent > 0 and recent != before.recent_size:
            config = search.variant(before, recent_size=recent)
            if config is not None:
                candidates[name] = config
    search.sentences.append(
        f"Spectrum: the last {reached} tokens carry {REACHED:.0%} of the amplitude of D1, the differences between "
        f"neighbours; so {by_spectrum:.0%} of the cache as recent tokens is a candidate whose error is compared."
    )
    search.decide("recent", "Recent tokens", candidates, lambda c: f"{c.recent_size} recent, {c.region_size} tree")


def _scope(search: Search) -> None:
    candidates = {}
    for scope in SCOPES:
        config = search.variant(search.best, scope=scope)
        if config is not None and scope != search.best.scope:
            candidates[f"{scope} neighbours"] = config
    search.decide("scope", "Neighbours that compete", candidates, lambda c: f"{c.scope}")


def _layers(search: Search) -> None:
    captured, total = len(search.captured.layers), len(search.captured.full_layers)
    if captured < total:  # layers that were not captured may lose what these gain by a larger share
        search.sentences.append(
            f"Budgets by layer: the same for all layers; only {captured} of {total} layers were captured, and the cost "
            "of a shift for the others is unknown."
        )
        return
    candidates = {}
    for name, budgets in (("rising", "rising"), ("falling", "falling"), ("fitted", _fitted(search))):
        config = search.variant(search.best, budgets=budgets) if budgets is not None else None
        if config is not None:
            candidates[f"{name} budgets"] = config
    search.decide("layers", "Budgets by layer", candidates, lambda c: str(c.budgets or "the same for all layers"))


def _fitted(search: Search) -> tuple[int, ...] | None:
    """Give each further eighth of the mean budget to the layer whose error it lowers most.

    Errors between half and one and a half of the mean budget are interpolated from three simulated sizes.
    """
    size, layers = search.best.cache_size, len(search.captured.layers)
    unit = size // 8
    if size % 8 or layers < 2:
        return None
    low = _scaled(search, size // 2)
    high = _scaled(search, size + size // 2)
    if low is None or high is None or high.cache_size > search.captured.tokens // 2:
        return None
    measured = search.measure({"low": low, "high": high})
    grid = np.arange(4, 13) * unit
    known = [size // 2, size, size + size // 2]
    curves = np.stack(
        [
            np.interp(grid, known, [measured["low"][2][i], search.layer_errors[i], measured["high"][2][i]])
            for i in range(layers)
        ]
    )
    level = np.zeros(layers, dtype=int)
    for _ in range(4 * layers):
        room = level < len(grid) - 1
        gains = np.where(room, curves[np.arange(layers), level] - curves[np.arange(layers), (level + room)], -np.inf)
        level[int(gains.argmax())] += 1
    return tuple(int(grid[i]) for i in level)


def choose_block(search: Search, prefill: str) -> int | None:
    """The block size of a prompt: the largest, hence fastest, whose error is within `CLOSE` of the lowest."""
    prompt = search.captured.tokens * 3 // 4 if prefill == "once" else 0
    candidates = {}
    for block in BLOCKS:
        config = search.variant(search.best, prefill=prefill, block_size=block, window_size=block)
        if config is not None and search.best.cache_size % block == 0:
            candidates[f"blocks of {block}"] = config
    if not candidates:
        search.sentences.append("Block size: the default; no block of 2 tokens or more fits these settings.")
        return None
    measured = search.measure(candidates, prompt=prompt)
    lowest = min(error for error, *_ in measured.values())
    name = [name for name, (error, *_) in measured.items() if error <= lowest * (1 + CLOSE)][-1]
    for one, (error, mass, _) in measured.items():
        search.log("block", one, candidates[one], error, mass, chosen=one == name)
    tried = ", ".join(f"{config.block_size}: {measured[one][0]:.4f}" for one, config in candidates.items())
    where = f"after a prompt of {prompt} tokens" if prompt else "in blocks"
    search.sentences.append(
        f"Block size: {candidates[name].block_size}, the largest within {CLOSE:.0%} of the lowest error {where} "
        f"({tried})."
    )
    return candidates[name].block_size


DECISIONS: dict[str, Callable[[Search], None]] = {
    "sinks": _sinks,
    "recent": _recent,
    "scope": _scope,
    "layers": _layers,
}


def _scaled(search: Search, size: int) -> TreeKVConfig | None:
    """The best settings so far at another cache size."""
    config = search.best
    return search.variant(config, cache_size=size, recent_size=config.recent_size * size // config.cache_size)
