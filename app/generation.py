"""Generation with a chosen cache and its measurements, for the command, the dashboard and the demo."""

from __future__ import annotations

import copy
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
    """The progress of a generation: tokens so far, their rate after the first, and the size of the cache."""

    tokens: int
    tokens_per_second: float | None
    cache_bytes: int


@dataclass
class Generation:
    """A generated text and its measurements.

    Attributes:
        text: the generated text, without the prompt.
        token_ids: the same text as token ids.
        prompt_tokens: length of the prompt.
        prompt_seconds: time until the first token.
        tokens_per_second: of the tokens after the first; None if there is only one.
        cache_bytes: size of the cache at the end, including room for more tokens.
        full_bytes: size of the keys and values of all tokens.
        kept_tokens: tokens kept in the layer that keeps most.
        dtype: of keys and values, such as "float32".
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
    dtype: str = ""
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
    read: TreeKVCache | None = None,
) -> tuple[Generation, TreeKVCache]:
    """Continue `ids` [1, prompt] by at most `tokens` tokens, and at least `least`, under `config`.

    Greedy at temperature 0, otherwise sampled with `config.seed`. `read` is a cache with these settings that has read
    the first of the tokens already, as `read_context` returns it; a copy of it goes on. `on_text` receives pieces of
    text, `on_token` is called after each token, and `check` (without `read`) at each layer, also while the prompt is
    read. A KeyboardInterrupt, which these functions can raise too, ends the generation, and the result has the text so
    far.

    Raises:
        TreeKVError: the model cannot be used with these settings, or nothing can be sampled at this temperature.
    """
    check_temperature(temperature)
    cache = _Checked(config, model.config, check) if read is None else copy.deepcopy(read)
    streamer = Recorder(tokenizer, on_text, lambda times: on_token(Pace(len(times), rate(times), cache.nbytes)))
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    torch.manual_seed(config.seed)
    result = Generation(prompt_tokens=ids.shape[1], dtype=str(model.dtype).removeprefix("torch."))
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
    result.tokens_per_second = rate(streamer.times)
    result.cache_bytes, result.full_bytes = cache.nbytes, cache.full_nbytes
    result.kept_tokens = cache.kept_tokens
    return result, cache


def read_context(model: Any, ids: torch.Tensor, config: TreeKVConfig) -> tuple[TreeKVCache, float]:
    """Read `ids` [1, tokens] into a cache, which reduces them by its settings: the cache, and the seconds it took.

    Raises:
        TreeKVError: the model cannot be used with these settings.
    """
    cache = TreeKVCache(config, model.config)
    start = time.perf_counter()
    with torch.inference_mode():
        # Without the output head: the logits of a long context take gigabytes.
        model.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
    return cache, time.perf_counter() - start


def check_temperature(temperature: float) -> None:
    """Raise a `TreeKVError` for a temperature that logits cannot be divided by."""
    if temperature != 0 and not LEAST_TEMPERATURE <= temperature < math.inf:
        raise TreeKVError(
            f"temperature must be 0 (greedy) or a number of at least {LEAST_TEMPERATURE}, got {temperature}"
        )


@dataclass(frozen=True)
class Agreement:
    """What a model with a cache would have said of a text that was generated elsewhere, token by token.

    Attributes:
        gaps: by how much the logit of its own choice is above that of the token; 0 where it would choose the same.
        log_probs: natural logarithm of the probability that it gives each token.
    """

    gaps: list[float]
    log_probs: list[float]

    @property
    def equal(self) -> int:
        """How many tokens it would choose too."""
        return self.gaps.count(0.0)


def follow(model: Any, ids: torch.Tensor, token_ids: list[int], config: TreeKVConfig) -> Agreement:
    """Read `ids` [1, prompt] under `config`, and then `token_ids` one by one, whatever the model would have chosen."""
    cache = TreeKVCache(config, model.config)
    gaps, log_probs, piece = [], [], ids
    with torch.inference_mode():
        for token in token_ids:
            logits = model(piece, past_key_values=cache, logits_to_keep=1).logits[0, -1].float()
            gaps.append(float(logits.max() - logits[token]))
            log_probs.append(float(logits.log_softmax(-1)[token]))
            piece = torch.tensor([[token]], device=ids.device)
    return Agreement(gaps, log_probs)


def parting(one: list[int], other: list[int]) -> int | None:
    """The first index at which two token lists differ; None if they are the same."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return None if len(one) == len(other) else min(len(one), len(other))


def rate(times: list[float]) -> float | None:
    """Tokens a second after the first; None if there is only one."""
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else None


class _Checked(TreeKVCache):
    """A cache that calls `check` at every layer."""

    def __init__(self, config: TreeKVConfig, model_config: Any, check: Callable[[], None]) -> None:
        super().__init__(config, model_config)
        self._check = check

    def update(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        self._check()
        return super().update(*args, **kwargs)


class Recorder(TextStreamer):
    """Records each token and its time, and passes on the text word by word."""

    def __init__(
        self,
        tokenizer: Any,
        on_text: Callable[[str], None],
        on_token: Callable[[list[float]], None] = lambda times: None,
    ) -> None:
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
