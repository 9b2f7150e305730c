"""The two ways in which a text reaches a cache, for `recommend`: as a stream, or as a prompt that is read in one go.

Each has its own options, other policies to compare with, and a way to find the budgets of all heads.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import torch
import xarray as xr
from torch import nn

from analysis.captures.capture import capture
from analysis.captures.data import Capture
from analysis.progress import Progress
from analysis.recommendation.curves import PROMPT_MULTIPLES, SMALLEST, damage_curves, least_damage
from analysis.units import count
from analysis.wavelets.far_context import LEAST, need, need_budgets
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError

DEFAULTS: Final = "paper's defaults"
#: What differs from the paper's defaults besides budgets; chosen on development texts (docs/recommend.md).
STREAM: Final[dict[str, Any]] = {
    "scope": 8,
    "scope_end": "clipped",
    "importance": "late",
    "positions": "compressed",
    "recent_size": "quarter",
}
#: Small heads have few recent tokens, and lose what the prompt left them if the tokens that follow it evict more.
PROMPT: Final[dict[str, Any]] = {
    "prompt_score": "future",
    "future_reduction": "energy",
    "prompt_scope": 128,
    "positions": "compressed",
    "recent_size": "eighth",
    "after_prompt": "keep",
}
AFTER: Final = 256  # tokens after a prompt that are judged
COPIED: Final = 1000  # tokens of a copying text, each of its two halves
COPYING: Final = 0.3  # weight of copying texts; those that were captured have the rest


class StreamStage:
    """A text that is read in blocks from its first token on."""

    def __init__(self, texts: list[Capture], thorough: bool) -> None:
        self.texts, self.thorough = texts, thorough
        self._need: xr.DataArray | None = None

    def config(self, size: int) -> TreeKVConfig:
        """The proposal's settings without budgets."""
        return self._read(size, **STREAM)

    def alternatives(self, size: int) -> dict[str, TreeKVConfig]:
        """The paper's defaults and other policies with as many bytes, by name."""
        return {
            DEFAULTS: self._read(size),
            "StreamingLLM": self._read(size, policy="streaming"),
            "H2O": self._read(size, policy="h2o", variant="paper"),
            "TOVA": self._read(size, policy="tova", variant="paper"),
        }

    def prompt(self, text: Capture) -> int:
        """How many tokens of a text are a prompt."""
        return 0

    def most(self) -> int | None:
        """The largest budget that these texts can decide; None for half of each."""
        return None

    def budgets(self, size: int, unit: int, progress: Progress | None) -> xr.DataArray:
        """Tokens of every head, `size` on average."""
        if self.thorough:
            curves = [damage_curves(text, self.config(size), progress=progress) for text in self.texts]
            return least_damage(xr.concat(curves, "text", join="inner").mean("text"), size, unit)
        if self._need is None:
            each = [need(text, progress=progress) for text in self.texts]
            # Texts whose losses differ in scale count alike: only the ratios between heads decide.
            scaled = [one / float(one.sum()) if float(one.sum()) else one for one in each]
            self._need = xr.concat(scaled, "text").mean("text")
        return need_budgets(self._need, size, least=max(round(LEAST * size), SMALLEST))

    def how(self) -> str:
        """What the budgets are found by, in words."""
        if self.thorough:
            return "the simulated damage of nine capacities"
        return "the finest wavelet band along the gradient of the loss"

    def _read(self, size: int, **changes: Any) -> TreeKVConfig:
        return TreeKVConfig(cache_size=size, prefill="stream", block_size=16 if size >= 64 else 4, **changes)


class PromptStage:
    """A text but for its last tokens as a prompt that is attended to in full and then reduced.

    Few heads do the copying that answers need, and texts alone hardly show which: so each captured text is also read
    twice in a row, and the damage to the second time counts with the weight `COPYING`.
    """

    def __init__(self, texts: list[Capture], model: nn.Module | None) -> None:
        if model is None:
            raise TreeKVError("stage 'prompt' needs the model, which reads every text twice in a row; give model=")
        for text in texts:
            if text.tokens <= 2 * AFTER:
                raise TreeKVError(
                    f"stage 'prompt' judges the last {AFTER} tokens after a prompt; the text has "
                    f"{count(text.tokens, 'token')}, and more than {2 * AFTER} are needed"
                )
        self.texts, self.model = texts, model
        self._copying: list[Capture] = []

    def config(self, size: int) -> TreeKVConfig:
        return TreeKVConfig(cache_size=size, **PROMPT)

    def alternatives(self, size: int) -> dict[str, TreeKVConfig]:
        return {
            DEFAULTS: TreeKVConfig(cache_size=size, after_prompt="keep"),
            "StreamingLLM": TreeKVConfig(policy="streaming", cache_size=size, after_prompt="keep"),
            "H2O": TreeKVConfig(policy="h2o", cache_size=size, variant="paper", after_prompt="keep"),
            "SnapKV": TreeKVConfig(policy="snapkv", cache_size=size, window_size=min(32, size // 2)),
        }

    def prompt(self, text: Capture) -> int:
        return text.tokens - AFTER

    def most(self) -> int | None:
        return min(min(COPIED, text.tokens // 2) for text in self.texts) // 2

    def budgets(self, size: int, unit: int, progress: Progress | None) -> xr.DataArray:
        if not self._copying:
            self._copying = [self._twice(text, progress) for text in self.texts]
        config = self.config(size)

        def mean(texts: list[Capture], prompts: list[int]) -> xr.DataArray:
            curves = [
                damage_curves(text, config, prompt=prompt, multiples=PROMPT_MULTIPLES, progress=progress)
                for text, prompt in zip(texts, prompts, strict=True)
            ]
            return xr.concat(curves, "text", join="inner").mean("text")

        plain = mean(self.texts, [self.prompt(text) for text in self.texts])
        copied = mean(self._copying, [text.tokens // 2 for text in self._copying])
        plain, copied = xr.align(plain, copied, join="inner")
        return least_damage((1 - COPYING) * plain + COPYING * copied, size, unit)

    def how(self) -> str:
        return f"the simulated damage of {len(PROMPT_MULTIPLES)} capacities after a prompt, and when it is copied"

    def _twice(self, text: Capture, progress: Progress | None) -> Capture:
        once = text.token_ids[: min(COPIED, text.tokens // 2)]
        ids = torch.cat((once, once))
        return capture(self.model, None, ids, max_tokens=len(ids), sensitivity=True, progress=progress)


Stage: TypeAlias = "StreamStage | PromptStage"
