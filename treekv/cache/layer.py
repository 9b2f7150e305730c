"""One compressed layer of a cache: slots of keys and values."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.cache_utils import CacheLayerMixin

from treekv.attention.interface import AttentionCall, attach_handler
from treekv.attention.rotary import Rotary
from treekv.errors import TreeKVError


class LayerOwner(Protocol):
    """Decides what is in the slots of a layer."""

    def allocate(self, layer: TreeKVLayer, batch: int, heads: int, device: torch.device) -> None:
        """Called by each layer before its first token."""
        ...

    def release(self) -> None:
        """Forget everything."""
        ...

    def longest(self, layer: TreeKVLayer) -> int:
        """The most tokens that a row of the layer holds."""
        ...

    def attend(self, layer: TreeKVLayer, call: AttentionCall) -> Tensor:
        """Attend to the kept tokens and to the new ones, then store and evict."""
        ...

    def copy_tensors(self) -> None:
        """Replace tensors made under `torch.inference_mode` by copies."""
        ...


class TreeKVLayer(CacheLayerMixin):
    """One full-attention layer: a fixed number of slots of keys and values.

    Keys are stored as they arrive (positions="original") or unrotated (positions="rank"), [batch, kv_heads,
    slots, head_dim]. A new token is written to a free slot and attended to there with all others; then a slot is
    freed, and nothing else moves.

    Attributes:
        number, layers: the layer's place among the compressed layers of the model, and how many there are.
        group_index: its place in its group.
        tokens_seen: columns of the input, padding included, as transformers counts.
    """

    keys: Tensor
    values: Tensor
    owner: LayerOwner  # set by the owner, with group_index

    def __init__(self, rotary: Rotary | None, number: int = 0, layers: int = 1) -> None:
        super().__init__()
        self.rotary = rotary
        self.number, self.layers = number, layers
        self.group_index = 0
        self.tokens_seen = 0
        self._awaiting_attention = False

    # ------------------------------------------------------------------ what transformers calls

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        batch, heads = key_states.shape[:2]
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = key_states.new_empty((batch, heads, 0, key_states.shape[3]))
        self.values = value_states.new_empty((batch, heads, 0, value_states.shape[3]))
        self.owner.allocate(self, batch, heads, key_states.device)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self._awaiting_attention:
            raise TreeKVError(
                "the last forward pass did not finish, or the model does not use the attention implementation "
                "'treekv': call model.set_attn_implementation('treekv') and start with cache.reset()"
            )
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        batch, expected = key_states.shape[0], self.batch
        if batch != expected:
            raise TreeKVError(
                f"the cache holds {expected} rows, but the input has {batch}: call cache.reset() for a new batch, or "
                "cache.batch_select_indices(...) to continue with some rows"
            )
        compiling = torch.compiler.is_compiling()
        if not compiling and self.keys.is_inference() and not torch.is_inference_mode_enabled():
            # Tensors made under torch.inference_mode cannot be changed outside of it; copies can.
            self.keys, self.values = self.keys.clone(), self.values.clone()
            self.owner.copy_tensors()
        self._awaiting_attention = True
        return attach_handler(key_states, self), value_states

    def attend(self, call: AttentionCall) -> Tensor:
        """See `treekv.attention.interface.AttentionHandler`."""
        output = self.owner.attend(self, call)
        self.tokens_seen += call.query.shape[2]
        self._awaiting_attention = False
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
            self.keys, self.values = self.keys.new_empty(0), self.values.new_empty(0)
        self.owner.release()
        self.is_initialized = False
        self.tokens_seen = 0
        self._awaiting_attention = False

    # The cache selects the same rows of the ledger, which belongs to several layers.

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.is_initialized:
            indices = indices.to(self.device)
            self.keys = self.keys.index_select(0, indices)
            self.values = self.values.index_select(0, indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.is_initialized:
            self.batch_select_indices(torch.arange(self.batch).repeat_interleave(repeats))

    # ------------------------------------------------------------------ slots

    @property
    def batch(self) -> int:
        return self.keys.shape[0]

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
            pad = (0, 0, 0, more)
            self.keys = nn.functional.pad(self.keys, pad)
            self.values = nn.functional.pad(self.values, pad)

    def write(self, rows: slice, slots: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put q tokens of some rows at `slots` LongTensor [rows, kv_heads, q]; returns `view(rows)`."""
        keys, values = self.view(rows)
        index = slots[..., None]
        keys.scatter_(2, index.expand(-1, -1, -1, key.shape[3]), key.detach())
        values.scatter_(2, index.expand(-1, -1, -1, value.shape[3]), value.detach())
        return keys, values

    def fill(self, rows: slice, kept: Tensor, key: Tensor, value: Tensor) -> None:
        """Put the tokens at `kept` LongTensor [rows, kv_heads, k] of a prompt into the first k slots."""
        index, k = kept[..., None], kept.shape[2]
        self.keys[rows, :, :k] = key.detach().gather(2, index.expand(-1, -1, -1, key.shape[3]))
        self.values[rows, :, :k] = value.detach().gather(2, index.expand(-1, -1, -1, value.shape[3]))

    def reorder_slots(self, old: Tensor) -> None:
        """Keep some slots: LongTensor [batch, kv_heads, fewer slots], the present number of each."""
        index = old[..., None]
        self.keys = self.keys.gather(2, index.expand(-1, -1, -1, self.keys.shape[3]))
        self.values = self.values.gather(2, index.expand(-1, -1, -1, self.values.shape[3]))
