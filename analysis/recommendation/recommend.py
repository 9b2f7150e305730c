"""Recommend settings for a budget or a target, decided by the loss that they cost.

    captured = analysis.capture(model, tokenizer, text, sensitivity=True)
    choice = recommend(captured, budget=128, model=model)           # tokens per layer and KV head, on average
    choice = recommend(captured, max_bytes=8_000_000)               # keys and values of all layers together
    choice = recommend(captured, target={"loss": 0.02}, model=model)    # the smallest cache that costs no more
    choice.config.save("settings.json"); choice.sentences; choice.figure

Every KV head gets as many tokens as it needs: by the energy of the finest wavelet band along the gradient of the loss
(`analysis.need`), or, more thoroughly, by the simulated damage of several capacities. With the model at hand the
proposal is replayed beside the paper's defaults and other policies with as many bytes; see docs/recommend.md for what
this is worth on texts that were not captured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
import torch
import xarray as xr
from torch import nn

from analysis import netcdf
from analysis.captures.data import Capture
from analysis.memory_size import cache_bytes
from analysis.prediction.loss_table import extra_loss
from analysis.prediction.replay import replay
from analysis.progress import Progress
from analysis.recommendation.classes import CLASSES, MOST_CLASSES, budget_classes
from analysis.recommendation.curves import SMALLEST
from analysis.recommendation.stages import DEFAULTS, PromptStage, Stage, StreamStage
from analysis.units import count
from treekv import shipped
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError

PROPOSED: Final = "recommended"
_MANY: Final = 2**30  # tokens of a text that fills every cache


@dataclass(frozen=True)
class Recommendation:
    """What `recommend` proposes.

    Attributes:
        config: the settings.
        budgets: int64 (layer, head), tokens of each KV head; coordinate `need` is what decided.
        losses: float64 (policy), the extra loss of the proposal, of the paper's defaults and of other policies with as
            many bytes, nats a token above the full cache, replayed on the captured texts; None without a model.
        nbytes: the size of a cache with these settings while it decodes, for one row; of stage "prompt" without the
            tokens that follow the prompt, which are kept.
        sentences: the reasons in words.
        provenance: what the settings were made from, for `TreeKVConfig.save`.
        alternatives: the other settings in `losses`, by name.
    """

    config: TreeKVConfig
    budgets: xr.DataArray
    losses: xr.DataArray | None
    nbytes: int
    sentences: tuple[str, ...]
    provenance: dict[str, Any]
    alternatives: dict[str, TreeKVConfig] = field(default_factory=dict)

    @cached_property
    def figure(self) -> go.Figure:
        """Tokens of each head, layer against head."""
        from analysis.plot.need_figure import need_budgets as draw

        return draw(self.budgets)


def recommend(
    captured: Capture | Sequence[Capture],
    budget: int | None = None,
    *,
    max_bytes: int | None = None,
    target: Mapping[str, float] | None = None,
    model: nn.Module | None = None,
    thorough: bool = False,
    classes: int = CLASSES,
    stage: str = "stream",
    itemsize: int | None = None,
    dtype: str | None = None,
    progress: Progress | None = None,
) -> Recommendation:
    """Propose settings of policy "tree" for the kind of text that was captured.

    Args:
        captured: text like the one to expect, at least twice as long as the cache, captured with gradients in all
            full-attention layers; two or more unlike texts are better than one.
        budget: tokens per layer and KV head, on average.
        max_bytes: or bytes of keys and values, for one row of a batch, that a cache with the proposed settings may take
            while it decodes: over all layers of the model, with whole sliding windows and room for the token being
            read.
        target: or {"loss": nats a token above the full cache}; the smallest cache whose replayed loss is not more is
            proposed. Needs the model.
        model: the captured model; with it, losses are predicted by `analysis.replay`.
        thorough: find budgets by simulating every head at nine capacities instead of by `analysis.need`; of stage
            "stream", for prompts they are always simulated.
        classes: how many different capacities there may be.
        stage: "stream" for texts that are read block by block, "prompt" for prompts that are attended to in full and
            then reduced; the latter needs the model, which reads every text twice in a row to see which heads copy.
        itemsize: bytes per number in the cache, for `max_bytes`; by default that of the captured tensors (a capture
            read from a file has 2).
        dtype: of the replay, as there.
        progress: called with (done, total) of each step in turn: needs or curves, replays.

    Raises:
        TreeKVError: not exactly one of budget, bytes and target; one that cannot be met; a target or stage "prompt"
            without a model; a capture without gradients or without some layers, or captures of several models; a text
            that is too short.
    """
    texts = [captured] if isinstance(captured, Capture) else list(captured)
    _check(texts, budget, max_bytes, target, model, stage, classes, itemsize)
    first = texts[0]
    itemsize = first.k[0].element_size() if itemsize is None else itemsize
    reading: Stage = PromptStage(texts, model) if stage == "prompt" else StreamStage(texts, thorough)
    search = _Search(reading, texts, classes, model, dtype, progress)
    if target is not None:
        size = search.smallest(target["loss"])
    elif max_bytes is not None:
        size = _affordable(first, max_bytes, itemsize)
    else:
        assert budget is not None
        size = budget
    _check_size(texts, size, reading.most(), f"{max_bytes:,} bytes, " if max_bytes is not None else "")
    budgets, config = search.proposal(size)
    losses, others = None, {}
    if model is not None:
        others = reading.alternatives(size) | _shipped(first, stage, config)
        losses = search.losses({PROPOSED: config, **others})
    needed = _decoding_bytes(first, config.replace(after_prompt="evict"), itemsize)
    about = [*search.sentences, _described(budgets, reading), *_compared(losses, len(texts))]
    more = ", and what follows the prompt" if config.after_prompt == "keep" else ""
    about.append(f"Size: {size} tokens for each layer and KV head on average, {needed:,} bytes{more}.")
    return Recommendation(
        config, budgets, losses, needed, tuple(about), _provenance(texts, stage, reading, losses), others
    )


class _Search:
    """The settings for a size, and what they cost on the captured texts."""

    def __init__(
        self,
        reading: Stage,
        texts: list[Capture],
        classes: int,
        model: nn.Module | None,
        dtype: str | None,
        progress: Progress | None,
    ) -> None:
        self.reading, self.texts, self.classes, self.model, self.dtype = reading, texts, classes, model, dtype
        self.progress = progress
        self.sentences: list[str] = []

    def proposal(self, size: int) -> tuple[xr.DataArray, TreeKVConfig]:
        """Budgets of a mean size, and the settings with them."""
        unit = next(unit for unit in (8, 4, 2, 1) if size % unit == 0 and size >= 16 * unit)
        budgets = budget_classes(self.reading.budgets(size, unit, self.progress), self.classes, unit)
        return budgets, self.reading.config(size).replace(budgets=budgets.values.tolist())

    def losses(self, configs: Mapping[str, TreeKVConfig]) -> xr.DataArray:
        """The extra loss of settings, mean over the texts."""
        assert self.model is not None
        found = [
            replay(
                self.model,
                text,
                configs,
                prompt=self.reading.prompt(text),
                dtype=self.dtype,
                progress=self.progress,
            )
            for text in self.texts
        ]
        if any(table.attrs.get("interrupted") for table in found):
            raise KeyboardInterrupt
        return xr.concat([extra_loss(table) for table in found], "text").mean("text")

    def smallest(self, wanted: float) -> int:
        """The smallest of a ladder of sizes whose proposal costs no more than `wanted`."""
        shortest = min(text.tokens for text in self.texts)
        largest = min(shortest // 2, self.reading.most() or shortest)
        sizes = [size for size in _sizes() if size <= largest]
        cost: dict[int, float] = {}

        def reaches(size: int) -> bool:
            cost[size] = float(self.losses({PROPOSED: self.proposal(size)[1]})[0])
            return cost[size] <= wanted

        if not reaches(sizes[-1]):
            raise TreeKVError(
                f"a loss of {wanted:g} is not reached with {sizes[-1]} tokens, the most that {shortest} captured "
                f"tokens can judge (loss {cost[sizes[-1]]:.3f}); capture a longer text or allow more"
            )
        low, high = -1, len(sizes) - 1  # the target is reached at high, not at low
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if reaches(sizes[middle]) else (middle, high)
        tried = ", ".join(f"{size}: {cost[size]:.3f}" for size in sorted(cost))
        self.sentences.append(
            f"Target: {sizes[high]} tokens are the fewest of those tried whose loss is at most {wanted:g} nats a token "
            f"above the full cache ({tried})."
        )
        return sizes[high]


def _shipped(captured: Capture, stage: str, config: TreeKVConfig) -> dict[str, TreeKVConfig]:
    """Settings of this size that come with TreeKV for the captured model and stage, if they are others."""
    known = captured.attrs.get("model_fingerprint")
    found = {}
    for name in shipped.names():
        made = shipped.provenance(name)
        if known is not None and (made.get("model_fingerprint"), made.get("made_by")) == (known, _made_by(stage)):
            other = TreeKVConfig.load(name)
            if other.cache_size == config.cache_size and other != config:
                found[name] = other
    return found


# ---------------------------------------------------------------------- words


def _described(budgets: xr.DataArray, reading: Stage) -> str:
    where = np.unravel_index(int(budgets.values.argmax()), budgets.shape)
    most = f"; most in layer {budgets['layer'].values[where[0]]}, head {budgets['head'].values[where[1]]}"
    alike = int(budgets.min()) == int(budgets.max())
    return f"Budgets: by {reading.how()}, {budgets.attrs['classes']}{'' if alike else most}."


def _compared(losses: xr.DataArray | None, texts: int) -> list[str]:
    if losses is None:
        return ["Loss: not predicted; give the model to have these settings replayed beside others."]
    cost = {str(name): float(value) for name, value in zip(losses["policy"].values, losses.values, strict=True)}
    own, usual = cost.pop(PROPOSED), cost.pop(DEFAULTS)
    best = min(cost, key=cost.__getitem__)
    where = "the captured text" if texts == 1 else f"the {texts} captured texts, in the mean"
    sentences = [
        f"Loss: {own:+.3f} nats a token above the full cache, replayed on {where}; the paper's defaults {usual:+.3f}, "
        f"{best}, the best of the others of this size, {cost[best]:+.3f}."
    ]
    if own >= min(usual, cost[best]):
        better = "the paper's defaults" if usual <= cost[best] else best
        where, it = ("this text", "it") if texts == 1 else (f"these {texts} texts", "them")
        sentences.append(f"On {where} {better} would be better: these settings do not suit {it}.")
    return sentences


def _made_by(stage: str) -> str:
    return f"analysis.recommend, stage {stage!r}"


def _provenance(texts: list[Capture], stage: str, reading: Stage, losses: xr.DataArray | None) -> dict[str, Any]:
    first = texts[0].attrs
    made: dict[str, Any] = {
        "made_by": _made_by(stage),
        "budgets": f"by {reading.how()}",
        "model": texts[0].model,
        "model_fingerprint": first.get("model_fingerprint"),
        "tokens": [text.tokens for text in texts],
        "versions": netcdf.versions(),
    }
    if losses is not None:
        cost = zip(losses["policy"].values.tolist(), losses.values.tolist(), strict=True)
        made["predicted_loss_above_full"] = {name: round(value, 4) for name, value in cost}
    return made


# ---------------------------------------------------------------------- sizes


def _decoding_bytes(captured: Capture, config: TreeKVConfig, itemsize: int) -> int:
    """Bytes of keys and values of a full cache of the model while it decodes, the token being read included."""
    return cache_bytes(captured, config, tokens=_MANY, prompt=1, dtype="bfloat16") // torch.bfloat16.itemsize * itemsize


def _affordable(captured: Capture, max_bytes: int, itemsize: int) -> int:
    """Tokens per layer and KV head that fit into `max_bytes`, a multiple of eight."""
    least, next_one = (
        _decoding_bytes(captured, TreeKVConfig(cache_size=size, block_size=1), itemsize)
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


def _sizes() -> list[int]:
    return [power * eighths // 8 for power in (2**n for n in range(4, 24)) for eighths in (8, 10, 12, 14)]


# ---------------------------------------------------------------------- checks


def _check(
    texts: list[Capture],
    budget: int | None,
    max_bytes: int | None,
    target: Mapping[str, float] | None,
    model: nn.Module | None,
    stage: str,
    classes: int,
    itemsize: int | None,
) -> None:
    wanted = {"budget": budget, "max_bytes": max_bytes, "target": target}
    given = [name for name, value in wanted.items() if value is not None]
    if len(given) != 1:
        raise TreeKVError(f"give one of budget, max_bytes and target, got {' and '.join(given) or 'none'}")
    if stage not in ("stream", "prompt"):
        raise TreeKVError(f"stage must be 'stream' or 'prompt', got {stage!r}")
    for name, number in (("budget", budget), ("max_bytes", max_bytes), ("classes", classes), ("itemsize", itemsize)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 0):
            raise TreeKVError(f"{name} must be a whole number, got {number!r}")
    if itemsize == 0:
        raise TreeKVError("itemsize must be at least 1 byte per number, got 0")
    if not 1 <= classes <= MOST_CLASSES:
        raise TreeKVError(f"classes must be 1 to {MOST_CLASSES}, got {classes}")
    if target is not None:
        wanted_loss = target.get("loss") if isinstance(target, Mapping) and list(target) == ["loss"] else None
        if not isinstance(wanted_loss, (int, float)) or not 0 < wanted_loss < float("inf"):
            raise TreeKVError(f"target must be {{'loss': nats a token above the full cache}}, got {target!r}")
        if model is None:
            raise TreeKVError("a target of loss needs the model, which predicts it; give model=")
    if not texts:
        raise TreeKVError("no captures given")
    for text in texts:
        text.check_sensitivity()
        missing = [layer for layer in text.full_layers if layer not in text.layers]
        if missing:
            raise TreeKVError(
                f"budgets are shared by all layers, but layer {missing[0]} was not captured; capture all of them"
            )
        if text.model != texts[0].model or text.layers != texts[0].layers or text.kv_heads != texts[0].kv_heads:
            raise TreeKVError(f"the captures are of {texts[0].model!r} and {text.model!r}; give those of one model")
    _check_size(texts, SMALLEST)


def _check_size(texts: list[Capture], size: int, most: int | None = None, what: str = "") -> None:
    if size < SMALLEST:
        raise TreeKVError(f"budget must be at least {SMALLEST} tokens, got {size}")
    for text in texts:
        if 2 * size > text.tokens:
            raise TreeKVError(
                f"a budget of {what}{size} tokens needs a capture of at least {2 * size} tokens to be judged; this one "
                f"has {count(text.tokens, 'token')}"
            )
    if most is not None and size > most:
        raise TreeKVError(
            f"budget must be at most {most} tokens here, got {what}{size}: no more of a text is read twice"
        )
