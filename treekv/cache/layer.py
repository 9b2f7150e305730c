"""One compressed layer of a cache: slots of keys and values, and attention over them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.cache_utils import CacheLayerMixin

from treekv.attention import interface, softmax
from treekv.attention.rotary import Rotary
from treekv.cache.ledger import Ledger, Places, room
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError

if TYPE_CHECKING:
    from treekv.cache.layer_group import Group


class TreeKVLayer(CacheLayerMixin):
    """One full-attention layer: fixed slots of keys and values; the ledger of its group says what is in them.

    Keys are stored as they arrive (positions="original") or unrotated (positions="rank"), [batch, kv_heads,
    slots, head_dim]. A newcomer takes a free slot, is attended to there with all others, and then somebody's slot
    becomes free; nothing moves.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, config: TreeKVConfig, rotary: Rotary | None, layer: int = 0, layers: int = 1) -> None:
        super().__init__()
        self.config = config
        self.rotary = rotary
        self.layer, self.layers = layer, layers
        self.group: Group  # set by the group
        self.place = 0  # in the group
        self.tokens_seen = 0  # columns of the input, padding included, as transformers counts
        self._awaiting_attention = False

    @property
    def ledger(self) -> Ledger | None:
        """The books of this layer and of others; its own rows there are `rows`."""
        return self.group.ledger if self.is_initialized else None

    @property
    def rows(self) -> slice:
        batch = self.keys.shape[0]
        return slice(self.place * batch, (self.place + 1) * batch)

    # ------------------------------------------------------------------ what transformers asks for

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        batch, heads = key_states.shape[:2]
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = key_states.new_empty((batch, heads, 0, key_states.shape[3]))
        self.values = value_states.new_empty((batch, heads, 0, value_states.shape[3]))
        self.group.open_books(self, batch, heads, key_states.device)
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
        return interface.at_site(key_states, self), value_states

    def get_seq_length(self) -> int:
        return self.tokens_seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        held = max(self.ledger.held[self.rows]) if self.ledger is not None else 0
        return held + query_length, self.tokens_seen - held

    def get_max_length(self) -> int:
        return -1  # any number of tokens may pass through

    def reset(self) -> None:
        """Forget everything; memory is given back."""
        if self.is_initialized:
            self.keys, self.values = self.keys.new_empty(0), self.values.new_empty(0)
        self.group.close_books()
        self.is_initialized = False
        self.tokens_seen = 0
        self._awaiting_attention = False

    # The cache sees to it that the books follow, which belong to several layers.

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.is_initialized:
            indices = indices.to(self.device)
            self.keys = self.keys.index_select(0, indices)
            self.values = self.values.index_select(0, indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.is_initialized:
            self.batch_select_indices(torch.arange(self.keys.shape[0]).repeat_interleave(repeats))

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
        ledger = self.ledger
        assert ledger is not None
        if self.layer == 0 and self.rotary is not None:
            self.rotary.forget()
        batch, q = key.shape[0], key.shape[2]
        pads, scattered = _padding(padding, batch, q)
        if q > 1 and self.layer == 0 and self.tokens_seen and not torch.compiler.is_compiling():
            self._check_history(padding, position_ids, q)
        if q == 1 and not any(pads) and not ledger.keeps_everything:
            places = self.group.begin(self)
            if places is not None:
                positions = _Positions(position_ids, slice(0, batch), 0, self)
                output = self._block(slice(0, batch), query, key, value, scaling, positions, together=places)
                return self._done(output, 1)
        together = not scattered and pads.count(pads[0]) == batch
        if together and ledger.in_step(self.rows, q - pads[0], block=q > 1):
            groups = [slice(0, batch)]
        else:
            groups = [slice(row, row + 1) for row in range(batch)]
        parts = query.new_zeros((*query.shape[:3], value.shape[3])) if len(groups) > 1 or pads[0] else None
        for rows in groups:
            pad = pads[rows.start]
            if pad == q:
                continue
            real = scattered.get(rows.start, slice(pad, None))
            whole = len(groups) == 1 and not pad
            new = [query, key, value] if whole else [t[rows, :, real] for t in (query, key, value)]
            positions = _Positions(position_ids, rows, pad, self)
            if isinstance(real, Tensor) and position_ids is not None:
                own = rows if position_ids.shape[0] > 1 else slice(0, 1)
                positions = _Positions(position_ids[own, real], rows, 0, self)
            result = self._attend_rows(rows, new[0], new[1], new[2], scaling, positions, block=q > 1)
            if parts is None:
                parts = result
            else:
                parts[rows, :, real] = result
        self.compact()
        assert parts is not None
        return self._done(parts, q)

    def _check_history(self, padding: Tensor | None, position_ids: Tensor | None, q: int) -> None:
        """Compare what the attention mask, or else the positions, say of earlier tokens with what was read."""
        assert self.ledger is not None
        if padding is None:
            read = max(self.ledger.seen[self.rows])
            first = read if position_ids is None else int(position_ids[:, 0].min())
            if first < read:
                raise TreeKVError(
                    f"the new tokens begin at position {first}, but the cache has read {read} tokens: give the whole "
                    "conversation or what is new of it, or call cache.reset() for another prompt"
                )
            return
        said = padding[:, :-q].sum(1).tolist()
        for row, (real, read) in enumerate(zip(said, self.ledger.seen[self.rows], strict=True)):
            if real != read:
                raise TreeKVError(
                    f"the attention mask says that {real} real tokens of row {row} came before the new ones, but the "
                    f"cache has read {read}: give only the new ids, padded on the left, with a mask that begins with "
                    "the columns read so far as they were, or give one row at a time"
                )

    def _done(self, output: Tensor, q: int) -> Tensor:
        """The end of a call of q tokens.

        What is no number spreads to all later layers, so while decoding it is enough to ask the last one; on a GPU
        nobody asks then, for each step would have to wait. A call that is refused counts as unfinished: the cache
        does not go on.
        """
        asks = q > 1 or (self.layer == self.layers - 1 and output.is_cpu)
        if asks and not torch.compiler.is_compiling() and not bool(output.isfinite().all()):
            where = f"layer {self.layer}" if q > 1 else "the model"
            raise TreeKVError(
                f"the attention of {where} is not made of finite numbers (the model computes in {output.dtype}); try "
                "torch.float32 or torch.bfloat16, and cache.reset() before going on"
            )
        self.tokens_seen += q
        self._awaiting_attention = False
        return output

    def _attend_rows(
        self,
        rows: slice,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scaling: float,
        positions: _Positions,
        *,
        block: bool,
    ) -> Tensor:
        """Rows in the same state, without padding. `block`: the call has several columns, so that these tokens belong
        to a text that is read in blocks, even where padding leaves a row only one of them."""
        ledger, q, own = self.ledger, key.shape[2], self.at(rows)
        assert ledger is not None
        if ledger.keeps_everything:
            return self._append(rows, query, key, value, scaling)
        if ledger.seen[own][0] == 0 and self.config.prefill != "stream":
            return self._prompt(rows, query, key, value, scaling, positions)
        if not block:
            return self._block(rows, query, key, value, scaling, positions)
        outputs, first = [], 0
        if ledger.open_tokens(own):
            ledger.reopen(own)
        while first < q:
            last = min(first + self.config.block_size - ledger.open_tokens(own), q)
            now = slice(first, last)
            new = (query[:, :, now], key[:, :, now], value[:, :, now])
            unfinished = ledger.open_tokens(own) + last - first < self.config.block_size
            if unfinished:  # what it evicts has to stay, so nothing can be given back afterwards
                self.compact()
            outputs.append(self._block(rows, *new, scaling, positions.after(first), unfinished=unfinished))
            first = last
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)

    def _append(self, rows: slice, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Policy "full": keep everything."""
        assert self.ledger is not None
        own, q = self.at(rows), key.shape[2]
        held = self.ledger.held[own]
        longest = max(held)
        self._reserve(room(longest + q, None))
        keys, values = (self._part(t, rows)[:, :, : longest + q] for t in (self.keys, self.values))
        visible = None
        if min(held) < longest:  # one newcomer each
            slot = torch.tensor(held, device=self.device)[:, None, None, None]
            for target, new in ((keys, key.detach()), (values, value.detach())):
                target.scatter_(2, slot.expand(new.shape), new)
            visible = torch.arange(longest + 1, device=self.device) <= slot
        else:
            keys[:, :, longest:], values[:, :, longest:] = key.detach(), value.detach()
        self.ledger.count(own, q)
        return softmax.causal_attention(query, keys, values, scaling, visible)

    def _observed(self, weights: Tensor, values: Tensor, q: int) -> Tensor | None:
        """What the ledger is told of `weights` [rows, kv_heads, group * q, n], as a sum over the group; None if its
        policy does not look."""
        assert self.ledger is not None
        policy = self.ledger.policy
        if not (policy.uses_attention and policy.evicts_decoding):
            return None
        if weights.requires_grad:
            weights, values = weights.detach(), values.detach()
        if q > 1:
            each = weights.unflatten(2, (-1, q))
            weights = each.sum(3) if policy.accumulates else each[:, :, :, -1]
        observed = weights.sum(2)
        return observed * _norms(values) if self.config.importance == "contribution" else observed

    def _prompt(
        self, rows: slice, query: Tensor, key: Tensor, value: Tensor, scaling: float, positions: _Positions
    ) -> Tensor:
        """A whole prompt: attended in full at its true positions, then reduced."""
        ledger, length = self.ledger, key.shape[2]
        assert ledger is not None
        output = softmax.causal_attention(query, key, value, scaling)
        sums, counts, window = None, None, 0
        if ledger.policy.uses_attention:
            window = ledger.policy.scoring_queries(self.config, length)
            sums, counts = softmax.window_scores(query.detach(), key.detach(), scaling, window)
            if self.config.importance == "contribution":
                sums = sums * _norms(value)
        own = self.at(rows)
        selection = ledger.choose_prompt(own, length, sums, counts)
        kept = ledger.admit_prompt(own, length, selection, sums, window)
        held, capacity = kept.shape[2], ledger.capacity[own][0]
        self._reserve(room(held, None) if capacity is None else room(held + 1, capacity + 1))
        if self.rotary is not None:
            key = self.rotary.unrotated(key, positions.true(length))
        key, value = key.detach(), value.detach()
        index = kept[..., None]
        self.keys[rows, :, :held] = key.gather(2, index.expand(-1, -1, -1, key.shape[3]))
        self.values[rows, :, :held] = value.gather(2, index.expand(-1, -1, -1, value.shape[3]))
        return output

    def _block(
        self,
        rows: slice,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scaling: float,
        positions: _Positions,
        *,
        together: Places | None = None,
        unfinished: bool = False,
    ) -> Tensor:
        """q tokens take free slots and attend to the cache and, causally, to themselves; then as many go as are too
        many: at once, or, when layers decode `together`, after the last of them."""
        ledger, q, own = self.ledger, key.shape[2], self.at(rows)
        assert ledger is not None
        places = together or ledger.places(own, q, distance=q > 1 or self.rotary is not None)
        n = places.n
        self._reserve(places.room)
        if self.rotary is not None:
            query, key = self._turned(query, key, positions)
        keys, values = self._part(self.keys, rows), self._part(self.values, rows)
        slots = places.slots[..., None]
        keys.scatter_(2, slots.expand(-1, -1, -1, key.shape[3]), key.detach())
        values.scatter_(2, slots.expand(-1, -1, -1, value.shape[3]), value.detach())
        if n < keys.shape[2]:
            keys, values = keys[:, :, :n], values[:, :, :n]
        if self.rotary is not None:
            distance = places.distance
            assert distance is not None  # it was wanted
            distance = distance if places.all_used else distance.clamp(min=0)
            keys = self.rotary.at_distance(keys, distance, ledger.slots)
        visible = softmax.visible(places.distance, q, places.all_used)
        output, weights = softmax.observed_attention(query, keys, values, scaling, visible)
        observed = self._observed(weights, values, q)
        group = query.shape[1] // key.shape[1]
        if together is not None:
            self.group.hand_in(self, observed, group)
        else:
            observed = None if observed is None else observed / group
            ledger.step(own, places, observed, unfinished=unfinished)
        return output

    def _turned(self, query: Tensor, key: Tensor, positions: _Positions) -> tuple[Tensor, Tensor]:
        """Newcomers' queries, turned to their ranks, and keys in stored form."""
        assert self.rotary is not None
        shift = self.rotary.shift(*positions.columns(key.shape[2]))
        if shift.move is not shift.undo:
            return self.rotary.turned(query, shift.move), self.rotary.turned(key, shift.undo)
        both = self.rotary.turned(torch.cat([query, key], dim=1), shift.undo)
        return both[:, : query.shape[1]], both[:, query.shape[1] :]

    # ------------------------------------------------------------------ slots

    def at(self, rows: slice) -> slice:
        """Rows of the batch in the ledger."""
        first = self.place * self.keys.shape[0]
        return slice(first + rows.start, first + rows.stop)

    def compact(self) -> None:
        """Give back the slots that the last block needed beyond the capacity."""
        assert self.ledger is not None
        old = self.ledger.compact(self.rows, self.keys.shape[2])
        if old is not None:
            index = old[..., None]
            self.keys = self.keys.gather(2, index.expand(-1, -1, -1, self.keys.shape[3]))
            self.values = self.values.gather(2, index.expand(-1, -1, -1, self.values.shape[3]))

    def _part(self, tensor: Tensor, rows: slice) -> Tensor:
        return tensor if rows.stop - rows.start == tensor.shape[0] else tensor[rows]

    def _leave_inference_mode(self) -> None:
        """Tensors made under torch.inference_mode cannot be changed outside of it; copies can."""
        assert self.ledger is not None
        self.keys, self.values = self.keys.clone(), self.values.clone()
        if self.ledger.order.is_inference():
            self.ledger.copy_tensors()

    def _reserve(self, slots: int) -> None:
        more = slots - self.keys.shape[2]
        if more > 0:
            pad = (0, 0, 0, more)
            self.keys = nn.functional.pad(self.keys, pad)
            self.values = nn.functional.pad(self.values, pad)


def _norms(values: Tensor) -> Tensor:
    """float32 [batch, kv_heads, n], the length of each value."""
    return torch.linalg.vector_norm(values, dim=-1, dtype=torch.float32)


def _padding(padding: Tensor | None, batch: int, q: int) -> tuple[list[int], dict[int, Tensor]]:
    """How many of the q newest columns are padding, per row, and the real columns of rows in which padding stands
    between real tokens (a second turn, padded on the left, after a token that was generated but not read)."""
    if padding is None:
        return [0] * batch, {}
    new = padding[:, -q:].bool()
    pads = (~new).sum(1)
    count = pads.tolist()
    if torch.equal(new, torch.arange(q, device=new.device) >= pads[:, None]):
        return count, {}
    scattered = {}
    for row, columns in enumerate(new):
        real = columns.nonzero()[:, 0]
        if count[row] < q and int(real[-1]) < q - 1:
            raise TreeKVError(
                f"the attention mask has padding to the right of the last token of row {row}; a TreeKV cache needs "
                "padding on the left (tokenizer.padding_side = 'left')"
            )
        if count[row] < q and int(real[0]) < count[row]:
            scattered[row] = real
    return count, scattered


class _Positions(NamedTuple):
    """Where the newcomers of some rows stand in the model's own counting."""

    position_ids: Tensor | None  # [1 or batch, columns], or None where the model does not pass them on
    rows: slice
    first: int
    layer: TreeKVLayer

    def after(self, tokens: int) -> _Positions:
        """The same without the first `tokens` newcomers; the ledger has counted those already."""
        return self._replace(first=self.first + tokens)

    def columns(self, count: int) -> tuple[Tensor, slice, int, int]:
        """The arguments that `Rotary.shift` wants."""
        if self.position_ids is None:
            return self.true(count), slice(0, self.rows.stop - self.rows.start), 0, count
        return self.position_ids, self.rows, self.first, count

    def true(self, count: int) -> Tensor:
        """LongTensor [1 or rows, count]."""
        if self.position_ids is None:
            ledger = self.layer.ledger
            assert ledger is not None
            seen = torch.tensor(ledger.seen[self.layer.at(self.rows)], device=ledger.device)
            return seen[:, None] + torch.arange(count, device=ledger.device)
        rows = self.rows if self.position_ids.shape[0] > 1 else slice(0, 1)
        return self.position_ids[rows, self.first : self.first + count]
