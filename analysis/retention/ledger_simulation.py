"""Simulations with a policy's own code and the ledger of the real cache, for rules that are no `Contest`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from analysis.captures.data import Capture
from analysis.retention.captured_contents import CapturedContents
from treekv import policies
from treekv.attention import softmax
from treekv.cache.ledger import Ledger
from treekv.cache.slot_plan import SlotPlan
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError
from treekv.policies.scores import EXPECTED

QUERIES_AT_ONCE = 16  # attention logits exist for this many queries at a time


class Place(NamedTuple):
    """What a row of a ledger is in a simulation: a layer, by the model's number, or one KV head of it."""

    layer: int
    head: int | None = None

    @property
    def heads(self) -> slice:
        """The KV heads."""
        return slice(None) if self.head is None else slice(self.head, self.head + 1)

    def queries(self, captured: Capture) -> Tensor:
        """[query_heads, T, head_dim]."""
        queries = captured.q[captured.layers.index(self.layer)]
        return queries if self.head is None else queries.unflatten(0, (captured.kv_heads, -1))[self.head]

    def keys(self, captured: Capture) -> Tensor:
        """[kv_heads, T, head_dim]."""
        return captured.k[captured.layers.index(self.layer)][self.heads]

    def values(self, captured: Capture) -> Tensor:
        """[kv_heads, T, value_dim]."""
        return captured.v[captured.layers.index(self.layer)][self.heads]

    def scaling(self, captured: Capture) -> float:
        """The factor of their products."""
        return captured.scaling[captured.layers.index(self.layer)]

    def value_norms(self, captured: Capture, config: TreeKVConfig) -> Tensor | None:
        """float32 [kv_heads, T], the length of each value, if these settings weigh attention by it."""
        if config.importance != "contribution" and policies.get(config.policy).future_by(config) != EXPECTED:
            return None
        return torch.linalg.vector_norm(self.values(captured).float(), dim=-1)


def contents_of(captured: Capture, ledger: Ledger, places: list[Place]) -> CapturedContents | None:
    """Keys and values of the rows of a ledger, if its policy reads them."""
    config = ledger.config
    if not ledger.policy.reads_contents:
        return None
    queries = ledger.policy.last_queries(config)
    query = None  # all that a text has take much memory
    if queries:
        query = torch.stack([place.queries(captured).float() * place.scaling(captured) for place in places])
    key, value = (
        torch.stack([part(place, captured).float() for place in places]) for part in (Place.keys, Place.values)
    )
    stored = torch.stack([_stored(captured, place, own, config) for place, own in zip(places, key, strict=True)])
    return CapturedContents(query, key, value, stored, queries)


def _stored(captured: Capture, place: Place, key: Tensor, config: TreeKVConfig) -> Tensor:
    """Keys [kv_heads, T, head_dim] as a cache stores them, which leaves them as they are where it does not know how the
    model rotates, unless settings ask for other positions."""
    if config.positions == "original":
        return key
    try:
        rotary = captured.rotary(place.layer)
    except TreeKVError:
        if config.positions is not None:
            raise
        return key
    position = torch.arange(key.shape[1], device=key.device)[None]
    return key if rotary is None else rotary.unrotated(key[None], position)[0]


def simulate_with_ledger(
    captured: Capture,
    ledger: Ledger,
    places: list[Place],
    contents: CapturedContents | None,
    prompt: int,
    progress: Callable[[int], object],
) -> None:
    """Process the text with the policy's own code.

    Args:
        captured: the text.
        ledger: holds the prompt already, if there is one.
        places: what its rows are.
        contents: of its rows, for a policy that reads them.
        prompt: its length; up to there, or to the end of the text without one, tokens come in blocks.
        progress: called with numbers of tokens, summed over the rows, as they are done.
    """
    rows = slice(0, len(places))
    keys = torch.stack([place.keys(captured) for place in places]).float() if ledger.policy.uses_attention else None
    config = ledger.config
    each = [own for own in (place.value_norms(captured, config) for place in places) if own is not None]
    norms = torch.stack(each) if each else None
    block = config.block_size if config.prefill == "stream" else 1
    chunk = block * max(QUERIES_AT_ONCE // block, 1)
    blocks_end = prompt or captured.tokens
    progress(ledger.seen[0] * len(places))
    for start in range(ledger.seen[0], captured.tokens, chunk):
        stop = min(start + chunk, captured.tokens)
        logits = None
        if keys is not None:
            queries = torch.stack(
                [place.queries(captured)[:, start:stop].float() * place.scaling(captured) for place in places]
            )
            logits = _Logits(queries, keys, start, ledger)
        first = start
        while first < stop:
            last = min(first + block, blocks_end, stop) if first < blocks_end else first + 1
            plan = ledger.plan_slots(rows, last - first, distance=False)
            observed = _observed(logits, norms, ledger, plan, first) if logits is not None else None
            ledger.step(rows, plan, observed, contents=contents)
            first = last
        progress((stop - start) * len(places))


class _Logits:
    """Attention logits of some queries by slot of a ledger, where new tokens take the slots of evicted ones."""

    def __init__(self, queries: Tensor, keys: Tensor, first: int, ledger: Ledger) -> None:
        """`queries` [rows, query_heads, q, head_dim] of the tokens from `first` on, `keys` [rows, kv_heads, T,
        head_dim] of all."""
        count = queries.shape[2]
        grouped = queries.unflatten(1, (keys.shape[1], -1)).flatten(2, 3)
        newest = keys[:, :, first : first + count]
        # As many slots as can be in use after the last of these queries.
        slots = max(max(ledger.held[:]) + count, *ledger.used_slots[:])
        position = torch.nn.functional.pad(ledger.position, (0, max(slots - ledger.slots, 0)))[..., :slots]
        held = keys.gather(2, position[..., None].expand(*position.shape, keys.shape[3]))
        self._first = first
        self._new, self._all = ((grouped @ each.transpose(2, 3)).unflatten(2, (-1, count)) for each in (newest, held))
        # No query sees a later token.
        self._new += torch.full((count, count), float("-inf"), device=keys.device).triu(1)

    def of(self, plan: SlotPlan, first: int) -> Tensor:
        """[rows, kv_heads, group, q, n], of the q new tokens from position `first` on, stored by `plan`."""
        begin, q = first - self._first, plan.slots.shape[2]
        pending = self._all[..., begin:, :]
        index = plan.slots[:, :, None, None].expand(*pending.shape[:-1], -1)
        pending.scatter_(4, index, self._new[..., begin:, begin : begin + q])
        seen = pending[..., :q, : plan.used]
        if plan.all_used:
            return seen
        visible = softmax.visible(plan.distance, q, False)
        assert visible is not None  # there are free slots
        return seen.masked_fill(~visible[:, :, None], float("-inf"))


def _observed(logits: _Logits, norms: Tensor | None, ledger: Ledger, plan: SlotPlan, first: int) -> Tensor:
    """Weights as `Ledger.step` takes them, of the new tokens from position `first` on, stored by `plan`; `norms`
    [rows, kv_heads, T] of all tokens."""
    weights = logits.of(plan, first).softmax(-1).mean(2)
    if ledger.policy.counts_by_query(ledger.config) and weights.shape[2] > 1:
        return weights
    observed = weights.sum(2) if ledger.policy.accumulates else weights[:, :, -1]
    if norms is None:
        return observed
    new = first + torch.arange(plan.slots.shape[2], device=norms.device).expand(plan.slots.shape)
    position = ledger.position[..., : plan.used].scatter(2, plan.slots, new)
    return observed * norms.gather(2, position)
