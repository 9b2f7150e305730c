"""Run a model once over a text and keep what its full-attention layers computed.

    captured = capture(model, tokenizer, text, max_tokens=2048, queries=16)
    captured.weights(0, [2047])            # [query_heads, 1, 2048]
    captured.contributions(0, 2047)        # [query_heads, 2048, head_dim]
    captured.save("capture.nc")

The forward pass and its output are the usual ones; no attention matrix is ever built.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from analysis.captures.backward_pass import record_with_gradients
from analysis.captures.data import Capture
from analysis.captures.forward_pass import record
from analysis.captures.request import CaptureRequest, Text
from analysis.progress import Progress


def capture(
    model: nn.Module,
    tokenizer: Any,
    text: Text,
    max_tokens: int = 2048,
    queries: int = 16,
    *,
    layers: Sequence[int] | None = None,
    sensitivity: bool = False,
    progress: Progress | None = None,
) -> Capture:
    """Run `model` once over the first `max_tokens` tokens of `text` and keep the queries, keys and values.

    For models whose capture does not fit into memory, `analysis.capture_spectrum` keeps only the spectrum.

    Args:
        model: a causal model of transformers whose attention is "treekv" (as `load_model` returns it).
        tokenizer: its tokenizer; may be None when `text` is token ids.
        text: a string, or token ids.
        max_tokens: how many tokens to use at most.
        queries: the last so many tokens are the observed ones.
        layers: the model's numbers of the layers to keep; by default every full-attention layer. Sliding-window
            layers of a hybrid model run as usual and cannot be captured; those of a model that has no others are
            captured of texts that fit into their window.
        sensitivity: also keep the gradient of the text's loss along each attention output, which one backward pass
            gives (`Capture.gradient`); attrs["loss"] is then the mean next-token loss in nats. Takes about four times
            as long. No parameter gets a gradient.
        progress: called with (done, steps) after each layer; with `sensitivity` each layer counts twice.

    Tensors stay on the model's device and in its dtype, gradients in float16 with a scale for each layer.

    Raises:
        TreeKVError: an empty or too short text, a number out of range, a layer that cannot be captured, a model
            with another attention, or a text longer than the model has positions. With `sensitivity` also a model that
            cannot be differentiated, and too little memory, both before the whole text is run.
    """
    request = CaptureRequest.of(model, tokenizer, text, max_tokens, queries, layers, sensitivity)
    return run_request(model, request, progress)


def run_request(model: nn.Module, request: CaptureRequest, progress: Progress | None = None) -> Capture:
    """Capture what a checked request asks for."""
    kept: dict[str, list[Any]] = {name: [] for name in ("layers", "q", "k", "v", "scaling")}
    gradients: dict[int, tuple[Tensor, float]] = {}

    def advance() -> None:
        if progress is not None:
            progress(len(kept["layers"]) + len(gradients), request.steps)

    def consume(number: int, q: Tensor, k: Tensor, v: Tensor, scaling: float) -> None:
        # The model may reuse its buffers or pass views of a larger projection: keep a compact copy.
        compact = [x.clone(memory_format=torch.contiguous_format) for x in (q, k, v)]
        for name, value in zip(kept, (number, *compact, scaling), strict=True):
            kept[name].append(value)
        advance()

    def receive(number: int, gradient: Tensor) -> None:
        gradients[number] = _scaled(gradient)
        advance()

    attrs = {**request.attrs, "fingerprint": request.fingerprint()}
    if request.sensitivity:
        model_layers, attrs["loss"] = record_with_gradients(model, request.ids, request.layers, consume, receive)
    else:
        model_layers = record(model, request.ids, request.layers, consume)
    along = [gradients[number] for number in kept["layers"]] if request.sensitivity else None
    return Capture(
        **kept,
        token_ids=torch.tensor(request.ids),
        token_text=request.token_text,
        query_positions=request.queries,
        model=request.model,
        attrs={**attrs, "model_layers": json.dumps(model_layers)},
        g=None if along is None else [g for g, _ in along],
        g_scale=None if along is None else [scale for _, scale in along],
    )


def _scaled(gradient: Tensor) -> tuple[Tensor, float]:
    """The gradient in float16 and the power of two to multiply it by: largest numbers of 2^14 and more, so that those
    2^28 times smaller keep all digits."""
    largest = float(gradient.abs().max())
    scale = 2.0 ** (math.frexp(largest)[1] - 15) if largest > 0 else 1.0
    return (gradient / scale).half(), scale
