"""One compressed layer of a cache: slots of keys and values."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from treekv.attention.interface import AttentionCall, attach_handler
from treekv.attention.rotary import Rotary
from treekv.cache.slot_plan import TokenPlan
from treekv.cache.slots import Slots
from treekv.errors import TreeKVError
from treekv.transformers_releases import CacheLayer


class LayerOwner(Protocol):
    """Decides what is in the slots of a layer."""

    def allocate(self, layer: TreeKVLayer, batch: int, heads: int, device: torch.device) -> None:
        """Called by each layer before its first token."""

    def release(self) -> None:
        """Forget everything."""

    def longest(self, layer: TreeKVLayer) -> int:
        """The most tokens that a row of the layer holds."""

    def attend(self, layer: TreeKVLayer, call: AttentionCall) -> Tensor:
        """Attend to the kept tokens and to the new ones, then store and evict."""

    def follow(self, layer: TreeKVLayer, call: AttentionCall) -> Tensor:
        """Attend with other queries to what the last call of `attend` attended to."""

    def plan_token(self, layer: TreeKVLayer) -> TokenPlan | None:
        """How a layer takes one new token; None where it has to attend by itself."""

    def collect_token(self, layer: TreeKVLayer, observed: Tensor | None, queries: int) -> None:
        """Take what the `queries` of each KV head saw of a layer that has attended as planned."""

    def share_prompts(self, parts: list[TreeKVLayer]) -> None:
        """Keep what the heads of a layer, its parts, keep of their `waiting` prompts together."""

    def copy_tensors(self) -> None:
        """Replace tensors made under `torch.inference_mode` by copies."""


class TreeKVLayer(Slots, CacheLayer):  # type: ignore[misc]  # whose keys and values may be None
    """One full-attention layer: a fixed number of slots of keys and values, and what transformers calls.

    Attributes:
        first_with_rotary: whether no layer before it has the same rotary embedding.
        future_rotary: of the layer, if prompts are scored by queries that are moved and the layer has one.
        group_index, group_offset: its place in its group, and the rows before it there for each row of the batch.
        tokens_seen: columns of the input, padding included, as transformers counts.
        waiting: prompts of which a head keeps a part that depends on the layer's other heads.
        awaits_attention: whether the layer has got tokens that it was not asked to attend to yet.
    """

    owner: LayerOwner  # set by the owner, with group_index

    def __init__(
        self, rotary: Rotary | None, number: int = 0, layers: int = 1, head_numbers: list[int] | None = None
    ) -> None:
        CacheLayer.__init__(self)
        Slots.__init__(self, rotary, number, layers, head_numbers)
        self.first_with_rotary = False
        self.future_rotary: Rotary | None = None
        self.group_index = self.group_offset = 0
        self.tokens_seen = 0
        self.awaits_attention = False
        self.waiting: list[Any] = []

    # ------------------------------------------------------------------ what transformers calls

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        batch, heads = key_states.shape[:2]
        if self.head_numbers is not None:
            batch, heads = batch * len(self.head_numbers), 1
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = key_states.new_empty((batch, heads, 0, key_states.shape[3]))
        self.values = value_states.new_empty((batch, heads, 0, value_states.shape[3]))
        self.owner.allocate(self, batch, heads, key_states.device)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.expect(key_states, value_states)
        return attach_handler(key_states, self), value_states

    def expect(self, key_states: Tensor, value_states: Tensor) -> None:
        """Get ready for a call of `attend` with these new tokens of the whole layer [batch, all kv_heads, q, dim].

        Raises:
            TreeKVError: the last call is not finished, or the batch, the KV heads, their size or the dtype are others.
        """
        if self.awaits_attention or self.waiting:
            raise TreeKVError(
                "the last forward pass did not finish, or the model does not use the attention implementation "
                "'treekv': call model.set_attn_implementation('treekv') and start with cache.reset()"
            )
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        batch, expected = key_states.shape[0], self.batch // self.heads_as_rows
        if batch != expected:
            raise TreeKVError(
                f"the cache holds {expected} rows, but the input has {batch}: call cache.reset() for a new batch, or "
                "cache.batch_select_indices(...) to continue with some rows"
            )
        self._check_same(key_states, value_states)
        compiling = torch.compiler.is_compiling()
        if not compiling and self.keys.is_inference() and not torch.is_inference_mode_enabled():
            # Tensors made under torch.inference_mode cannot be changed outside of it; copies can.
            self.keys, self.values = self.keys.clone(), self.values.clone()
            self.queries = None if self.queries is None else self.queries.clone()
            self.owner.copy_tensors()
        self.awaits_attention = True

    def _check_same(self, key: Tensor, value: Tensor) -> None:
        """Refuse keys and values that are not like those in the slots: another model, or one that was converted."""
        heads = self.keys.shape[1] if self.head_numbers is None else key.shape[1]  # `SplitLayer` counts them itself
        held = (heads, self.keys.shape[3], self.values.shape[3])
        given = (key.shape[1], key.shape[3], value.shape[3])
        if given != held:
            raise TreeKVError(
                f"the cache holds {held[0]} KV heads with {held[1]} channels a key and {held[2]} a value in layer "
                f"{self.number}, but the model gives {given[0]} with {given[1]} and {given[2]}: make a cache with the "
                "configuration of this model"
            )
        if (key.dtype, value.dtype) != (self.keys.dtype, self.values.dtype):
            raise TreeKVError(
                f"the cache holds keys in {self.keys.dtype} and values in {self.values.dtype}, but the model gives "
                f"{key.dtype} and {value.dtype} now: call cache.reset() and give the whole text again"
            )
        if key.device != self.device:
            raise TreeKVError(
                f"layer {self.number} of the cache is on {str(self.device)!r}, but the model is on {str(key.device)!r} "
                "now: call cache.reset() and give the whole text again"
            )

    def attend(self, call: AttentionCall) -> Tensor:
        """See `treekv.attention.interface.AttentionHandler`.

        Raises:
            TreeKVError: it was done for these tokens already.
        """
        if not self.awaits_attention and self.followed:
            return self._detached(self.owner.follow(self, call))
        if not self.awaits_attention:
            raise TreeKVError(
                f"layer {self.number} of the model attends more than once to the same new tokens, which a TreeKV cache "
                "does not compute; call cache.reset() and use a model with one softmax attention a layer"
            )
        self.forget_call()
        output = self._detached(self.owner.attend(self, call))
        self.tokens_seen += call.query.shape[2]
        self.awaits_attention = False
        return output

    def _detached(self, output: Tensor) -> Tensor:
        if output.requires_grad:
            # The next call must not write into what the gradient of this one needs.
            self.keys, self.values = self.keys.detach().clone(), self.values.detach().clone()
        return output

    def get_seq_length(self) -> int:
        return self.tokens_seen

    def mask_sizes(self, queries: int) -> tuple[int, int]:
        longest = self.owner.longest(self) if self.is_initialized else 0
        return longest + queries, self.tokens_seen - longest

    def reset(self) -> None:
        """Forget everything and free the memory."""
        if self.is_initialized:
            self.keys, self.values, self.queries = self.keys.new_empty(0), self.values.new_empty(0), None
        self.owner.release()
        self.forget_call()
        self.waiting.clear()
        self.is_initialized = False
        self.tokens_seen = 0
        self.awaits_attention = False

    # The cache selects the same rows of the ledger, which belongs to several layers.

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.is_initialized:
            indices = self.rows_of(indices.to(self.device))
            self.keys, self.values = (each.index_select(0, indices) for each in (self.keys, self.values))
            self.queries = None if self.queries is None else self.queries.index_select(0, indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.is_initialized:
            rows = torch.arange(self.batch // self.heads_as_rows)
            self.batch_select_indices(rows.repeat_interleave(repeats))
