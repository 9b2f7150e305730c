"""One forward and one backward pass: what `forward_pass.record` gives, and the gradient along each attention output.

The gradient is that of the sum of the text's next-token losses with respect to what each head's attention computed,
before the output projection. No parameter gets a gradient and nothing in the model changes. Long texts take little
memory: each layer is computed a second time while the gradient passes it, and logits exist for a few tokens at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.modeling_layers import GradientCheckpointingLayer

from analysis.captures.forward_pass import (
    CacheLayer,
    Consumer,
    RecordingLayer,
    cache_layers,
    captured_layers,
    check_new,
    check_seen,
    evaluating,
    run_decoder,
    without_adapter,
)
from analysis.captures.free_memory import free_bytes
from analysis.units import format_bytes
from treekv.attention import supported
from treekv.attention.interface import AttentionCall
from treekv.cache.hybrid_layer import with_attention
from treekv.errors import TreeKVError

# Takes the layer's number and the gradient, [query_heads, T, value_dim], in nats per unit of the values.
Receiver = Callable[[int, Tensor], None]

LOGITS_AT_ONCE = 2**24  # logits that exist at a time: 64 MB in float32, and four times that in all
KEPT_AT_MOST = 2**30  # bytes of activations that are kept rather than computed again
# What is not computed twice: attention takes time that grows with the square of the length, and its output little room.
ATTENTION = (
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
)
PROBE = 32  # tokens of the trial run
# Gradients of the loss are often below the smallest number of float16: there the loss is multiplied by this.
FLOAT16_LOSS_SCALE = 2.0**10


class Needs(NamedTuple):
    """What a backward pass takes.

    Attributes:
        recompute: whether layers are computed a second time instead of keeping their activations.
        fixed: bytes for a text of any length.
        per_token: bytes for each token.
    """

    recompute: bool
    fixed: int
    per_token: int

    def total(self, tokens: int) -> int:
        """Bytes for a text of `tokens` tokens."""
        return self.fixed + tokens * self.per_token


def record_with_gradients(
    model: nn.Module, ids: Sequence[int], layers: Sequence[int], consume: Consumer, receive: Receiver
) -> tuple[list[CacheLayer], float]:
    """`forward_pass.record`, and then `receive` for each of `layers`, from the last to the first.

    Returns the sizes of a cache of this model, and the mean loss of the text's tokens after the first, in nats.

    Raises TreeKVError, before the whole text is run, for a model that cannot be differentiated and too little memory,
    and for a layer that never computed attention, or more than once, or a gradient that is not finite. An exception of
    `consume` or `receive` ends the work; the model is unchanged.
    """
    model = without_adapter(model)
    needs = measure(model, ids, layers)
    check_memory(needs, len(ids), next(model.parameters()).device)
    return _run(model, ids, layers, consume, receive, needs.recompute)


def measure(model: nn.Module, ids: Sequence[int], layers: Sequence[int]) -> Needs:
    """What the backward pass takes, from a trial run of a few tokens. Raises TreeKVError where there is no gradient."""
    model = without_adapter(model)
    kind = type(model).__name__
    if model.get_output_embeddings() is None:  # type: ignore[operator]
        raise TreeKVError(f"this {kind} has no language-model head, so there is no loss; load a causal language model")
    if any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        raise TreeKVError(
            f"this {kind} was made in torch.inference_mode, so it has no gradients; load it outside of it"
        )
    probe, taken, outputs = list(ids[:PROBE]), 0, 0

    def consume(number: int, q: Tensor, k: Tensor, v: Tensor, scaling: float) -> None:
        nonlocal taken
        taken += q.nbytes + k.nbytes + v.nbytes

    def receive(number: int, gradient: Tensor) -> None:
        nonlocal taken, outputs
        taken += gradient.nbytes  # float32 for a moment, then half of it
        outputs += gradient.nbytes

    counter = _SavedBytes(model)
    try:
        with torch.autograd.graph.saved_tensors_hooks(counter.pack, lambda saved: saved):
            _run(model, probe, layers, consume, receive, recompute=False)
    except (RuntimeError, NotImplementedError, TypeError, AttributeError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).split(". ")[0]
        raise TreeKVError(f"this {kind} cannot be differentiated ({reason}); load it without quantisation") from error
    kept, captured = counter.total // len(probe), taken // len(probe)
    fixed = 4 * LOGITS_AT_ONCE * 4  # logits, their softmax and two gradients in float32
    whole = kept + captured
    if len(ids) * whole <= KEPT_AT_MOST or not _can_recompute(model):
        return Needs(False, fixed, whole)
    blocks = len(_blocks(model))
    hidden = model.config.get_text_config().hidden_size * next(model.parameters()).element_size()  # type: ignore
    # Input and attention output of all layers, and the activations of one, with their gradients and temporary tensors.
    return Needs(True, fixed, captured + blocks * hidden + outputs // len(probe) + 3 * kept // blocks)


def check_memory(needs: Needs, tokens: int, device: torch.device) -> None:
    """Raise TreeKVError when the backward pass over `tokens` tokens does not fit into what is free on `device`."""
    free = free_bytes(device)
    if needs.total(tokens) <= free:
        return
    fits = max(0, (free - needs.fixed) // needs.per_token)
    raise TreeKVError(
        f"the gradients of {tokens:,} tokens need about {format_bytes(needs.total(tokens))} of memory, but "
        f"{format_bytes(free)} are free on {str(device)!r}; "
        + (f"{fits:,} tokens would fit" if fits > PROBE else "capture without sensitivity, or free memory")
    )


def _run(
    model: nn.Module,
    ids: Sequence[int],
    layers: Sequence[int],
    consume: Consumer,
    receive: Receiver,
    recompute: bool,
) -> tuple[list[CacheLayer], float]:
    seen: list[int] = []
    arrived: list[int] = []
    scale = FLOAT16_LOSS_SCALE if next(model.parameters()).dtype == torch.float16 else 1.0

    def passed(number: int, *tensors: Any) -> None:
        check_new(number, seen)
        seen.append(number)
        consume(number, *tensors)

    def received(number: int, gradient: Tensor) -> None:
        if not bool(gradient.isfinite().all()):
            raise TreeKVError(
                f"the gradient of layer {number} is not finite in {gradient.dtype}; load the model in another dtype"
            )
        arrived.append(number)
        receive(number, gradient[0].detach().float() / scale)

    # A capture may be made inside inference_mode, whose tensors have no gradients.
    with torch.inference_mode(False), torch.enable_grad(), evaluating(model):
        config: Any = model.config
        cache = DynamicCache(config=config)
        phase = _Phase()
        windows = supported.windows_alone(config)
        for number in captured_layers(config):
            kept = number in layers
            own = _DifferentiableLayer(number, passed if kept else None, received if kept else None, phase)
            own.window = windows.get(number)
            cache.layers[number] = with_attention(cache.layers[number], own)
        for number, layer in enumerate(cache.layers):
            if type(layer) is DynamicSlidingWindowLayer:
                cache.layers[number] = _SlidingLayer(layer.sliding_window)
        with _recomputed(model) if recompute else ExitStack():
            decoded = run_decoder(model, torch.tensor([list(ids)]), cache)
        check_seen(layers, seen)
        hidden = decoded.last_hidden_state
        along, loss = _gradient_of_hidden(model, decoded, ids, scale)
        phase.backward = True
        if phase.first is None or not hidden.requires_grad:
            raise RuntimeError("the loss does not depend on the attention in a differentiable way")
        torch.autograd.grad(hidden, [phase.first], along)
    missing = sorted(set(layers) - set(arrived))
    if missing:
        raise RuntimeError(f"no gradient reaches layer {missing[0]}")
    return cache_layers(cache), loss


class _Phase:
    """Whether the gradient is on its way, so that layers are being computed a second time."""

    def __init__(self) -> None:
        self.backward = False
        self.first: Tensor | None = None  # the first captured layer's attention output


class _DifferentiableLayer(RecordingLayer):
    """A recording layer whose output passes its gradient on to a receiver."""

    def __init__(
        self, number: int, consume: Consumer | None, receive: Callable[[int, Tensor], None] | None, phase: _Phase
    ):
        super().__init__(number, consume)
        self.receive = receive
        self.phase = phase

    def attend(self, call: AttentionCall) -> Tensor:
        query, scaling = call.query, call.scoring.scaling
        # Keys and values of their own for each query head: not every backward kernel shares them among a group.
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (call.key, call.value))
        output = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
        if self.consume is None or self.receive is None:
            return output
        if not output.requires_grad:  # all below is frozen
            output.requires_grad_()
        if self.phase.backward:
            return output
        self.check_finite(call, output)
        self.consume(self.number, query[0].detach(), call.key[0].detach(), call.value[0].detach(), scaling)
        output.register_hook(partial(self.receive, self.number))
        if self.phase.first is None:
            self.phase.first = output
        return output


class _SlidingLayer(DynamicSlidingWindowLayer):
    """A sliding layer that stores nothing, so that it can be computed twice."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        # For `cache_layers`, which reads sizes only.
        self.keys, self.values = key_states.detach()[:, :, :1], value_states.detach()[:, :, :1]
        return key_states, value_states


