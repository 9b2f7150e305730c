"""Settings for a budget or a target, from a capture: each choice with the numbers that made it.

    choice = recommend(run, budget=256)              # tokens per layer and KV head
    choice = recommend(run, bytes=8_000_000)         # keys and values of all layers together
    choice = recommend(run, target={"mass": 0.9})    # the smallest cache that keeps 90 % of the attention
    choice.config.save("settings.json"); choice.reasons; choice.figure

Every candidate is simulated on the captured text and judged by the mean relative error of the attention output
(`analysis.loss`). A candidate replaces what stands only if it lowers that error by at least `LEAST_GAIN`. In real runs
lower simulated errors did not mean lower perplexity (docs/recommend.md), so by default the paper's sinks, recent
tokens and tree stay as they are; `questions` lets the simulation decide more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
import xarray as xr

from analysis.capture import Capture
from analysis.loss import loss
from analysis.simulate import simulate
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError

LEAST_GAIN = 0.05  # relative; smaller differences of simulated errors said nothing about real runs
CLOSE = 0.01  # relative; errors this close count as equal
SINK_SHARE = 0.01  # a first token is a sink if it gets this share of the attention on average
SINK_WINDOW = 16  # how many of the first tokens may be sinks
SMALLEST = 16  # tokens; below, there is no room for sinks, recent tokens and a tree
RECENT_SHARES = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75)
SCOPES = (2, 4, 8)
BLOCKS = (2, 4, 8, 16, 32, 64)
QUESTIONS = ("sinks", "scope", "recent", "layers", "block")  # in the order in which they are asked
DEFAULT_QUESTIONS = ("block",)  # the others did not win in real runs, see docs/recommend.md

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Recommendation:
    """What `recommend` proposes.

    Attributes:
        config: the settings.
        reasons: Dataset over `candidate`, in the order tried: `question` ("baseline", "size", "sinks", "recent",
            "scope", "layers", "block"), `setting` in words, `cache_size`, simulated `error` (mean relative error
            of the attention output) and `mass` (mean share of attention retained), `chosen`; and `sink_mass`
            (first), the mean share of attention that each of the first tokens gets. attrs["bytes"] is what the
            proposal holds, attrs["tokens"] the length of the text.
        sentences: the reasons in words, one a decision.
    """

    config: TreeKVConfig
    reasons: xr.Dataset
    sentences: tuple[str, ...]

    @cached_property
    def figure(self) -> go.Figure:
        """The candidates of each question by their simulated error."""
        from analysis.plot.recommendation import recommendation

        return recommendation(self.reasons)


def recommend(
    run: Capture,
    budget: int | None = None,
    *,
    bytes: int | None = None,
    target: Mapping[str, float] | None = None,
    questions: Sequence[str] = DEFAULT_QUESTIONS,
    prefill: str = "tree",
    itemsize: int | None = None,
    progress: Progress | None = None,
) -> Recommendation:
    """Propose settings of policy "tree" for the kind of text that was captured.

    Args:
        run: a capture of text of the kind to expect, at least twice as long as the cache.
        budget: tokens per layer and KV head.
        bytes: or bytes of keys and values over all layers, for one row of a batch.
        target: or {"mass": share of attention to retain} or {"error": relative output error allowed}, both means
            over layers and queries of the simulation; the smallest cache that reaches it is proposed.
        questions: what may differ from the paper's defaults, among "sinks", "recent" (how much of the cache is
            recent, how much tree), "scope" (neighbours that compete), "layers" (budgets that differ by layer, same
            total) and "block" (of the prompt).
        prefill: how the proposed settings treat a prompt, "tree" or "stream".
        itemsize: bytes per number in the cache, for `bytes`; by default that of the captured tensors (a capture
            read from a file has 2).
        progress: called with (questions done, questions).

    Raises:
        TreeKVError: not exactly one of budget, bytes and target; one that cannot be met; a text that is too short.
    """
    _check(run, budget, bytes, target, questions, prefill)
    itemsize = run.k[0].element_size() if itemsize is None else itemsize
    per_token = itemsize * sum(k.shape[0] * (k.shape[2] + v.shape[2]) for k, v in zip(run.k, run.v, strict=True))
    search = _Search(run)
    steps = [question for question in QUESTIONS if question in questions]

    if target is not None:
        size = _smallest(search, dict(target))
    elif bytes is not None:
        size = bytes // per_token
        if size < SMALLEST:
            raise TreeKVError(
                f"{bytes} bytes hold {size} tokens of this model ({per_token} bytes each); at least "
                f"{SMALLEST * per_token} are needed"
            )
        size = size // 8 * 8
    else:
        assert budget is not None
        size = budget
    _check_size(run, size)
    base = TreeKVConfig(cache_size=size, prefill="stream", block_size=_stream_block(size))
    search.try_all("baseline", {f"paper's defaults, {size} tokens": base})
    start = search.error

    for done, question in enumerate(steps):
        if progress is not None:
            progress(done, len(steps))
        if question != "block":
            _ANSWERS[question](search)
    block = None
    if "block" in steps:
        block = _block(search, prefill)
    if progress is not None:
        progress(len(steps), len(steps))
    config = _finished(search.best, prefill, block)
    sentences = [*search.sentences, _summary(search, start, size, per_token)]
    reasons = search.table()
    reasons.attrs |= {"bytes": size * per_token, "tokens": run.tokens, "model": run.model}
    return Recommendation(config, reasons, tuple(sentences))


@dataclass
class _Search:
    """The settings that stand, and everything that was tried."""

    run: Capture
    rows: list[dict[str, Any]] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    best: TreeKVConfig = field(default_factory=TreeKVConfig)
    error: float = float("inf")
    by_layer: np.ndarray = field(default_factory=lambda: np.empty(0))

    def measure(
        self, configs: Mapping[str, TreeKVConfig], prompt: int = 0
    ) -> dict[str, tuple[float, float, np.ndarray]]:
        """Mean error, mean mass and the error of each layer, by name."""
        retention = simulate(self.run, configs, prompt=prompt)
        queries = None
        if prompt:
            queries = np.unique(np.linspace(prompt, self.run.tokens - 1, 64).astype(int)).tolist()
        lost = loss(self.run, retention, queries)
        return {
            name: (
                float(lost["error"].sel(policy=name).mean()),
                float(lost["mass"].sel(policy=name).mean()),
                lost["error"].sel(policy=name).mean("query").values,
            )
            for name in configs
        }

    def try_all(self, question: str, candidates: Mapping[str, TreeKVConfig]) -> str | None:
        """Simulate the candidates; the best one stands if it is enough better. Returns its name if it does."""
        if not candidates:
            return None
        measured = self.measure(candidates)
        name = min(measured, key=lambda name: measured[name][0])
        better = measured[name][0] < self.error * (1 - LEAST_GAIN)
        for one, (error, mass, _) in measured.items():
            self.note(question, one, candidates[one], error, mass, chosen=better and one == name)
        if not better:
            return None
        self.best = candidates[name]
        self.error, _, self.by_layer = measured[name]
        return name

    def note(self, question: str, setting: str, config: TreeKVConfig, error: float, mass: float, chosen: bool) -> None:
        self.rows.append(
            {
                "question": question,
                "setting": setting,
                "cache_size": config.cache_size,
                "error": error,
                "mass": mass,
                "chosen": chosen,
            }
        )

    def table(self) -> xr.Dataset:
        columns = {name: ("candidate", np.array([row[name] for row in self.rows])) for name in self.rows[0]}
        sinks = sink_mass(self.run)
        return xr.Dataset(
            {**columns, "sink_mass": ("first", sinks)},
            coords={"candidate": np.arange(len(self.rows)), "first": np.arange(len(sinks))},
        )


# ---------------------------------------------------------------------- the questions


def sink_mass(run: Capture) -> np.ndarray:
    """Mean share of attention that each of the first 16 tokens gets, over layers, query heads and 16 queries spread
    over the second half of the text: float [16]."""
    queries = np.unique(np.linspace(run.tokens // 2, run.tokens - 1, 16).astype(int)).tolist()
    first = [run.weights(layer, queries)[..., :SINK_WINDOW].mean((0, 1)) for layer in run.layers]
    return torch.stack(first).mean(0).cpu().numpy()


def _sinks(search: _Search) -> None:
    mass = sink_mass(search.run)
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
    # Not a matter of a lower error: where the sink mass ends is seen in the attention itself. It must not hurt.
    chosen = measured[0] <= search.error * (1 + CLOSE)
    search.note("sinks", words, config, measured[0], measured[1], chosen)
    share = float(mass[:sinks].sum())
    verdict = "taken" if chosen else "refused, since the simulated error rises"
    search.sentences.append(
        f"Sinks: {sinks}, {verdict}. {first} {share:.0%} of the attention, no other of the first "
        f"{SINK_WINDOW} gets {SINK_SHARE:.0%}; error {measured[0]:.4f} against {search.error:.4f} with "
        f"{search.best.sink_size}."
    )
    if chosen:
        search.best, search.error, search.by_layer = config, measured[0], measured[2]


def _recent(search: _Search) -> None:
    size, before = search.best.cache_size, search.best
    candidates = {}
    for share in RECENT_SHARES:
        recent = round(share * size) - before.sink_size
        if recent > 0 and recent != before.recent_size:
            config = _try(search, before, recent_size=recent)
            if config is not None:
                candidates[f"{share:.1%} recent".replace(".0%", "%")] = config
    _decide(search, "recent", "Recent tokens", candidates, lambda c: f"{c.recent_size} recent, {c.region_size} tree")


def _scope(search: _Search) -> None:
    candidates = {}
    for scope in SCOPES:
        config = _try(search, search.best, scope=scope)
        if config is not None and scope != search.best.scope:
            candidates[f"{scope} neighbours"] = config
    _decide(search, "scope", "Neighbours that compete", candidates, lambda c: f"{c.scope}")


def _layers(search: _Search) -> None:
    candidates = {}
    for name, budgets in (("rising", "rising"), ("falling", "falling"), ("fitted", _fitted(search))):
        config = _try(search, search.best, budgets=budgets) if budgets is not None else None
        if config is not None:
            candidates[f"{name} budgets"] = config
    _decide(search, "layers", "Budgets by layer", candidates, lambda c: str(c.budgets or "the same for all layers"))


def _fitted(search: _Search) -> tuple[int, ...] | None:
    """Give each next eighth of the budget to the layer whose error falls most by it.

    Errors between half and one and a half of the mean budget are interpolated from three simulated sizes.
    """
    size, layers = search.best.cache_size, len(search.run.layers)
    unit = size // 8
    if size % 8 or layers < 2:
        return None
    low = _scaled(search, size // 2)
    high = _scaled(search, size + size // 2)
    if low is None or high is None or high.cache_size > search.run.tokens // 2:
        return None
    measured = search.measure({"low": low, "high": high})
    grid = np.arange(4, 13) * unit
    known = [size // 2, size, size + size // 2]
    curves = np.stack(
        [
            np.interp(grid, known, [measured["low"][2][i], search.by_layer[i], measured["high"][2][i]])
            for i in range(layers)
        ]
    )
    level = np.zeros(layers, dtype=int)
    for _ in range(4 * layers):
        room = level < len(grid) - 1
        gains = np.where(room, curves[np.arange(layers), level] - curves[np.arange(layers), (level + room)], -np.inf)
        level[int(gains.argmax())] += 1
    return tuple(int(grid[i]) for i in level)


def _block(search: _Search, prefill: str) -> int | None:
    """The block size of a prompt: of those within `CLOSE` of the lowest error the largest, which is fastest."""
    run = search.run
    prompt = run.tokens * 3 // 4 if prefill == "tree" else 0
    candidates = {}
    for block in BLOCKS:
        config = _try(search, search.best, prefill=prefill, block_size=block, window_size=block)
        if config is not None and search.best.cache_size % block == 0:
            candidates[f"blocks of {block}"] = config
    if not candidates:
        search.sentences.append("Block size: the default; no block of 2 tokens or more fits these settings.")
        return None
    measured = search.measure(candidates, prompt=prompt)
    lowest = min(error for error, *_ in measured.values())
    name = [name for name, (error, *_) in measured.items() if error <= lowest * (1 + CLOSE)][-1]
    for one, (error, mass, _) in measured.items():
        search.note("block", one, candidates[one], error, mass, chosen=one == name)
    tried = ", ".join(f"{config.block_size}: {measured[one][0]:.4f}" for one, config in candidates.items())
    where = f"after a prompt of {prompt} tokens" if prompt else "in blocks"
    search.sentences.append(
        f"Block size: {candidates[name].block_size}, the largest within {CLOSE:.0%} of the lowest error {where} "
        f"({tried})."
    )
    return candidates[name].block_size


_ANSWERS: dict[str, Callable[[_Search], None]] = {
    "sinks": _sinks,
    "recent": _recent,
    "scope": _scope,
    "layers": _layers,
}


# ---------------------------------------------------------------------- sizes


def _smallest(search: _Search, target: dict[str, float]) -> int:
    """The smallest cache, in eighths of a power of two, that reaches the target with the paper's settings."""
    ((kind, wanted),) = target.items()
    largest = search.run.tokens // 2
    sizes = [size for size in _sizes() if size <= largest]

    def reaches(size: int) -> bool:
        config = TreeKVConfig(cache_size=size, prefill="stream", block_size=_stream_block(size))
        error, mass, _ = search.measure({"it": config})["it"]
        met = mass >= wanted if kind == "mass" else error <= wanted
        search.note("size", f"{size} tokens", config, error, mass, chosen=False)
        return met

    if not reaches(sizes[-1]):
        last = search.rows[-1]
        raise TreeKVError(
            f"the target {kind} {wanted:g} is not reached with {sizes[-1]} tokens, the most that a capture of "
            f"{search.run.tokens} can judge ({kind} {last[kind]:.3f}); capture a longer text or lower the target"
        )
    low, high = -1, len(sizes) - 1  # the target is reached at high, not at low
    while high - low > 1:
        middle = (low + high) // 2
        if reaches(sizes[middle]):
            high = middle
        else:
            low = middle
    for row in search.rows:
        row["chosen"] = row["cache_size"] == sizes[high]
    reached = next(row for row in search.rows if row["chosen"])
    search.sentences.append(
        f"Size: {sizes[high]} tokens, the smallest of those tried whose simulated {kind} is "
        f"{'at least' if kind == 'mass' else 'at most'} {wanted:g} ({reached[kind]:.4f})."
    )
    return sizes[high]


