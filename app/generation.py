"""Generating with a chosen cache and saying what it took; what the command and the dashboard share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from transformers import TextStreamer

from treekv import TreeKVCache, TreeKVConfig, TreeKVError

LEAST_TEMPERATURE = 0.001  # below it a logit can leave the range of float32, and sampling is greedy anyway


@dataclass(frozen=True)
class Pace:
    """How far a generation is: tokens so far, how many a second after the first, and the bytes held."""

    tokens: int
    tokens_per_second: float | None
    cache_bytes: int


@dataclass
class Generation:
    """One text and what it took.

    Attributes:
        text: what was generated, without the prompt.
        token_ids: the same as token ids.
        prompt_tokens: length of the prompt.
        prompt_seconds: until the first token was there.
        tokens_per_second: of the tokens after the first; None if there is only one.
        cache_bytes: held by the cache at the end, with the room it has for more tokens.
        full_bytes: what keys and values of all tokens read take.
        kept_tokens: the most that any layer holds.
        stopped: whether it was interrupted.
    """

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    prompt_tokens: int = 0
    prompt_seconds: float | None = None
    tokens_per_second: float | None = None
    cache_bytes: int = 0
    full_bytes: int = 0
    kept_tokens: int = 0
    stopped: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"new_tokens": len(self.token_ids)}


def generate(
    model: Any,
    tokenizer: Any,
    ids: torch.Tensor,
    config: TreeKVConfig,
    tokens: int,
    on_text: Callable[[str], None] = lambda text: None,
    temperature: float = 0.0,
    *,
    least: int = 0,
    on_token: Callable[[Pace], None] = lambda pace: None,
    check: Callable[[], None] = lambda: None,
) -> tuple[Generation, TreeKVCache]:
    """Continue `ids` [1, prompt] by at most `tokens` tokens, and at least `least`, under `config`.

    Greedy at temperature 0, else sampled with `config.seed`. `on_text` gets pieces of text as they come, `on_token` is
    called after each token, `check` at each layer, also while the prompt is read. Ctrl-C (KeyboardInterrupt, also
    raised by one of these) ends it with what there is.

    Raises:
        TreeKVError: the model cannot be used with these settings, or nothing can be sampled at this temperature.
    """
    check_temperature(temperature)
    cache = _Checked(config, model.config, check)
    streamer = _Recorder(tokenizer, on_text, lambda times: on_token(Pace(len(times), _rate(times), cache.nbytes)))
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    torch.manual_seed(config.seed)
    result = Generation(prompt_tokens=ids.shape[1])
    start = time.perf_counter()
    try:
        with torch.inference_mode():
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                past_key_values=cache,
                min_new_tokens=least or None,
                max_new_tokens=tokens,
                streamer=streamer,
                pad_token_id=tokenizer.eos_token_id,
                **sampling,
            )
    except KeyboardInterrupt:
        result.stopped = True
    result.token_ids = streamer.ids
    result.text = tokenizer.decode(streamer.ids, skip_special_tokens=True)
    if streamer.times:
        result.prompt_seconds = streamer.times[0] - start
    result.tokens_per_second = _rate(streamer.times)
    result.cache_bytes, result.full_bytes = cache.nbytes, cache.full_nbytes
    result.kept_tokens = cache.kept_tokens
    return result, cache


def check_temperature(temperature: float) -> None:
    """Raise a `TreeKVError` if logits divided by it are no numbers any more."""
    if temperature != 0 and not LEAST_TEMPERATURE <= temperature < math.inf:
        raise TreeKVError(
            f"temperature must be 0 (greedy) or a number of at least {LEAST_TEMPERATURE}, got {temperature}"
        )


def parting(one: list[int], other: list[int]) -> int | None:
    """The first index at which two token lists differ; None if they are the same."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return None if len(one) == len(other) else min(len(one), len(other))


def _rate(times: list[float]) -> float | None:
    """Tokens a second after the first; None if there is only one."""
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else None


class _Checked(TreeKVCache):
    """A cache that asks at every layer whether to go on."""

    def __init__(self, config: TreeKVConfig, model_config: Any, check: Callable[[], None]) -> None:
        super().__init__(config, model_config)
        self._check = check

    def update(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        self._check()
        return super().update(*args, **kwargs)


class _Recorder(TextStreamer):
    """Notes each token and when it came, and passes text on as soon as it is whole words."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None], on_token: Callable[[list[float]], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.on_text, self.on_token = on_text, on_token
        self.ids: list[int] = []
        self.times: list[float] = []
        self.prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if self.prompt_seen:
            self.ids.extend(value.reshape(-1).tolist())
            self.times.append(time.perf_counter())
            self.on_token(self.times)
        self.prompt_seen = True
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.on_text(text)
