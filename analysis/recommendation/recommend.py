"""Settings for a budget or a target, from a capture: each choice with the numbers that made it.

    choice = recommend(run, budget=256)              # tokens per layer and KV head
    choice = recommend(run, bytes=8_000_000)         # keys and values of all layers of the model together
    choice = recommend(run, target={"mass": 0.9})    # the smallest cache that keeps 90 % of the attention
    choice.config.save("settings.json"); choice.reasons; choice.figure

Every candidate is simulated on the captured text and judged by the mean relative error of the attention output
(`analysis.loss`). A candidate replaces what stands only if it lowers that error by at least a twentieth. In real runs
lower simulated errors did not mean lower perplexity (docs/recommend.md), so by default the paper's sinks, recent
tokens and tree stay as they are; `questions` lets the simulation decide more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import plotly.graph_objects as go
import xarray as xr
from torch import nn

from analysis.captures.data import Capture
from analysis.recommendation import decisions as asked
from analysis.recommendation.decisions import DEFAULT_QUESTIONS, QUESTIONS, sink_mass
from analysis.recommendation.search import Search
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError

SMALLEST = 16  # tokens; below, there is no room for sinks, recent tokens and a tree

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Recommendation:
    """What `recommend` proposes.

    Attributes:
        config: the settings.
        reasons: Dataset over `candidate`, in the order tried: `question` ("baseline", "size", "sinks", "recent",
            "scope", "layers", "block"), `setting` in words, `cache_size`, simulated `error` (mean relative error
            of the attention output) and `mass` (mean share of attention retained), `chosen`; and `sink_mass`
            (first), the mean share of attention that each of the first tokens gets. attrs["bytes"] is what a cache
            with the proposal holds while it decodes, counted as for `recommend(bytes=...)`, attrs["tokens"] the
            length of the text.
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
    model: nn.Module | None = None,
    progress: Progress | None = None,
) -> Recommendation:
    """Propose settings of policy "tree" for the kind of text that was captured.

    Args:
        run: a capture of text of the kind to expect, at least twice as long as the cache.
        budget: tokens per layer and KV head.
        bytes: or bytes of keys and values, for one row of a batch, that a cache with the proposed settings may hold
            while it decodes: over all layers of the model, captured or not, those with a sliding window by their
            whole window, and with room for the token that is being read. (A file from before captures recorded the
            layers of their model cannot know the others: then only captured layers are counted.)
        target: or {"mass": share of attention to retain} or {"error": relative output error allowed}, both means
            over layers and queries of the simulation; the smallest cache that reaches it is proposed.
        questions: what may differ from the paper's defaults, among "sinks" (they end where the attention that first
            tokens get ends), "recent" (how much of the cache is recent, how much tree: fixed shares, and as far as the
            spectrum's highest band reaches), "scope" (neighbours that compete), "layers" (budgets that differ by
            layer, same total; not asked of a capture of only some layers) and "block" (of the prompt).
        prefill: how the proposed settings treat a prompt, "tree" or "stream".
        itemsize: bytes per number in the cache, for `bytes`; by default that of the captured tensors (a capture
            read from a file has 2).
        model: the model that was captured; when given, errors are those of the attention output after its output
            projection, what reaches the residual stream.
        progress: called with (questions done, questions).

    Raises:
        TreeKVError: not exactly one of budget, bytes and target; one that cannot be met; a text that is too short.
    """
    _check(run, budget, bytes, target, questions, prefill)
    itemsize = run.k[0].element_size() if itemsize is None else itemsize
    cost = _Cost.of(run, itemsize)
    search = Search(run, model)
    steps = [question for question in QUESTIONS if question in questions]

    if target is not None:
        size = _smallest(search, dict(target))
    elif bytes is not None:
        size = cost.affordable(bytes)
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
            asked.ANSWERS[question](search)
    block = None
    if "block" in steps:
        block = asked.block(search, prefill)
    if progress is not None:
        progress(len(steps), len(steps))
    config = _finished(search.best, prefill, block)
    held = cost.held(config)
    sentences = [*search.sentences, _summary(search, start, size, held)]
    reasons = search.table().assign(sink_mass=("first", sink_mass(run)))
    reasons.attrs |= {
        "projected": int(model is not None),
        "bytes": held,
        "tokens": run.tokens,
        "model": run.model,
    }
    return Recommendation(config, reasons, tuple(sentences))


# ---------------------------------------------------------------------- sizes


@dataclass(frozen=True)
class _Cost:
    """Bytes of keys and values of a cache of the model while it decodes.

    Attributes:
        per_token: by full-attention layer.
        windows: of all layers with a sliding window together, whatever the settings.
    """

    per_token: tuple[int, ...]
    windows: int

    @classmethod
    def of(cls, run: Capture, itemsize: int) -> _Cost:
        layers = run.model_layers
        sliding = sum((layer.window - 1) * layer.channels for layer in layers if layer.window is not None)
        return cls(tuple(itemsize * layer.channels for layer in layers if layer.window is None), itemsize * sliding)

    def held(self, config: TreeKVConfig) -> int:
        # The token that is being read needs room beside those that are held.
        each = zip(config.per_layer(len(self.per_token)), self.per_token, strict=True)
        return self.windows + sum((own.cache_size + 1) * cost for own, cost in each)

    def affordable(self, bytes: int) -> int:
        """Tokens per layer and KV head, in eights."""
        token = sum(self.per_token)
        size = (bytes - self.windows) // token - 1
        if size < SMALLEST:
            beside = f", beside {self.windows} of its sliding windows" if self.windows else ""
            raise TreeKVError(
                f"{bytes} bytes hold {max(size, 0)} tokens of this model and the one that is being read ({token} "
                f"bytes each{beside}); at least {(SMALLEST + 1) * token + self.windows} are needed"
            )
        return size // 8 * 8


def _smallest(search: Search, target: dict[str, float]) -> int:
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


def _summary(search: Search, start: float, size: int, held: int) -> str:
    return (
        f"Together: simulated output error {search.error:.4f}, paper's defaults {start:.4f}, at {size} tokens per "
        f"layer and KV head ({held:,} bytes)."
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
