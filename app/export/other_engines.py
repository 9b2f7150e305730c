"""Chosen settings in other engines that evict tokens: the nearest settings there, and what differs.

Sources of names and rules: OpenVINO GenAI's Python reference (CacheEvictionConfig, AggregationMode),
TensorRT-LLM's reference of KvCacheConfig, and mlx-lm's cache code (a rotating cache with keep=4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from treekv import TreeKVConfig, TreeKVError, policies
from treekv.policies.openvino import BLOCK, OpenVINO

OPENVINO_BLOCKS: Final = (BLOCK, 16)  # tokens of a block of the engine's cache: on a CPU, and on a GPU
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


def openvino(config: TreeKVConfig) -> Translation:
    """OpenVINO GenAI: the nearest settings of policy "openvino", which is its rule.

    Raises:
        TreeKVError: policy "full".
    """
    near, fields = engine_config(config), eviction_settings(config)
    lines = "".join(
        f"    {name}={f'AggregationMode.{value}' if name == 'aggregation_mode' else value},\n"
        for name, value in fields.items()
    )
    code = f"""\
from openvino_genai import AggregationMode, CacheEvictionConfig, SchedulerConfig

scheduler = SchedulerConfig()
scheduler.use_cache_eviction = True
scheduler.cache_eviction_config = CacheEvictionConfig(
{lines})
"""
    block, most = near.interval, _ENGINE.capacity(near)
    notes = []
    if (near.sink_size, near.recent_size, most) != (config.sink_size, config.recent_size, config.cache_size):
        notes.append(
            f"Areas are whole blocks of {block} tokens, none of them empty, and up to {block - 1} tokens more than "
            f"max_cache_size are held, so {config.sink_size} sinks, {config.recent_size:,} recent and at most "
            f"{config.cache_size:,} tokens become {near.sink_size}, {near.recent_size:,} and at most {most:,}."
        )
    if config.policy != _ENGINE.name:
        notes.append(_scoring(config))
    if config.positions != "original":
        notes.append(
            "It keeps true positions: apply_rotation, which would renumber what is kept, is left off, for it ends "
            "version 2026.4.1 with heap corruption, or spoils the text."
        )
    if config.prefill != "once":
        notes.append(
            "It holds a prompt whole until the first token after it was read, and then evicts all that is too much, "
            + _PREFILL[config.prefill]
        )
    if not policies.get(config.policy).evicts_after(config):
        notes.append("It also evicts what follows a prompt, which your settings keep.")
    if config.policy != _ENGINE.name:
        notes.append(
            "It evicts whole blocks, the same for all heads of a layer, while TreeKV evicts single tokens for each KV "
            "head separately. Compare the policy openvino, which is its rule."
        )
    elif near == config:
        notes.append("Your settings do the same.")
    if near.aggregation == "norm_sum":
        notes.append(f"It fails on prompts that are 1 to {near.window_size - 1} tokens longer than start_size.")
    return _translation("OpenVINO GenAI", code, notes, config)


def engine_config(config: TreeKVConfig) -> TreeKVConfig:
    """What OpenVINO GenAI does with settings, as settings of policy "openvino"; these exactly are handed to it.

    Raises:
        TreeKVError: policy "full".
    """
    if config.policy == "full":
        raise TreeKVError("policy 'full' evicts nothing, so there is no eviction to set")
    near = config.for_policy(_ENGINE.name)
    if near.interval not in OPENVINO_BLOCKS:  # blocks that the engine does not have
        near = near.replace(**_ENGINE.nearest(near))
    return near.replace(prefill="once", positions="original")


def eviction_settings(config: TreeKVConfig) -> dict[str, Any]:
    """The fields of the engine's CacheEvictionConfig for `engine_config(config)`.

    Raises:
        TreeKVError: policy "full".
    """
    near = engine_config(config)
    return {
        "start_size": near.sink_size,
        "recent_size": near.recent_size,
        "max_cache_size": _ENGINE.max_cache_size(near),
        "aggregation_mode": near.aggregation.upper(),
        "apply_rotation": False,
        "snapkv_window_size": near.window_size,
    }


def _translation(engine: str, code: str, notes: list[str], config: TreeKVConfig) -> Translation:
    """With what no engine has: unequal capacities."""
    if config.budgets is not None:
        parts = "KV heads" if config.differs_by_head else "layers"
        notes = [*notes, f"All {parts} get the same capacity there, while yours differ (budgets)."]
    if config.share_heads:
        notes = [*notes, "All KV heads get the same capacity there, while yours share it (share_heads)."]
    return Translation(engine, code, tuple(notes))


def _scoring(config: TreeKVConfig) -> str:
    """How OpenVINO's scores differ from this policy's."""
    if config.policy in _SCORING:
        return _SCORING[config.policy]
    return _OTHER if policies.of(config).uses_attention else _BLIND


def tensorrt_llm(config: TreeKVConfig) -> Translation:
    """TensorRT-LLM: a window with sinks, as in StreamingLLM."""
    _refuse_full(config)
    code = f"""\
from tensorrt_llm.llmapi import KvCacheConfig

cache = KvCacheConfig(max_attention_window=[{config.cache_size}], sink_token_length={config.sink_size})
"""
    return _translation("TensorRT-LLM", code, [_window(config)], config)


def mlx(config: TreeKVConfig) -> Translation:
    """mlx-lm: a rotating cache that keeps the first four tokens."""
    _refuse_full(config)
    notes = [_window(config)]
    if config.sink_size != MLX_KEEP:
        notes.append(
            f"It always keeps the first {MLX_KEEP} tokens; the number of sinks ({config.sink_size}) cannot be set."
        )
    code = f"mlx_lm.generate --model MODEL --prompt PROMPT --max-kv-size {config.cache_size}\n"
    return _translation("mlx-lm", code, notes, config)


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


_ENGINE: Final = OpenVINO()
_PREFILL: Final = {
    "stream": "while your settings read it in blocks and evict after each.",
    "none": "while your settings keep it whole and evict one token for each that follows.",
}
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
    "snapkv": (
        "Its scoring of a prompt is close to that of SnapKV, by the last queries and pooled, but per block and for all "
        "heads of a layer together."
    ),
    "pyramidkv": (
        "Its scoring of a prompt is close to that of PyramidKV, but per block and for all heads of a layer, and "
        "all layers have the same size, while PyramidKV gives the lower layers more."
    ),
    "tova": ("Its scoring differs: TOVA uses only the last query, while OpenVINO sums scores over all queries."),
}
