"""Policy "snapkv": what the end of the prompt looked at, smoothed over neighbours."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from torch import Tensor

from treekv.errors import TreeKVError
from treekv.policies.base import Policy
from treekv.policies.contest import SUM
from treekv.policies.pooling import smooth
from treekv.policies.ranking import highest, with_protected
from treekv.policies.scores import Prompt, Selection
from treekv.policies.settings import Settings
from treekv.policies.variants import Variant

#: The two sets of published defaults, for `TreeKVConfig(policy="snapkv", **SNAPKV_PRESETS["longbench"])`; the first is
#: the default, and `variant="longbench"` makes the second the default.
SNAPKV_PRESETS: Final[dict[str, dict[str, Any]]] = {
    "library": {"window_size": 32, "kernel_size": 5, "pooling": "average"},
    "longbench": {"window_size": 8, "kernel_size": 7, "pooling": "max"},
}


def _variant(title: str, preset: dict[str, Any]) -> Variant:
    options = {name: value for name, value in preset.items() if name != "window_size"}
    return Variant(title, {"window_size": lambda block_size: int(preset["window_size"]), "options": options})


class SnapKV(Policy):
    """Keep the last `window_size` tokens of a prompt and, per head, the prefix tokens that these looked at most.

    Paper: Li et al., "SnapKV: LLM Knows What You Are Looking for Before Generation", NeurIPS 2024
    (arXiv 2404.14469). Acts on the prompt only: what is generated afterwards is all kept, beyond `cache_size`.
    Scores are the window's weights summed over the window and pooled over neighbouring positions; the published
    code has two sets of defaults, see `SNAPKV_PRESETS`: "library" is the default here, `variant` "longbench" the other.
    Deviates under grouped queries: weights are averaged over the query heads of a group, where the published code
    repeats the keys.
    """

    name = "snapkv"
    title = "SnapKV"
    options = ("kernel_size", "pooling", "variant", "share_heads")
    variants: ClassVar = {"longbench": _variant("as on LongBench", SNAPKV_PRESETS["longbench"])}
    by = SUM
    evicts_decoding = False

    def default_sink_size(self) -> int:
        return 0

    def default_recent_size(self, cache_size: int, sink_size: int) -> int:
        return 0

    def default_window_size(self, block_size: int) -> int:
        return int(SNAPKV_PRESETS["library"]["window_size"])

    def check(self, settings: Settings) -> None:
        for field in ("sink_size", "recent_size"):
            if getattr(settings, field):
                raise TreeKVError(
                    f"{field} must be 0 for policy {self.name!r}, which protects its window_size last tokens and "
                    f"nothing else, got {getattr(settings, field)}"
                )
        if settings.prefill != "once":
            raise TreeKVError(
                f"prefill must be 'once' for policy {self.name!r}, which acts on a whole prompt, got "
                f"{settings.prefill!r}"
            )

    def check_blocks(self, settings: Settings) -> None:
        if settings.window_size >= settings.cache_size:
            raise TreeKVError(
                f"window_size must be smaller than cache_size ({settings.cache_size}) for policy {self.name!r}, "
                f"got {settings.window_size}"
            )

    def prefix_budget(self, settings: Settings, layer: int | tuple[int, ...], layers: int) -> int:
        """How many tokens before the window a layer keeps."""
        return settings.cache_size - settings.window_size

    def competing(self, settings: Settings, prompt: Prompt) -> Tensor:
        assert prompt.sums is not None  # uses_attention is True
        prefix = prompt.length - settings.window_size
        return smooth(prompt.sums[..., :prefix], settings.kernel_size, settings.pooling)

    def prompt_slots(self, settings: Settings, prompt: Prompt) -> int:
        if prompt.slots is not None:
            return prompt.slots
        prefix = prompt.length - settings.window_size
        return min(self.prefix_budget(settings, prompt.layer, prompt.layers), prefix)

    def select_prompt(self, settings: Settings, prompt: Prompt) -> Selection:
        chosen = highest(self.competing(settings, prompt), self.prompt_slots(settings, prompt))
        return Selection(with_protected(chosen, 0, prompt.length - settings.window_size, prompt.length), None)
