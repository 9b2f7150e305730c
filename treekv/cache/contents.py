"""Keys, values and last queries as a policy that reads them sees them: of what layers store, and of a prompt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from treekv import policies
from treekv.attention import seen_distance, supported
from treekv.attention.rotary import Rotary
from treekv.cache.attend import NewTokens
from treekv.cache.layer import TreeKVLayer
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError
from treekv.policies.ranking import at_ranks
from treekv.policies.scores import EXPECTED


def check_attention(config: TreeKVConfig, model_config: Any) -> None:
    """Refuse settings that need more of a model's attention than a cache of it has.

    Raises:
        TreeKVError: all heads share latents, but heads have budgets of their own, or queries are moved; or the policy
            looks at keys, and these are latents, or its logits are no plain products of queries and keys.
    """
    policy, latent = policies.of(config), supported.latent_layers(model_config)
    family, more = supported.family(model_config), supported.more_than_softmax(model_config)
    if latent and config.splits_heads:
        instead = "leave share_heads out" if config.share_heads else "give one for each layer"
        raise TreeKVError(
            f"{config.why_heads_differ}, but all heads of this {family!r} model share the latents that it caches; "
            f"{instead}"
        )
    products = policy.reads_contents or policy.future_by(config) == EXPECTED
    if products and more is not None and not supported.followed_layers(model_config):
        raise TreeKVError(
            f"policy {config.policy!r} looks at keys and at their products with queries, but this {family!r} model has "
            f"{more}; use a policy that does not, such as 'tree'"
        )
    if latent and policy.scores_future(config):
        raise TreeKVError(
            f"prompt_score 'future' moves queries to other positions, which is not possible for this {family!r} model, "
            "whose keys are computed from latents; use prompt_score 'window'"
        )


class StoredContents:
    """Those of rows of some layers, in the order of the ledger's rows.

    Args:
        parts: the layers, each with the rows of it.
        positions: as in the settings: where queries see keys.
    """

    def __init__(self, parts: list[tuple[TreeKVLayer, slice]], positions: str | None) -> None:
        self._parts, self._positions = parts, positions

    def by_rank(self, slots: Tensor, position: Tensor) -> RankedContents:
        return RankedContents(self._parts, slots, position, self._positions == "compressed")


class RankedContents:
    """`treekv.policies.scores.Contents` of the tokens in `slots`; `position` are their true positions by slot."""

    def __init__(
        self, parts: list[tuple[TreeKVLayer, slice]], slots: Tensor, position: Tensor, compressed: bool
    ) -> None:
        self._parts, self._slots, self._position, self._compressed = parts, slots, position, compressed

    def keys(self, ranks: slice | Tensor | None = None) -> Tensor:
        return torch.cat(self._by_part(0, ranks))

    def values(self) -> Tensor:
        return torch.cat(self._by_part(1))

    def logits(self) -> Tensor:
        positions = self._split(self._position.gather(2, self._slots))
        logits = []
        for (layer, rows), keys, position in zip(self._parts, self._by_part(0), positions, strict=True):
            assert layer.queries is not None  # the policy looks at them
            query = layer.queries[rows].float()
            if layer.rotary is not None:
                # Counted back from the newest token, as in a block of these queries.
                m, n = query.shape[2], keys.shape[2]
                distance = torch.arange(n - 1, -1, -1, device=keys.device).expand(position.shape)
                if self._compressed:
                    seen = seen_distance.compressed(position[..., -m:][..., :1] - position) + (m - 1)
                    distance = torch.where(distance < m, distance, seen)
                limit = n + seen_distance.FARTHEST if self._compressed else n
                keys = layer.rotary.at_distance(keys, distance, limit)
                back = torch.arange(m - 1, -1, -1, device=keys.device).expand(query.shape[:3])
                query = layer.rotary.at_distance(query, back, limit)
            logits.append(_products(query, keys, layer.scaling))
        return torch.cat(logits)

    def _split(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Rows of each layer."""
        return tensor.split([rows.stop - rows.start for _, rows in self._parts])

    def _by_part(self, which: int, ranks: slice | Tensor | None = None) -> list[Tensor]:
        """Keys or values of each layer."""
        asked = self._slots if ranks is None else at_ranks(self._slots, ranks)
        chosen = []
        for (layer, rows), slots in zip(self._parts, self._split(asked), strict=True):
            stored = layer.view(rows)[which].detach()
            chosen.append(stored.gather(2, slots[..., None].expand(-1, -1, -1, stored.shape[3])).float())
        return chosen


class PromptContents:
    """`treekv.policies.scores.Contents` of all tokens of a prompt.

    Args:
        new: the prompt.
        rotary: by which keys are stored unrotated, or None.
        queries: how many of the last queries the policy looks at.
    """

    def __init__(self, new: NewTokens, rotary: Rotary | None, queries: int) -> None:
        self._new, self._rotary, self._queries = new, rotary, queries

    def keys(self, ranks: slice | Tensor | None = None) -> Tensor:
        key = self._new.key.detach()
        if self._rotary is not None:
            key = self._rotary.unrotated(key, self._new.positions.true(key.shape[2]))
        return (key if ranks is None else at_ranks(key, ranks)).float()

    def values(self) -> Tensor:
        return self._new.value.detach().float()

    def logits(self) -> Tensor:
        query, key = (each.detach().float() for each in (self._new.query[:, :, -self._queries :], self._new.key))
        return _products(query, key, self._new.scoring.scaling)


def _products(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """float32 [batch, kv_heads, group, m, n] of `query` [batch, query_heads, m, dim] and `key` [batch, kv_heads, n,
    dim]."""
    grouped = (query * scaling).unflatten(1, (key.shape[1], -1))
    return (grouped.flatten(2, 3) @ key.transpose(2, 3)).unflatten(2, grouped.shape[2:4])