class _SavedBytes:
    """Counts what autograd keeps for the backward pass, without the parameters."""

    def __init__(self, model: nn.Module) -> None:
        self.known = {x.untyped_storage().data_ptr() for x in (*model.parameters(), *model.buffers())}
        self.total = 0

    def pack(self, saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage.data_ptr() not in self.known:
            self.known.add(storage.data_ptr())
            self.total += storage.nbytes()
        return saved


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The layers that transformers itself can compute a second time."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def _can_recompute(model: nn.Module) -> bool:
    """Whether every layer's cache is one that a second computation finds as the first did."""
    config: Any = model.config
    layers = DynamicCache(config=config).layers
    known = {i for i in captured_layers(config) if type(layers[i]) is DynamicLayer}  # others have a state beside it
    plain = all(i in known or type(layer) is DynamicSlidingWindowLayer for i, layer in enumerate(layers))
    return plain and bool(_blocks(model))


@contextmanager
def _recomputed(model: nn.Module) -> Iterator[None]:
    """Inside, layers keep only their input and their attention output; the backward pass computes the rest again, also
    after the context has ended."""
    with ExitStack() as stack:
        for block in _blocks(model):
            again = partial(
                checkpoint,
                block.forward,
                use_reentrant=False,
                preserve_rng_state=False,
                context_fn=partial(create_selective_checkpoint_contexts, list(ATTENTION)),
            )
            stack.enter_context(_replaced_forward(block, again))
        yield


@contextmanager
def _replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Inside, calling the module calls `forward`."""
    own = module.__dict__.get("forward")  # accelerate's dispatch sets one, too
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


def _gradient_of_hidden(model: nn.Module, decoded: Any, ids: Sequence[int], scale: float) -> tuple[Tensor, float]:
    """Gradient of the sum of losses, times `scale`, with respect to the decoder's output [1, T, hidden]; the mean loss.

    The model's own forward pass computes the logits of a few tokens at a time (with its scaling or soft cap): its
    decoder answers with the hidden states that it gave before.
    """
    hidden: Tensor = decoded.last_hidden_state
    decoder: Any = model.base_model
    along = torch.zeros_like(hidden)
    total, last = 0.0, len(ids) - 1
    step = max(1, LOGITS_AT_ONCE // model.config.get_text_config().vocab_size)  # type: ignore[union-attr, operator]
    for first in range(0, last, step):
        end = min(first + step, last)
        part = hidden[:, first:end].detach().requires_grad_()
        answer = type(decoded)(**{**decoded, "last_hidden_state": part})
        tokens = torch.tensor([list(ids[first:end])], device=hidden.device)
        with _replaced_forward(decoder, lambda *_, answer=answer, **__: answer):
            logits = model(input_ids=tokens, use_cache=False).logits[0]
        targets = torch.tensor(list(ids[first + 1 : end + 1]), device=logits.device)
        loss = F.cross_entropy(logits.float(), targets, reduction="sum")
        (along[:, first:end],) = torch.autograd.grad(loss * scale, part)
        total += loss.item()
    return along, total / last
