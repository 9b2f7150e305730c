"""One compressed layer of a cache: slots of keys and values, and attention over them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.cache_utils import CacheLayerMixin

from treekv import attention, policies, prefill
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError
from treekv.ledger import Ledger
from treekv.rotary import Rotary, Shift, turn


class TreeKVLayer(CacheLayerMixin):
    """One full-attention layer: fixed slots of keys and values, and the ledger that says what is in them.

    Keys are stored as they arrive (positions="original") or unrotated (positions="rank"), [batch, kv_heads,
    slots, head_dim]. An eviction moves nothing: the newcomer takes the slot that became free.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, config: TreeKVConfig, rotary: Rotary | None, layer: int = 0, layers: int = 1) -> None:
        super().__init__()
        self.config = config
        self.rotary = rotary
        self.layer, self.layers = layer, layers
        self.ledger: Ledger | None = None
        self.tokens_seen = 0  # columns of the input, padding included, as transformers counts
        self._awaiting_attention = False

    # ------------------------------------------------------------------ what transformers asks for

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        batch, heads = key_states.shape[:2]
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = key_states.new_empty((batch, heads, 0, key_states.shape[3]))
        self.values = value_states.new_empty((batch, heads, 0, value_states.shape[3]))
        self.ledger = Ledger(self.config, batch, heads, key_states.device, self.layer, self.layers)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self._awaiting_attention:
            raise TreeKVError(
                "the last forward pass did not finish, or the model does not use the attention implementation "
                "'treekv': call model.set_attn_implementation('treekv') and start with cache.reset()"
            )
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        batch, expected = key_states.shape[0], self.keys.shape[0]
        if batch != expected:
            raise TreeKVError(
                f"the cache holds {expected} rows, but the input has {batch}: call cache.reset() for a new batch, or "
                "cache.batch_select_indices(...) to go on with some rows"
            )
        compiling = torch.compiler.is_compiling()
        if not compiling and self.keys.is_inference() and not torch.is_inference_mode_enabled():
            self._leave_inference_mode()
        self._awaiting_attention = True
        return attention.at_site(key_states, self), value_states

    def get_seq_length(self) -> int:
        return self.tokens_seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        held = max(self.ledger.held) if self.ledger is not None else 0
        return held + query_length, self.tokens_seen - held

    def get_max_length(self) -> int:
        return -1  # any number of tokens may pass through

    def reset(self) -> None:
        """Forget everything; memory is given back."""
        if self.is_initialized:
            self.keys, self.values = self.keys.new_empty(0), self.values.new_empty(0)
        self.ledger = None
        self.is_initialized = False
        self.tokens_seen = 0
        self._awaiting_attention = False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.ledger is not None:
            indices = indices.to(self.device)
            self.keys = self.keys.index_select(0, indices)
            self.values = self.values.index_select(0, indices)
            self.ledger.select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.ledger is not None:
            batch = len(self.ledger.held)
            self.batch_select_indices(torch.arange(batch).repeat_interleave(repeats))

    # ------------------------------------------------------------------ attention

    def attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        padding: Tensor | None,
        scaling: float,
        position_ids: Tensor | None,
    ) -> Tensor:
        """Attend to what is held and to the newcomers, then keep and evict; see `AttentionSite`."""
        assert self.ledger is not None
        if self.layer == 0 and self.rotary is not None:
            self.rotary.forget()
        batch, q = key.shape[0], key.shape[2]
        pads = _left_padding(padding, batch, q)
        if q == 1 and not any(pads) and not self.ledger.in_step(1) and self.ledger.has_room():
            self.tokens_seen += 1
            self._awaiting_attention = False
            return self._append_one(query, key, value, scaling, position_ids)
        if pads.count(pads[0]) == batch and self.ledger.in_step(q - pads[0]):
            groups = [slice(0, batch)]
        else:
            groups = [slice(row, row + 1) for row in range(batch)]
        output = query.new_zeros((*query.shape[:3], value.shape[3])) if len(groups) > 1 or pads[0] else None
        for rows in groups:
            pad = pads[rows.start]
            if pad == q:
                continue
            whole = len(groups) == 1 and not pad
            new = [query, key, value] if whole else [t[rows, :, pad:] for t in (query, key, value)]
            positions = _Positions(position_ids, rows, pad, self.ledger)
            result = self._attend_rows(rows, new[0], new[1], new[2], scaling, positions)
            if output is None:
                output = result
            else:
                output[rows, :, pad:] = result
        self.tokens_seen += q
        self._awaiting_attention = False
        assert output is not None
        if q > 1 and not torch.compiler.is_compiling() and not bool(output.isfinite().all()):
            raise TreeKVError(
                f"the attention of layer {self.layer} is not made of finite numbers (the model computes in "
                f"{output.dtype}); try torch.float32 or torch.bfloat16, and cache.reset() before going on"
            )
        return output

    def _attend_rows(
        self, rows: slice, query: Tensor, key: Tensor, value: Tensor, scaling: float, positions: _Positions
    ) -> Tensor:
        """Rows in the same state, without padding."""
        ledger, q = self.ledger, key.shape[2]
        assert ledger is not None
        if not (ledger.policy.evicts_prompt or ledger.policy.evicts_decoding):
            return self._append(rows, query, key, value, scaling)
        if ledger.seen[rows][0] == 0 and self.config.prefill != "stream":
            return self._prompt(rows, query, key, value, scaling, positions)
        size = self.config.block_size
        if q <= size:
            return self._block(rows, query, key, value, scaling, positions)
        outputs = []
        for first in range(0, q, size):
            block = slice(first, first + size)
            new = (query[:, :, block], key[:, :, block], value[:, :, block])
            outputs.append(self._block(rows, *new, scaling, positions.after(first)))
        return torch.cat(outputs, dim=2)

    def _append(self, rows: slice, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Policy "full": keep everything."""
        assert self.ledger is not None
        held, q = self.ledger.held[rows][0], key.shape[2]
        self._reserve(held + q, None)
        self.keys[rows, :, held : held + q] = key.detach()
        self.values[rows, :, held : held + q] = value.detach()
        self.ledger.step(rows, q, None)
        keys, values = (t[rows, :, : held + q] for t in (self.keys, self.values))
        if q > 1:
            return prefill.causal_attention(query, keys, values, scaling)
        return prefill.observed_attention(query, [keys], [values], scaling)[0]

    def _append_one(
        self, query: Tensor, key: Tensor, value: Tensor, scaling: float, position_ids: Tensor | None
    ) -> Tensor:
        """One newcomer for each of rows that hold different numbers of tokens, none of them full yet."""
        ledger = self.ledger
        assert ledger is not None
        longest = max(ledger.held)
        keys, values = self.keys[:, :, :longest], self.values[:, :, :longest]
        stored = key
        if self.rotary is not None:
            rows = slice(0, len(ledger.held))
            positions = _Positions(position_ids, rows, 0, ledger)
            shift = self.rotary.shift(*positions.columns(1), tuple(ledger.held))
            query, key, stored = self._turned(query, key, shift)
            keys = self.rotary.in_order(keys)
        held = torch.tensor([*ledger.held], device=self.device)[:, None]
        slot = torch.arange(longest + 1, device=self.device)
        visible = (slot < held) | (slot == longest)  # the newcomer stands behind the longest row
        output, weights = prefill.observed_attention(query, [keys, key], [values, value], scaling, visible)
        observed = self._observed(weights, values, value)
        most = None if ledger.capacity[0] is None else max(c for c in ledger.capacity if c is not None)
        self._reserve(longest + 1, most)
        slots = ledger.append_one(observed)
        for target, new in ((self.keys, stored.detach()), (self.values, value.detach())):
            target.scatter_(2, slots[..., None].expand(-1, -1, -1, new.shape[3]), new)
        return output

    def _turned(self, query: Tensor, key: Tensor, shift: Shift) -> tuple[Tensor, Tensor, Tensor]:
        """Newcomers' queries and keys at their ranks, and the keys in stored form."""
        assert self.rotary is not None
        heads = query.shape[1]
        both = self.rotary.pairs(torch.cat([query, key], dim=1))
        moved = turn(both, shift.move)
        return moved[:, :heads], moved[:, heads:], turn(both[:, heads:], shift.undo)

    def _observed(self, weights: Tensor, values: Tensor, value: Tensor) -> Tensor | None:
        """What the ledger is told of `weights` [rows, kv_heads, group, q, n]; None if its policy does not look."""
        assert self.ledger is not None
        policy = self.ledger.policy
        if not (policy.uses_attention and policy.evicts_decoding):
            return None
        if weights.requires_grad:
            weights, values, value = weights.detach(), values.detach(), value.detach()
        observed = (weights if policy.accumulates else weights[:, :, :, -1:]).sum((2, 3)) / weights.shape[2]
        if self.config.importance == "contribution":
            observed = observed * torch.cat([_norms(values), _norms(value)], dim=2)
        return observed

    def _prompt(
        self, rows: slice, query: Tensor, key: Tensor, value: Tensor, scaling: float, positions: _Positions
    ) -> Tensor:
        """A whole prompt: attended in full at its true positions, then reduced."""
        ledger, length = self.ledger, key.shape[2]
        assert ledger is not None
        output = prefill.causal_attention(query, key, value, scaling)
        sums = counts = None
        if ledger.policy.uses_attention:
            window = observers(self.config, length)
            sums, counts = prefill.window_scores(query.detach(), key.detach(), scaling, window)
            if self.config.importance == "contribution":
                sums = sums * _norms(value)
        selection = ledger.choose_prompt(length, sums, counts)
        held = length if selection is None else selection.kept.shape[-1]
        # With prefill "none" a prompt may exceed the capacity, which then is the prompt's length.
        self._reserve(held, max(held, self.config.cache_size))
        kept = ledger.admit_prompt(rows, length, selection, sums, counts)
        if self.rotary is not None:
            key = self.rotary.unrotated(key, positions.true(length))
        key, value = key.detach(), value.detach()
        index = kept[..., None]
        self.keys[rows, :, :held] = key.gather(2, index.expand(-1, -1, -1, key.shape[3]))
        self.values[rows, :, :held] = value.gather(2, index.expand(-1, -1, -1, value.shape[3]))
        return output

    def _block(
        self, rows: slice, query: Tensor, key: Tensor, value: Tensor, scaling: float, positions: _Positions
    ) -> Tensor:
        """q tokens attend to the cache and, causally, to themselves; then as many go as are too many."""
        ledger, q = self.ledger, key.shape[2]
        assert ledger is not None
        held = ledger.held[rows][0]
        keys, values = ledger.part(self.keys, rows, held), ledger.part(self.values, rows, held)
        stored = key
        if self.rotary is not None:
            shift = self.rotary.shift(*positions.columns(q), held)
            query, key, stored = self._turned(query, key, shift)
            keys = self.rotary.at_ranks(keys, ledger.ranks(rows), held + q)
        output, weights = prefill.observed_attention(query, [keys, key], [values, value], scaling)
        observed = self._observed(weights, values, value)
        capacity = ledger.capacity[rows][0]
        if held != capacity:
            self._reserve(held + q if capacity is None else min(held + q, capacity), capacity)
        slots, newcomers, stays = ledger.step(rows, q, observed)
        for target, new in ((self.keys, stored.detach()), (self.values, value.detach())):
            here = ledger.part(target, rows)
            index = slots[..., None].expand(-1, -1, -1, new.shape[3])
            if newcomers is not None:
                assert stays is not None
                new = new.gather(2, newcomers[..., None].expand_as(index))
                new = torch.where(stays[..., None], new, here.gather(2, index))
            here.scatter_(2, index, new)
        return output

    def _leave_inference_mode(self) -> None:
        """Tensors made under torch.inference_mode cannot be changed outside of it; copies can."""
        assert self.ledger is not None
        self.keys, self.values = self.keys.clone(), self.values.clone()
        self.ledger.copy_tensors()

    def _reserve(self, tokens: int, most: int | None) -> None:
        assert self.ledger is not None
        more = self.ledger.reserve(tokens, most) - self.keys.shape[2]
        if more:
            pad = (0, 0, 0, more)
            self.keys = nn.functional.pad(self.keys, pad)
            self.values = nn.functional.pad(self.values, pad)


def observers(config: TreeKVConfig, length: int) -> int:
    """How many queries at the end of a prompt of `length` tokens score it."""
    policy = policies.get(config.policy)
    if not policy.accumulates:
        return 1
    return length if policy.observes_whole_prompt else min(config.window_size, length)


def _norms(values: Tensor) -> Tensor:
    """float32 [batch, kv_heads, n], the length of each value."""
    return torch.linalg.vector_norm(values, dim=-1, dtype=torch.float32)


def _left_padding(padding: Tensor | None, batch: int, q: int) -> list[int]:
    """How many of the q newest columns are padding, per row."""
    if padding is None:
        return [0] * batch
    new = padding[:, -q:].bool()
    pads = (~new).sum(1)
    if not torch.equal(new, torch.arange(q, device=new.device) >= pads[:, None]):
        raise TreeKVError(
            "the attention mask has padding to the right of real tokens; a TreeKV cache needs padding on the left "
            "(tokenizer.padding_side = 'left')"
        )
    return pads.tolist()


class _Positions(NamedTuple):
    """Where the newcomers of some rows stand in the model's own counting."""

    position_ids: Tensor | None  # [1 or batch, columns], or None where the model does not pass them on
    rows: slice
    first: int
    ledger: Ledger

    def after(self, tokens: int) -> _Positions:
        """The same without the first `tokens` newcomers; the ledger has counted those already."""
        return self._replace(first=self.first + tokens)

    def columns(self, count: int) -> tuple[Tensor, slice, int, int]:
        """The arguments that `Rotary.shift` wants, but the rank."""
        if self.position_ids is None:
            return self.true(count), slice(0, len(self.ledger.seen[self.rows])), 0, count
        return self.position_ids, self.rows, self.first, count

    def true(self, count: int) -> Tensor:
        """LongTensor [1 or rows, count]."""
        if self.position_ids is None:
            device = self.ledger.device
            seen = torch.tensor(self.ledger.seen[self.rows], device=device)
            return seen[:, None] + torch.arange(count, device=device)
        rows = self.rows if self.position_ids.shape[0] > 1 else slice(0, 1)
        return self.position_ids[rows, self.first : self.first + count]
