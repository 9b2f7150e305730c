"""One forward pass over a whole text, each full-attention layer masked to what its heads held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer

from analysis.captures.forward_pass import captured_layers, decoder_of, without_adapter
from analysis.prediction.held_attention import held_attention
from treekv.attention.interface import AttentionCall, attach_handler
from treekv.cache.hybrid_layer import with_attention

NUMBERS_AT_ONCE: Final = 2**26  # logits that exist at a time: 128 MB in bfloat16
FLOATS_AT_ONCE: Final = 64  # tokens whose logits are taken to float32 at a time, which caches hold

# What the KV heads of a layer held in a row of the batch: called with the layer's number, the row, q [query_heads, T,
# dim], k and v [kv_heads, T, dim] and the factor before the softmax, gives evicted_at [kv_heads, T], or None where
# nothing is evicted.
Held = Callable[[int, int, Tensor, Tensor, Tensor, float], "np.ndarray | None"]


def masked_losses(model: nn.Module, ids: Tensor, rows: int, held: Held, done: Callable[[], object]) -> np.ndarray:
    """The loss of each next token in nats, float32 [rows, T - 1], of copies of a text that are masked differently.

    Args:
        model: a causal model whose attention is "treekv".
        ids: LongTensor [T].
        rows: how many.
        held: says what each row is masked to.
        done: called after each full-attention layer.
    """
    cache = DynamicCache(config=model.config)  # type: ignore[arg-type]
    for number in captured_layers(model.config):
        cache.layers[number] = with_attention(cache.layers[number], _Layer(number, held, done))
    model = without_adapter(model)
    decoder = decoder_of(model)
    with torch.inference_mode():
        ids = ids.to(next(model.parameters()).device)
        hidden = decoder(input_ids=ids.expand(rows, -1), past_key_values=cache, use_cache=True).last_hidden_state
        return next_token_losses(model, hidden, ids)


def next_token_losses(model: nn.Module, hidden: Tensor, ids: Tensor) -> np.ndarray:
    """Losses [rows, T - 1] from the decoder's output [rows, T, hidden], with a part of the logits at a time.

    What a model does to its logits (a factor, a soft cap) is in its own forward pass, so that is called: on one token,
    whose hidden state a hook replaces.
    """
    found: Any = model
    vocabulary = found.config.get_text_config(decoder=True).vocab_size
    rows, tokens = hidden.shape[0], len(ids)
    step = max(NUMBERS_AT_ONCE // (rows * vocabulary), 1)
    losses = []
    part = hidden[:, :1]

    def replace(module: nn.Module, arguments: Any, output: Any) -> Any:
        output.last_hidden_state = part
        return output

    handle = found.base_model.register_forward_hook(replace)
    try:
        for first in range(0, tokens - 1, step):
            last = min(first + step, tokens - 1)
            part = hidden[:, first:last]
            logits = found(input_ids=ids[None, :1].expand(rows, 1), use_cache=False).logits
            targets = ids[None, first + 1 : last + 1].expand(rows, -1)
            pairs = zip(
                logits.flatten(0, 1).split(FLOATS_AT_ONCE), targets.flatten().split(FLOATS_AT_ONCE), strict=True
            )
            flat = [nn.functional.cross_entropy(one.float(), target, reduction="none") for one, target in pairs]
            losses.append(torch.cat(flat).view(rows, -1))
    finally:
        handle.remove()
    return torch.cat(losses, 1).cpu().numpy()


class _Layer(DynamicLayer):
    """A cache layer that stores nothing and answers attention for the whole text."""

    def __init__(self, number: int, held: Held, done: Callable[[], object]) -> None:
        super().__init__()
        self.number, self.held, self.done = number, held, done

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return attach_handler(key_states, self), value_states

    def attend(self, call: AttentionCall) -> Tensor:
        outputs = []
        for row in range(len(call.query)):
            tensors = call.query[row], call.key[row], call.value[row]
            evicted_at = self.held(self.number, row, *tensors, call.scoring.scaling)
            outputs.append(held_attention(*tensors, call.scoring.scaling, evicted_at))
        self.done()
        return torch.stack(outputs)