def _sizes() -> list[int]:
    return [power * eighths // 8 for power in (2**n for n in range(4, 24)) for eighths in (8, 10, 12, 14)]


def _stream_block(size: int) -> int:
    return 16 if size >= 64 else 4


def _scaled(search: _Search, size: int) -> TreeKVConfig | None:
    config = search.best
    return _try(search, config, cache_size=size, recent_size=config.recent_size * size // config.cache_size)


def _try(search: _Search, config: TreeKVConfig, **changes: Any) -> TreeKVConfig | None:
    """The changed settings, None where they are not possible in every layer."""
    if "cache_size" not in changes:
        changes = {"recent_size": config.recent_size, "block_size": config.block_size} | changes
    try:
        changed = config.replace(**changes)
        changed.per_layer(len(search.run.layers))
        return changed
    except TreeKVError:
        return None


def _decide(
    search: _Search,
    question: str,
    title: str,
    candidates: dict[str, TreeKVConfig],
    words: Callable[[TreeKVConfig], str],
) -> None:
    before, error = search.best, search.error
    name = search.try_all(question, candidates)
    rows = [row for row in search.rows if row["question"] == question]
    tried = ", ".join(f"{row['setting']} {row['error']:.4f}" for row in rows)
    if name is None:
        search.sentences.append(
            f"{title}: {words(before)}, as by default; nothing tried lowers the error of {error:.4f} by "
            f"{LEAST_GAIN:.0%} ({tried})."
        )
    else:
        search.sentences.append(
            f"{title}: {words(search.best)}; the error falls from {error:.4f} to {search.error:.4f} ({tried})."
        )


def _finished(best: TreeKVConfig, prefill: str, block: int | None) -> TreeKVConfig:
    """The settings for use: the prompt treated as asked for."""
    changes: dict[str, Any] = {"recent_size": best.recent_size, "prefill": prefill}
    if block is None and prefill == "stream":
        block = best.block_size
    if block is not None:
        return best.replace(**changes, block_size=block, window_size=block)
    return TreeKVConfig(
        cache_size=best.cache_size, sink_size=best.sink_size, scope=best.scope, budgets=best.budgets, **changes
    )


def _summary(search: _Search, start: float, size: int, per_token: int) -> str:
    return (
        f"Together: simulated output error {search.error:.4f}, paper's defaults {start:.4f}, at {size} tokens per "
        f"layer and KV head ({size * per_token:,} bytes)."
    )


# ---------------------------------------------------------------------- what can be wrong


def _check(
    run: Capture,
    budget: int | None,
    bytes: int | None,
    target: Mapping[str, float] | None,
    questions: Sequence[str],
    prefill: str,
) -> None:
    given = [name for name, value in (("budget", budget), ("bytes", bytes), ("target", target)) if value is not None]
    if len(given) != 1:
        raise TreeKVError(f"give one of budget, bytes and target, got {' and '.join(given) or 'none'}")
    for question in questions:
        if question not in QUESTIONS:
            raise TreeKVError(f"unknown question {question!r}; known are {', '.join(QUESTIONS)}")
    if prefill not in ("tree", "stream"):
        raise TreeKVError(f"prefill must be 'tree' or 'stream', got {prefill!r}")
    if run.tokens < 2 * SMALLEST:
        raise TreeKVError(f"the capture has {run.tokens} tokens; at least {2 * SMALLEST} are needed")
    if target is not None:
        if len(target) != 1 or next(iter(target)) not in ("mass", "error"):
            raise TreeKVError(f"target must be {{'mass': share}} or {{'error': share}}, got {dict(target)!r}")
        ((kind, wanted),) = target.items()
        if not 0 < wanted < 1:
            raise TreeKVError(f"the target {kind} must be between 0 and 1, got {wanted!r}")


def _check_size(run: Capture, size: int) -> None:
    if size < SMALLEST:
        raise TreeKVError(f"budget must be at least {SMALLEST} tokens, got {size}")
    if 2 * size > run.tokens:
        raise TreeKVError(
            f"a budget of {size} tokens needs a capture of at least {2 * size} tokens to be judged; this one has "
            f"{run.tokens}"
        )
