"""Chosen settings in other engines that evict tokens: the nearest settings there, and what differs.

Sources of names and rules: OpenVINO GenAI's Python reference (CacheEvictionConfig, AggregationMode),
TensorRT-LLM's reference of KvCacheConfig, and mlx-lm's cache code (a rotating cache with keep=4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from treekv import TreeKVConfig, TreeKVError, policies

OPENVINO_BLOCK: Final = 32  # tokens of a block of the pipeline's cache, on the CPU; sizes are whole blocks
MLX_KEEP: Final = 4


@dataclass(frozen=True)
class Translation:
    """The nearest settings of another engine.

    Attributes:
        engine: its name.
        code: the lines to use there.
        notes: sentences on what is rounded and what the engine does differently.
    """

    engine: str
    code: str
    notes: tuple[str, ...]


def translations(config: TreeKVConfig) -> list[Translation]:
    """For every known engine; an empty list where nothing is evicted (policy "full")."""
    return [] if config.policy == "full" else [openvino(config), tensorrt_llm(config), mlx(config)]


def openvino(config: TreeKVConfig, block: int = OPENVINO_BLOCK) -> Translation:
    """OpenVINO GenAI: start, recent and maximum size, whole blocks of `block` tokens, none of them zero.

    Raises:
        TreeKVError: policy "full", or a block below 1.
    """
    start, recent, most = openvino_sizes(config, block)
    mode = "SUM" if config.policy == "h2o" else "NORM_SUM"
    rotation = config.positions != "original"
    code = f"""\
from openvino_genai import AggregationMode, CacheEvictionConfig

eviction = CacheEvictionConfig(
    start_size={start},
    recent_size={recent},
    max_cache_size={most},
    aggregation_mode=AggregationMode.{mode},
    apply_rotation={rotation},
)
"""
    notes = []
    exact = (config.sink_size, config.recent_size, config.cache_size)
    if exact != (start, recent, most):
        notes.append(
            f"Sizes must be multiples of {block} tokens and must not be zero, so {exact[0]} sinks, {exact[1]:,} recent "
            f"and {exact[2]:,} tokens in total become {start}, {recent:,} and {most:,}."
        )
    notes.append(_scoring(config))
    if config.positions == "compressed":
        notes.append("It cannot compress positions; with apply_rotation what is kept is renumbered instead.")
    notes.append(
        "It evicts whole blocks, while TreeKV evicts single tokens for each KV head separately, so it keeps different "
        "tokens."
    )
    return Translation("OpenVINO GenAI", code, tuple(notes))


def _scoring(config: TreeKVConfig) -> str:
    """How OpenVINO's scores differ from this policy's."""
    if config.policy in _SCORING:
        return _SCORING[config.policy]
    return _OTHER if policies.get(config.policy).uses_attention else _BLIND


def openvino_sizes(config: TreeKVConfig, block: int = OPENVINO_BLOCK) -> tuple[int, int, int]:
    """(start_size, recent_size, max_cache_size) in whole blocks: start and recent rounded up to at least one, the
    maximum to the nearest, and at least one block more than both together.

    Raises:
        TreeKVError: policy "full", or a block below 1.
    """
    if config.policy == "full":
        raise TreeKVError("policy 'full' evicts nothing, so there is no eviction to set")
    if block < 1:
        raise TreeKVError(f"the block must have at least 1 token, got {block}")
    start = max(-(-config.sink_size // block), 1)
    most = max((config.cache_size + block // 2) // block, 3)
    recent = max(-(-config.recent_size // block), 1)
    if not policies.get(config.policy).evicts_after(config) or not config.region_size:
        recent = most  # nothing that decodes is chosen by score, so recent tokens take all the room
    recent = min(recent, max(most - start - 1, 1))
    most = max(most, start + recent + 1)
    return start * block, recent * block, most * block


def tensorrt_llm(config: TreeKVConfig) -> Translation:
    """TensorRT-LLM: a window with sinks, as in StreamingLLM."""
    _refuse_full(config)
    code = f"""\
from tensorrt_llm.llmapi import KvCacheConfig

cache = KvCacheConfig(max_attention_window=[{config.cache_size}], sink_token_length={config.sink_size})
"""
    return Translation("TensorRT-LLM", code, (_window(config),))


def mlx(config: TreeKVConfig) -> Translation:
    """mlx-lm: a rotating cache that keeps the first four tokens."""
    _refuse_full(config)
    notes = [_window(config)]
    if config.sink_size != MLX_KEEP:
        notes.append(
            f"It always keeps the first {MLX_KEEP} tokens; the number of sinks ({config.sink_size}) cannot be set."
        )
    code = f"mlx_lm.generate --model MODEL --prompt PROMPT --max-kv-size {config.cache_size}\n"
    return Translation("mlx-lm", code, tuple(notes))


def _refuse_full(config: TreeKVConfig) -> None:
    if config.policy == "full":
        raise TreeKVError("policy 'full' evicts nothing, so there is no window to set")


def _window(config: TreeKVConfig) -> str:
    if config.policy == "streaming":
        return "Your settings do the same: they keep the first tokens and a window of the last ones."
    return (
        "It does not score tokens: it keeps the first tokens and a window of the last ones and evicts everything "
        "between, like the policy streaming. Compare that policy before you rely on it."
    )


_OTHER: Final = "Its scoring differs: it evicts the tokens of the whole middle with the lowest scores."
_BLIND: Final = (
    "Its scoring differs: your settings use no attention, while it evicts the lowest scores of the whole middle."
)
_SCORING: Final = {
    "tree": (
        "Its scoring differs: NORM_SUM divides summed attention by the lifetime of a token, which is close to TreeKV's "
        "average, but it evicts the lowest scores of the whole middle instead of comparing neighbours, so the past "
        "does not fade gradually."
    ),
    "h2o": (
        "Its scoring is close to that of H2O: SUM adds up attention, and the lowest sums of the middle are evicted, "
        "but sums are per block."
    ),
    "streaming": (
        "Your settings use no scores, which OpenVINO always does: one block is left to its scoring, the rest is the "
        "window of recent tokens."
    ),
    "snapkv": ("Its scoring differs: it also evicts while it generates, which SnapKV does not."),
    "pyramidkv": (
        "Its scoring differs, and all layers have the same size, while PyramidKV gives the lower layers more."
    ),
    "tova": ("Its scoring differs: TOVA uses only the last query, while OpenVINO sums scores over all queries."),
}
