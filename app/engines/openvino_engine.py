"""Generation by OpenVINO GenAI, whose continuous-batching pipeline evicts cache blocks.

What the engine does with a cache is policy "openvino"; other settings run as the nearest of that policy.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from app.export.other_engines import eviction_settings
from app.generation import Generation, Recorder, rate
from treekv import TreeKVConfig, TreeKVError
from treekv.policies.openvino import BLOCK

#: The package of the engine, and its version that was tested.
PACKAGE: Final = "openvino-genai"
TESTED: Final = "2026.4.1"
#: The pipeline fails with a cache in 32 bits, and its default of 8 bits is not what is compared here.
PROPERTIES: Final = {"KV_CACHE_PRECISION": "f16"}
PROCESS = Path(__file__).with_name("openvino_process.py")
TOKENS_AT_ONCE: Final = 256  # of a prompt, in one pass: the engine's default


@dataclass(frozen=True)
class EngineUsage:
    """What the engine says of its own cache.

    Attributes:
        version: of the engine.
        eviction: the fields of its CacheEvictionConfig; None without eviction.
        prompt_blocks: the most blocks of `block_size` tokens that a layer held while the prompt was read.
        blocks: likewise afterwards.
        log_probs: of the new tokens, natural logarithms.
        block_size: tokens of a block.
    """

    version: str
    eviction: dict[str, Any] | None
    prompt_blocks: int
    blocks: int
    log_probs: list[float]
    block_size: int = BLOCK


def check_installed() -> None:
    """Raise a `TreeKVError` that says how to install the engine if it is not there."""
    if importlib.util.find_spec("openvino_genai") is None:
        raise TreeKVError(
            f"engine 'openvino' needs the package {PACKAGE!r}, which is not installed: pip install 'treekv[openvino]'"
        )


def check_block(config: TreeKVConfig) -> None:
    """Raise a `TreeKVError` for settings of the engine's own policy with other blocks than it has here."""
    if config.policy == "openvino" and config.interval != BLOCK:
        raise TreeKVError(
            f"interval must be {BLOCK}, the tokens of the engine's blocks on a CPU, for engine 'openvino', got "
            f"{config.interval}"
        )


def check_prompt(length: int, eviction: dict[str, Any] | None) -> None:
    """Raise a `TreeKVError` for a prompt whose length makes the engine fail."""
    if eviction is None or eviction["aggregation_mode"] != "NORM_SUM":
        return
    start, window = eviction["start_size"], eviction["snapkv_window_size"]
    if start < length < start + window:
        raise TreeKVError(
            f"OpenVINO GenAI fails on prompts of {start + 1} to {start + window - 1} tokens with start_size {start} "
            f"and NORM_SUM; this one has {length}, so make it longer or shorter"
        )


def tokens_at_once(length: int, window: int) -> int:
    """How many tokens of a prompt the engine reads in one pass: about its default, so that the last `window` tokens,
    whose scores it would otherwise pool in two parts, are in one."""
    size = TOKENS_AT_ONCE
    while size < length and (length - 1) % size + 1 < window:
        size += 1
    return size


def generate(
    file: Path,
    tokenizer: Any,
    ids: Sequence[int],
    config: TreeKVConfig,
    tokens: int,
    on_text: Callable[[str], None] = lambda text: None,
    temperature: float = 0.0,
    stop_ids: Sequence[int] = (),
) -> tuple[Generation, EngineUsage]:
    """Continue `ids` by at most `tokens` tokens in the engine, until one of `stop_ids`; as `app.generation.generate`.

    The cache's size is what the engine says that it uses, in whole blocks. A KeyboardInterrupt ends the generation, and
    the result has the text so far.

    Args:
        file: the model, see `engine_file`.
        tokenizer: makes text of the new tokens.

    Raises:
        TreeKVError: the engine is not installed, refuses the model or the settings, or ends with a crash.
    """
    check_installed()
    check_block(config)
    eviction = None if config.policy == "full" else eviction_settings(config)
    check_prompt(len(ids), eviction)
    blocks = -(-(len(ids) + tokens) // BLOCK) + 2
    request = {
        "model": str(file),
        "ids": list(ids),
        "tokens": tokens,
        "stop_ids": list(stop_ids),
        "temperature": temperature,
        "seed": config.seed,
        "eviction": eviction,
        "blocks": blocks,
        "tokens_at_once": tokens_at_once(len(ids), eviction["snapkv_window_size"] if eviction else 1),
        "properties": PROPERTIES,
    }
    result, text = Generation(prompt_tokens=len(ids)), Recorder(tokenizer, on_text)
    text.put(torch.tensor([ids]))
    log_probs: list[float] = []
    version, used, before, block_bytes = "", [0], 0, 0.0
    start = time.perf_counter()
    try:
        for event in _events(request):
            if "version" in event:
                version = event["version"]
            elif "loaded" in event:
                start = time.perf_counter()
            elif "usage" in event:
                used.append(round(event["usage"] / 100 * blocks))
                block_bytes = event["bytes"] / blocks
                if not text.ids:
                    before = len(used)
            elif "token" in event:
                text.put(torch.tensor([event["token"]]))
                log_probs.append(event["log_prob"])
    except KeyboardInterrupt:
        result.stopped = True
    text.end()
    result.token_ids = text.ids
    result.text = tokenizer.decode(text.ids, skip_special_tokens=True)
    if text.times:
        result.prompt_seconds = text.times[0] - start
    result.tokens_per_second = rate(text.times)
    # The engine says what it uses before a pass; the first pass after the prompt still has all of it.
    later = max(used[before + 1 :], default=used[-1])
    result.kept_tokens = later * BLOCK
    result.cache_bytes = round(later * block_bytes)
    result.full_bytes = round((len(ids) + max(len(text.ids) - 1, 0)) * block_bytes / BLOCK)
    return result, EngineUsage(version, eviction, max(used[: before + 1]), later, log_probs)


def _events(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What the engine's process tells.

    Raises:
        TreeKVError: it refused something, or ended without an end.
    """
    command = [sys.executable, str(PROCESS)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # Ctrl-C is for this process, which then ends the other
    ) as process:
        assert process.stdin is not None and process.stdout is not None  # they are pipes
        try:
            with contextlib.suppress(BrokenPipeError), process.stdin:  # its output or exit status says why it ended
                json.dump(request, process.stdin)
            for line in process.stdout:
                event = json.loads(line)
                if "error" in event:
                    raise TreeKVError(f"OpenVINO GenAI refused this: {event['error'][:500]}")
                if "finished" in event:
                    return
                yield event
            raise TreeKVError(f"{_name()} {_ending(process.wait())} while it ran these settings")
        finally:
            if process.poll() is None:
                process.kill()


def _name() -> str:
    version = importlib.metadata.version(PACKAGE)
    return f"OpenVINO GenAI {version}" + ("" if version.startswith(TESTED) else f" ({TESTED} was tested)")


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
