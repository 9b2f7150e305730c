"""Policy "pyramidkv": SnapKV with more room in the lower layers."""

from __future__ import annotations

from treekv.policies.settings import Settings
from treekv.policies.snapkv import SnapKV

BETA = 20  # the last layer keeps about a twentieth of the mean prefix budget


class PyramidKV(SnapKV):
    """SnapKV's choice with a budget per layer that falls linearly from the first layer to the last.

    Paper: Cai et al., "PyramidKV: Dynamic KV Cache Compression based on Pyramidal Information Funneling", 2024
    (arXiv 2406.02069). Acts on the prompt only. With C = `cache_size` and W = `window_size`, layer l of L keeps
    max - l * ((max - min) // (L - 1)) tokens before the window, min = (C - W) // 20 and max = 2 (C - W) - min.
    Deviates in nothing but what `SnapKV` says; a prompt of at most C tokens is kept whole in every layer.
    """

    name = "pyramidkv"
    title = "PyramidKV"
    budgets_per_layer = False  # it has a budget for each layer of its own
    depends_on_layer = True

    def prefix_budget(self, settings: Settings, layer: int | tuple[int, ...], layers: int) -> int:
        mean = settings.cache_size - settings.window_size
        if layers == 1:
            return mean
        least = mean // BETA
        most = 2 * mean - least
        assert isinstance(layer, int)  # its layers come one by one, for they keep different numbers
        return most - layer * ((most - least) // (layers - 1))
