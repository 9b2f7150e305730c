"""One compressed layer of a cache: slots of keys and values."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers.cache_utils import CacheLayerMixin

from treekv.attention.interface import AttentionCall, attach_handler
from treekv.attention.rotary import Rotary
from treekv.errors import TreeKVError


class Step(NamedTuple):
    """A part of a call of a layer that others follow.

    Attributes:
        rows: rows of the batch; None for a step that only moves tokens to other slots.
        real: which columns of these rows are no padding, None for all.
        first, last: which of these columns it is about.
        what: computes the attention of new tokens with a layer, or where slots were reordered, the old number of each.
    """

    rows: slice | None
    real: slice | Tensor | None
    first: int
    last: int
    what: Any


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

    def copy_tensors(self) -> None:
        """Replace tensors made under `torch.inference_mode` by copies."""


class TreeKVLayer(CacheLayerMixin):
    """One full-attention layer: a fixed number of slots of keys and values.

    Keys are stored as they arrive (positions="original") or unrotated, [batch, kv_heads, slots, head_dim]. A new token
    is written to a free slot and attended to there with all others; then a slot is freed, and nothing else moves.

    Attributes:
        queries: [batch, query_heads, n, head_dim], the last n of each row, stored as keys are, for a policy that looks
            at them; else None.
        scaling: the factor of their products.
        rotary: of the layer, if keys are stored unrotated.
        first_with_rotary: whether no layer before it has the same rotary embedding.
        future_rotary: of the layer, if prompts are scored by queries that are moved and the layer has one.
        number, layers: the layer's place among the compressed layers of the model, and how many there are.
        head_numbers: of a part of a layer (see `SplitLayer`), the numbers of its heads, which are rows here: those of
            the first row of the batch, then of the second. None for a whole layer.
        group_index, group_offset: its place in its group, and the rows before it there for each row of the batch.
        tokens_seen: columns of the input, padding included, as transformers counts.
        awaits_attention: whether the layer has got tokens that it was not asked to attend to yet.
        followed: whether later layers of the model attend to the same keys and values.
    """

    keys: Tensor
    values: Tensor
    queries: Tensor | None
    owner: LayerOwner  # set by the owner, with group_index

    def __init__(
        self, rotary: Rotary | None, number: int = 0, layers: int = 1, head_numbers: list[int] | None = None
    ) -> None:
        super().__init__()
        self.rotary, self.first_with_rotary = rotary, False
        self.future_rotary: Rotary | None = None
        self.queries, self.scaling = None, 1.0
        self.number, self.layers, self.head_numbers = number, layers, head_numbers
        self.group_index = self.group_offset = 0
        self.tokens_seen = 0
        self.awaits_attention = False
        self.followed = False
        self._steps: list[Step] = []
        self._before: tuple[Tensor, Tensor] | None = None

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
        if self.awaits_attention:
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
        self._steps, self._before = [], None
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

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        longest = self.owner.longest(self) if self.is_initialized else 0
        return longest + query_length, self.tokens_seen - longest

    def get_max_length(self) -> int:
        return -1  # any number of tokens may pass through

    def reset(self) -> None:
        """Forget everything and free the memory."""
        if self.is_initialized:
            self.keys, self.values, self.queries = self.keys.new_empty(0), self.values.new_empty(0), None
        self.owner.release()
        self._steps, self._before = [], None
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

    # ------------------------------------------------------------------ layers that follow

    def keep_slots(self) -> None:
        """Remember what the slots hold before a call that may overwrite or move it, for layers that follow."""
        if self.followed:
            self._before = self.keys.clone(), self.values.clone()

    def record(self, step: Step) -> None:
        """Remember a part of a call, for layers that follow."""
        if self.followed:
            self._steps.append(step)

    def repeated(self) -> tuple[TreeKVLayer, list[Step]]:
        """A layer with what the slots held before the last call, and the parts of this call.

        It is the layer itself if the call has written a token to a free slot and moved nothing: writing it again
        changes nothing.
        """
        if self._before is None:
            return self, self._steps
        twin = TreeKVLayer(self.rotary, self.number, self.layers, self.head_numbers)
        twin.keys, twin.values = (each.clone() for each in self._before)
        return twin, self._steps

    # ------------------------------------------------------------------ slots

    @property
    def batch(self) -> int:
        """Rows: those of the batch, or heads of them."""
        return self.keys.shape[0]

    @property
    def heads_as_rows(self) -> int:
        """Rows for each row of the batch."""
        return 1 if self.head_numbers is None else len(self.head_numbers)

    def rows_of(self, batch_rows: Tensor) -> Tensor:
        """The rows, LongTensor, that belong to rows of the batch."""
        n = self.heads_as_rows
        return batch_rows if n == 1 else (batch_rows[:, None] * n + torch.arange(n, device=batch_rows.device)).flatten()

    @property
    def slots(self) -> int:
        return self.keys.shape[2]

    def view(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Keys and values of some rows."""
        if rows.stop - rows.start == self.batch:
            return self.keys, self.values
        return self.keys[rows], self.values[rows]

    def reserve(self, slots: int) -> None:
        """Have at least so many slots."""
        more = slots - self.slots
        if more > 0:
            self.keys, self.values = (nn.functional.pad(each, (0, 0, 0, more)) for each in (self.keys, self.values))

    def write(
        self, rows: slice, slots: Tensor, key: Tensor, value: Tensor, differentiable: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Put q tokens of some rows at `slots` LongTensor [rows, kv_heads, q]; returns `view(rows)`.

        If it is to be differentiable, the slots are copied, for what earlier tokens of the call attended to must
        remain; gradients then pass through the slots until the call ends.
        """
        index = slots[..., None]
        if differentiable:
            index = index.clone()  # the gradient needs it, and the ledger's changes
            self.keys = _scattered(self.keys, rows, index, key)
            self.values = _scattered(self.values, rows, index, value)
            return self.view(rows)
        if key.requires_grad or value.requires_grad:
            key, value = key.detach(), value.detach()
        keys, values = self.view(rows)
        keys.scatter_(2, index.expand(-1, -1, -1, key.shape[3]), key)
        values.scatter_(2, index.expand(-1, -1, -1, value.shape[3]), value)
        return keys, values

    def remember(self, rows: slice, query: Tensor, most: int) -> None:
        """Cache the last `most` queries of some rows: `query` [rows, query_heads, q, head_dim] comes after those that
        are cached. Before there are so many, zeros come first."""
        if self.queries is None:
            self.queries = query.new_zeros((self.batch, query.shape[1], most, query.shape[3]))
        last = torch.cat([self.queries[rows], query.detach()], dim=2)[:, :, -most:]
        if last.shape[0] == self.batch:
            self.queries = last
        else:
            self.queries[rows] = last

    def fill(self, rows: slice, kept: Tensor, key: Tensor, value: Tensor, differentiable: bool = False) -> None:
        """Put the tokens at `kept` LongTensor [rows, kv_heads, k] of a prompt into the first k slots, in copies of them
        if it is to be differentiable."""
        if differentiable:
            self.keys, self.values = self.keys.clone(), self.values.clone()
        for stored, new in ((self.keys, key), (self.values, value)):
            stored[rows, :, : kept.shape[2]] = _chosen(new.detach(), kept)

    def reorder_slots(self, old: Tensor) -> None:
        """Keep some slots: LongTensor [batch, kv_heads, fewer slots], the present number of each."""
        if self._before is not None:  # else what happens to the slots happens before they are attended to
            self.record(Step(None, None, 0, 0, old))
        self.keys, self.values = _chosen(self.keys, old), _chosen(self.values, old)


def _scattered(stored: Tensor, rows: slice, index: Tensor, new: Tensor) -> Tensor:
    """A copy of `stored` with `new` in some rows at `index` LongTensor [rows, kv_heads, q, 1]."""
    part = stored[rows].scatter(2, index.expand(-1, -1, -1, new.shape[3]), new)
    return part if part.shape[0] == stored.shape[0] else stored.slice_scatter(part, 0, rows.start, rows.stop)


def _chosen(tensor: Tensor, slots: Tensor) -> Tensor:
    return tensor.gather(2, slots[..., None].expand(-1, -1, -1, tensor.shape[3]))
