"""The attention implementation "treekv": every attention call is answered by the cache layer it belongs to.

transformers calls `cache.update(key, value)` and then the registered attention function, which is given no
cache. The two meet through the key: a cache layer that computes attention itself returns `attach_handler(key, self)`
from `update`, and `treekv_attention` passes the call to that handler. A key without a handler (no cache, another cache,
the sliding layers of a hybrid model) goes to PyTorch's SDPA as usual.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from treekv.attention.softmax import Scoring, explicit_attention
from treekv.errors import TreeKVError
from treekv.transformers_releases import query_count

NAME = "treekv"

_HANDLER = "_treekv_handler"
_REQUEST = "_treekv_mask_request"


class AttentionCall(NamedTuple):
    """What the attention of one layer is asked for.

    Attributes:
        query: [batch, query_heads, q, head_dim], after rotary embedding.
        key, value: the q new ones, [batch, kv_heads, q, head_dim], after rotary embedding. A layer that attends to the
            keys and values of an earlier one may ask for its last queries only, and then there are fewer of these.
        padding: bool [batch, seen + q], False where a token is padding, or None when none of the new tokens is (with
            several of them, when nothing was read before either).
        scoring: how products of queries and keys become weights.
        position_ids: [1 or batch, q] as the model used them, or None where it does not pass them on.
        latents: of latent attention, what keys and values are computed from and what is cached of the new tokens.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    padding: Tensor | None
    scoring: Scoring
    position_ids: Tensor | None
    latents: tuple[Tensor, Tensor] | None = None


class AttentionHandler(Protocol):
    """Computes the attention of one layer over what its cache keeps."""

    def attend(self, call: AttentionCall) -> Tensor:
        """Return the attention output [batch, query_heads, q, head_dim]."""
        ...


def attach_handler(key: Tensor, handler: AttentionHandler) -> Tensor:
    """Mark `key`, so that the attention call that receives it is answered by `handler`."""
    key = key.view_as(key)  # a new tensor object: the mark must not outlive this call
    setattr(key, _HANDLER, handler)
    return key


def attach_to_all_made_of(latents: Tensor, handler: AttentionHandler) -> Tensor:
    """Mark `latents` and all that is computed from them, so that the attention call that receives keys made of them is
    answered by `handler`."""
    marked = latents.as_subclass(_Marked)
    setattr(marked, _HANDLER, handler)
    return marked


class _Marked(Tensor):
    """A tensor whose handler goes on to what is computed from it."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = super().__torch_function__(func, types, args, kwargs or {})
        handler = next((handler for each in args if (handler := getattr(each, _HANDLER, None)) is not None), None)
        for each in found if isinstance(found, (tuple, list)) else [found]:
            if isinstance(each, _Marked):
                setattr(each, _HANDLER, handler)
        return found


def handler_of(key: Tensor) -> AttentionHandler | None:
    """The handler of the attention call that receives this key; None for PyTorch's own attention."""
    return getattr(key, _HANDLER, None)


