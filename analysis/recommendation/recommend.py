"""Recommend settings for a budget or a target from a capture, with the numbers behind each decision.

    choice = recommend(captured, budget=256)              # tokens per layer and KV head
    choice = recommend(captured, max_bytes=8_000_000)     # keys and values of all layers of the model together
    choice = recommend(captured, target={"mass": 0.9})    # the smallest cache that keeps 90 % of the attention
    choice.config.save("settings.json"); choice.reasons; choice.figure

Every candidate is simulated on the captured text and judged by the mean relative error of the attention output
(`analysis.output_loss`). A candidate replaces the best so far only if it lowers that error by at least a twentieth. In
real runs lower simulated errors did not mean lower perplexity (docs/recommend.md), so by default the paper's sinks,
recent tokens and tree stay as they are; `questions` lets the simulation decide more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import plotly.graph_objects as go
import torch
import xarray as xr
from torch import nn

from analysis.captures.data import Capture
from analysis.memory_size import cache_bytes
from analysis.progress import Progress
from analysis.recommendation.decisions import DECISIONS, DEFAULT_QUESTIONS, QUESTIONS, choose_block, sink_mass
from analysis.recommendation.search import Search
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError

SMALLEST = 16  # tokens; less has no room for sinks, recent tokens and a tree
_MANY = 2**30  # tokens of a text that fills every cache


@dataclass(frozen=True)
class Recommendation:
    """What `recommend` proposes.

    Attributes:
        config: the settings.
        reasons: Dataset over `candidate`, in the order tried: `question` ("baseline", "size", "sinks", "recent",
            "scope", "layers", "block"), `setting` in words, `cache_size`, simulated `error` (mean relative error
            of the attention output) and `mass` (mean share of attention retained), `chosen`; and `sink_mass`
            (first), the mean share of attention of each of the first tokens. attrs["bytes"] is the size of a cache
            with the proposed settings while it decodes, counted as for `recommend(max_bytes=...)`, attrs["tokens"] the
            length of the text.
        sentences: the reasons in words, one per decision.
    """

    config: TreeKVConfig
    reasons: xr.Dataset
    sentences: tuple[str, ...]

    @cached_property
    def figure(self) -> go.Figure:
        """The candidates of each question by simulated error."""
        from analysis.plot.recommendation_figure import recommendation

        return recommendation(self.reasons)


def recommend(
    captured: Capture,
    budget: int | None = None,
    *,
    max_bytes: int | None = None,
    target: Mapping[str, float] | None = None,
    questions: Sequence[str] = DEFAULT_QUESTIONS,
    prefill: str = "once",
    itemsize: int | None = None,
    model: nn.Module | None = None,
    progress: Progress | None = None,
) -> Recommendation:
    """Propose settings of policy "tree" for the kind of text that was captured.

    Args:
        captured: a capture of text like the one to expect, at least twice as long as the cache.
        budget: tokens per layer and KV head.
        max_bytes: or bytes of keys and values, for one row of a batch, that a cache with the proposed settings may take
            while it decodes: over all layers of the model, captured or not, with whole sliding windows and room for
            the token being read. (Older capture files do not record the layers of their model: then only captured
            layers are counted.)
        target: or {"mass": share of attention to retain} or {"error": relative output error allowed}, both means
            over layers and queries of the simulation; the smallest cache that reaches it is proposed.
        questions: what may differ from the paper's defaults, among "sinks" (as many as the attention to the first
            tokens suggests), "recent" (the split between recent tokens and tree: fixed shares, and as far back as the
            highest band of the spectrum reaches), "scope" (neighbours that compete), "layers" (budgets that differ by
            layer, same total; skipped if only some layers were captured) and "block" (of the prompt).
        prefill: how the proposed settings handle a prompt, "once" or "stream".
        itemsize: bytes per number in the cache, for `max_bytes`; by default that of the captured tensors (a capture
            read from a file has 2).
        model: the captured model; if given, errors are those of the attention output after its output projection,
            which is what reaches the residual stream.
        progress: called as progress(questions done, questions).

    Raises:
        TreeKVError: not exactly one of budget, bytes and target; one that cannot be met; a text that is too short.
    """
    prefill = "once" if prefill == "tree" else prefill  # its former name
    _check(captured, budget, max_bytes, target, questions, prefill)
    itemsize = captured.k[0].element_size() if itemsize is None else itemsize
    search = Search(captured, model)
    steps = [question for question in QUESTIONS if question in questions]

    if target is not None:
        size = _smallest(search, dict(target))
    elif max_bytes is not None:
        size = _affordable(captured, max_bytes, itemsize)
    else:
        assert budget is not None
        size = budget
    _check_size(captured, size)
    base = TreeKVConfig(cache_size=size, prefill="stream", block_size=_stream_block(size))
    search.compare_candidates("baseline", {f"paper's defaults, {size} tokens": base})
    start = search.error

    for done, question in enumerate(steps):
        if progress is not None:
            progress(done, len(steps))
        if question != "block":
            DECISIONS[question](search)
    block = None
    if "block" in steps:
        block = choose_block(search, prefill)
    if progress is not None:
        progress(len(steps), len(steps))
    config = _finished(search.best, prefill, block)
    needed = _decoding_bytes(captured, config, itemsize)
    sentences = [*search.sentences, _summary(search, start, size, needed)]
    reasons = search.table().assign(sink_mass=("first", sink_mass(captured)))
    reasons.attrs |= {
        "projected": int(model is not None),
        "bytes": needed,
        "tokens": captured.tokens,
        "model": captured.model,
    }
    return Recommendation(config, reasons, tuple(sentences))


# ---------------------------------------------------------------------- sizes


def _decoding_bytes(captured: Capture, config: TreeKVConfig, itemsize: int) -> int:
    """Bytes of keys and values of a full cache of the model while it decodes, the token being read included."""
    return cache_bytes(captured, config, tokens=_MANY, prompt=1, dtype="bfloat16") // torch.bfloat16.itemsize * itemsize


def _affordable(captured: Capture, max_bytes: int, itemsize: int) -> int:
    """Tokens per layer and KV head that fit into `max_bytes`, a multiple of eight."""
    least, next_one = (
        _decoding_bytes(captured, TreeKVConfig(cache_size=size, prefill="stream", block_size=1), itemsize)
        for size in (SMALLEST, SMALLEST + 1)
    )
    token = next_one - least
    size = SMALLEST + (max_bytes - least) // token
    if size < SMALLEST:
        windows = least - (SMALLEST + 1) * token
        beside = f", besides {windows} of its sliding windows" if windows else ""
        raise TreeKVError(
            f"{max_bytes} bytes hold {max(size, 0)} tokens of this model and the one being read ({token} bytes each"
            f"{beside}); at least {least} are needed"
        )
    return size // 8 * 8


def _smallest(search: Search, target: dict[str, float]) -> int:
    """The smallest cache, in eighths of a power of two, that reaches the target with the paper's defaults."""
    ((kind, wanted),) = target.items()
    largest = search.captured.tokens // 2
    sizes = [size for size in _sizes() if size <= largest]

    def reaches(size: int) -> bool:
        config = TreeKVConfig(cache_size=size, prefill="stream", block_size=_stream_block(size))
        error, mass, _ = search.measure({"it": config})["it"]
        met = mass >= wanted if kind == "mass" else error <= wanted
        search.log("size", f"{size} tokens", config, error, mass, chosen=False)
        return met

    if not reaches(sizes[-1]):
        last = search.rows[-1]
        raise TreeKVError(
            f"the target {kind} {wanted:g} is not reached with {sizes[-1]} tokens, the most that a capture of "
            f"{search.captured.tokens} can judge ({kind} {last[kind]:.3f}); capture a longer text or lower the target"
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
    """The best settings with the requested handling of prompts."""
    changes: dict[str, Any] = {"recent_size": best.recent_size, "prefill": prefill}
    if block is None and prefill == "stream":
        block = best.block_size
    if block is not None:
        return best.replace(**changes, block_size=block, window_size=block)
    return TreeKVConfig(
        cache_size=best.cache_size, sink_size=best.sink_size, scope=best.scope, budgets=best.budgets, **changes
    )


def _summary(search: Search, start: float, size: int, needed: int) -> str:
    return (
        f"Together: simulated output error {search.error:.4f}, paper's defaults {start:.4f}, at {size} tokens per "
        f"layer and KV head ({needed:,} bytes)."
    )


# ---------------------------------------------------------------------- checks


def _check(
    captured: Capture,
    budget: int | None,
    max_bytes: int | None,
    target: Mapping[str, float] | None,
    questions: Sequence[str],
    prefill: str,
) -> None:
    given = [
        name for name, value in (("budget", budget), ("bytes", max_bytes), ("target", target)) if value is not None
    ]
    if len(given) != 1:
        raise TreeKVError(f"give one of budget, bytes and target, got {' and '.join(given) or 'none'}")
    for question in questions:
        if question not in QUESTIONS:
            raise TreeKVError(f"unknown question {question!r}; known are {', '.join(QUESTIONS)}")
    if prefill not in ("once", "stream"):
        raise TreeKVError(f"prefill must be 'once' or 'stream', got {prefill!r}")
    if captured.tokens < 2 * SMALLEST:
        raise TreeKVError(f"the capture has {captured.tokens} tokens; at least {2 * SMALLEST} are needed")
    if target is not None:
        if len(target) != 1 or next(iter(target)) not in ("mass", "error"):
            raise TreeKVError(f"target must be {{'mass': share}} or {{'error': share}}, got {dict(target)!r}")
        ((kind, wanted),) = target.items()
        if not 0 < wanted < 1:
            raise TreeKVError(f"the target {kind} must be between 0 and 1, got {wanted!r}")


def _check_size(captured: Capture, size: int) -> None:
    if size < SMALLEST:
        raise TreeKVError(f"budget must be at least {SMALLEST} tokens, got {size}")
    if 2 * size > captured.tokens:
        raise TreeKVError(
            f"a budget of {size} tokens needs a capture of at least {2 * size} tokens to be judged; this one has "
            f"{captured.tokens}"
        )