def treekv_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The function registered under the name "treekv"; transformers calls it, users never do.

    Returns the attention output [batch, q, query_heads, head_dim] and None for the weights.
    """
    handler = handler_of(key)
    if type(key) is _Marked:  # a tensor's isinstance is slow
        key, value = key.as_subclass(Tensor), value.as_subclass(Tensor)
    if kwargs.get("sinks") is not None:  # of each query; SDPA would ignore them
        raise _not_computed("sinks")
    sink = kwargs.get("s_aux")
    scoring = Scoring(
        query.shape[-1] ** -0.5 if scaling is None else scaling,
        kwargs.get("softcap"),
        None if sink is None else sink[None],
    )
    if handler is None and scoring.is_plain:
        mask = _materialized(attention_mask)
        return sdpa_attention_forward(module, query, key, value, mask, dropout=dropout, scaling=scaling, **kwargs)
    if kwargs.get("position_bias") is not None:
        raise _not_computed("position_bias")
    if getattr(module, "is_causal", True) is False:
        raise TreeKVError("the model's attention is bidirectional, but a cache needs tokens that see only earlier ones")
    if handler is None:  # SDPA would leave out the sink, and refuse the cap
        output = explicit_attention(query, key, value, scoring, _materialized(attention_mask), dropout)
        return output.transpose(1, 2).contiguous(), None
    if dropout:
        raise TreeKVError(
            f"the model drops attention weights in training (attention_dropout {dropout}), which a TreeKV cache does "
            "not do: set attention_dropout to 0.0, or call model.eval()"
        )
    if kwargs.get("output_attentions"):
        raise TreeKVError("attention weights cannot be returned with a TreeKV cache: leave output_attentions out")
    padding, position_ids = _padding_of(attention_mask), kwargs.get("position_ids")
    output = handler.attend(AttentionCall(query, key, value, padding, scoring, position_ids))
    return output.transpose(1, 2).contiguous(), None


def _not_computed(argument: str) -> TreeKVError:
    return TreeKVError(
        f"the model's attention uses {argument!r}, which TreeKV does not compute; "
        "use a model with plain softmax attention"
    )


def treekv_mask(
    batch_size: int,
    q_length: int | None = None,
    kv_length: int = 0,
    q_offset: int = 0,
    kv_offset: int = 0,
    attention_mask: Tensor | None = None,
    device: torch.device | str = "cpu",
    **kwargs: Any,
) -> Tensor:
    """The mask registered under the name "treekv": the two-dimensional padding mask, as it is.

    A handler only needs to know which of the new tokens are padding, since it computes causality itself. Attention
    without a handler gets the four-dimensional mask, built from the request that is attached to the tensor; so no
    q x kv matrix is built unless it is used.
    """
    if q_length is None:  # an earlier release of transformers: `cache_position` says it, and the device
        q_length, device = query_count(kwargs["cache_position"]), kwargs["cache_position"].device
    columns = kv_offset + kv_length
    if not batch_size or not q_length:
        read = (
            f" beyond the {columns} that the cache has read; call cache.reset() for another prompt" if columns else ""
        )
        raise TreeKVError(f"there is nothing to read: the input has {batch_size} rows of {q_length} tokens{read}")
    if attention_mask is None:
        mask = torch.ones((), dtype=torch.bool, device=device).expand(batch_size, columns)
        padded = False
    else:
        if not isinstance(attention_mask, Tensor) or attention_mask.ndim != 2:
            raise _not_two_dimensional(attention_mask)
        mask = attention_mask.view_as(attention_mask)
        # Checked once a pass, not once a layer. A compiled step cannot check: its one token is taken to be real.
        if torch.compiler.is_compiling():
            padded = q_length > 1 and _has_padding(mask, q_length)
        else:
            padded = not bool(mask[:, -q_length:].all())
        # With several new tokens, the mask is also compared with what was read earlier; while decoding it is not.
        padded = padded or 1 < q_length < columns
    request = dict(
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,
        kv_offset=kv_offset,
        attention_mask=attention_mask,
        device=device,
        **kwargs,
    )
    if "reuse" in (getattr(kwargs.get("config"), "kv_sharing_modes", None) or ()):
        mask = mask.as_subclass(_SlicedMask)
        request["allow_is_causal_skip"] = False  # it aligns the first query and key
    setattr(mask, _REQUEST, (padded, (batch_size, columns), request))
    return mask


class _SlicedMask(Tensor):
    """A padding mask of which models take the last queries, as of one with four dimensions: `mask[:, :, -1:, :]`.

    Those with layers that attend to the keys and values of earlier ones do that, since these layers need not compute
    outputs that nothing reads.
    """

    def __getitem__(self, index: Any) -> Tensor:
        if self.ndim != 2 or not isinstance(index, tuple) or len(index) != 4:
            return super().__getitem__(index)
        mask = self.view_as(self).as_subclass(_SlicedMask)
        padded, shape, request = getattr(self, _REQUEST)
        built = _materialized(self)
        assert built is not None  # it is not skipped
        setattr(mask, _REQUEST, (padded, shape, {**request, "built": built[index]}))
        return mask


@torch.compiler.disable(
    reason="a prompt's attention mask has to be read: compile the model without fullgraph=True, leave the mask "
    "out, or compile decode steps alone"
)
def _has_padding(mask: Tensor, q: int) -> bool:
    """The same check in a compiled call: the graph ends here, and with fullgraph=True the compiler refuses."""
    return not bool(mask[:, -q:].all())


def _padding_of(mask: Tensor | None) -> Tensor | None:
    if mask is None:
        return None
    if mask.ndim != 2:
        raise _not_two_dimensional(mask)
    padded, shape, request = getattr(mask, _REQUEST, (True, mask.shape, None))
    if request is not None and mask.shape != shape:
        q = request["q_length"]
        raise TreeKVError(
            f"the attention mask has {mask.shape[0]} rows of {mask.shape[1]} tokens, but {shape[0]} rows of "
            f"{shape[1]} are right: {shape[1] - q} that the cache has read and {q} new; give the mask of the whole "
            "conversation, or call cache.reset() for another prompt"
        )
    return mask.bool() if padded else None


def _not_two_dimensional(mask: Any) -> TreeKVError:
    what = f"of {mask.ndim} dimensions {tuple(mask.shape)}" if isinstance(mask, Tensor) else f"{type(mask).__name__}"
    return TreeKVError(
        f"a custom attention mask {what} cannot be combined with a TreeKV cache; pass the two-dimensional padding "
        "mask, a tensor [batch, tokens]"
    )


def _materialized(mask: Tensor | None) -> Tensor | None:
    """The mask that SDPA needs, built once per forward pass and kept with the request."""
    request = getattr(mask, _REQUEST, None)
    if request is None:
        return mask
    _, _, arguments = request
    if "built" not in arguments:
        arguments["built"] = sdpa_mask(**arguments)
    return arguments["built"]


def register() -> None:
    """Make `model.set_attn_implementation("treekv")` known to transformers."""
    AttentionInterface.register(NAME, treekv_attention)
    AttentionMaskInterface.register(NAME, treekv_mask)


register()
