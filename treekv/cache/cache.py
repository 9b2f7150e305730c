"""`TreeKVCache`: a transformers cache of fixed size that attends to what it keeps and evicts the rest."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

from treekv import policies
from treekv.attention import supported
from treekv.attention.model_rotary import layer_rotaries, query_rotaries
from treekv.attention.rotary import Rotary
from treekv.cache import saved
from treekv.cache.contents import check_attention
from treekv.cache.hybrid_layer import attention_of, with_attention
from treekv.cache.latent_layer import LatentLayer
from treekv.cache.layer import TreeKVLayer
from treekv.cache.layer_group import LayerGroup
from treekv.cache.split_layer import SplitLayer, split_layers
from treekv.cache.trace import JoinedTrace, LayerTrace
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError
from treekv.transformers_releases import LinearAttentionLayer


class TreeKVCache(Cache):
    """A key-value cache that keeps at most `config.cache_size` tokens per layer, head and row; see `TreeKVConfig` for
    the settings under which it keeps more.

    Pass it to a model whose attention implementation is "treekv", to `model(...)` or `model.generate(...)`, as
    `past_key_values`. Other layers of hybrid models (with a sliding window, linear attention, convolution) are left as
    transformers builds them. A call of one token is a decoding step; a prompt that is read in chunks needs chunks of
    two tokens or more.

    Args:
        config: the settings. The cache's `config` says which positions are used, if they leave it open.
        model_config: `model.config`.

    Raises:
        TreeKVError: the model cannot be used with these settings.

    Example:
        >>> import torch, treekv
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> model = LlamaForCausalLM(LlamaConfig(
        ...     vocab_size=50, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        ...     num_key_value_heads=2, attn_implementation="treekv"))
        >>> config = treekv.TreeKVConfig(cache_size=16, block_size=4, recent_size=4)
        >>> cache = treekv.TreeKVCache(config, model.config)
        >>> _ = model(torch.arange(40)[None], past_key_values=cache)
        >>> cache.kept_positions(0).shape  # [batch, kv_heads, kept]
        torch.Size([1, 2, 16])
    """

    def __init__(self, config: TreeKVConfig, model_config: Any) -> None:
        if not isinstance(config, TreeKVConfig):
            raise TreeKVError(f"the first argument must be a TreeKVConfig, got {type(config).__name__}")
        if not isinstance(model_config, PreTrainedConfig):
            raise TreeKVError(
                f"the second argument must be the configuration, model.config, got {type(model_config).__name__}"
            )
        model_config = model_config.get_text_config(decoder=True)
        compressed = supported.full_attention_layers(model_config)
        self._model = saved.description(model_config)
        check_attention(config, model_config)
        latent = supported.latent_layers(model_config)
        layers = DynamicCache(config=model_config).layers
        self.config = config = config.for_model(model_config)
        rotaries: list[Rotary | None] = [None] * len(compressed)
        if config.positions != "original" and config.policy != "full":
            by_layer = layer_rotaries(model_config, str(config.positions))
            rotaries = [by_layer[index] for index in compressed]
        if config.splits_heads:
            heads = getattr(model_config, "num_key_value_heads", None)
            groups, split = split_layers(config, rotaries, heads)
            for index, parts in zip(compressed, split, strict=True):
                layers[index] = with_attention(layers[index], parts)
        else:
            configs = config.per_layer(len(compressed))
            made = [
                LatentLayer(number, len(compressed))
                if index in latent
                else TreeKVLayer(rotaries[number], number, len(compressed))
                for number, index in enumerate(compressed)
            ]
            for index, layer in zip(compressed, made, strict=True):
                layers[index] = with_attention(layers[index], layer)
            # Successive layers with the same settings share a group.
            together = itertools.groupby(zip(configs, made, strict=True), key=lambda pair: pair[0])
            groups = [(own, [layer for _, layer in same]) for own, same in together]
        super().__init__(layers=layers)
        self._compressed = compressed
        self._attending = [index for index, layer in enumerate(layers) if isinstance(layer, CacheLayerMixin)]
        self._layer_before = {after: (index, self._parts(index)[0]) for index, after in itertools.pairwise(compressed)}
        future, followed = _future_rotaries(config, model_config), supported.followed_layers(model_config)
        for own, members in groups:
            LayerGroup(own, members)
            for member in members:
                index = compressed[member.number]
                member.first_with_rotary = rotaries.index(member.rotary) == member.number
                member.future_rotary = None if future is None else future[index]
                member.followed = index in followed

    def save(self, path: str | os.PathLike[str], model: Any = None, *, notes: Mapping[str, Any] | None = None) -> None:
        """Write everything by which the cache goes on to a file, which appears whole or not at all.

        Args:
            path: the file.
            model: the model that filled it; then a fingerprint of its weights is kept too, and `load` refuses a model
                that differs in them only.
            notes: kept for readers, see `describe`; what JSON can hold.

        Raises:
            TreeKVError: the cache has read nothing, or a forward pass was interrupted; the file cannot be written.
        """
        saved.save(self, path, self._model, model, notes)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Any, device: torch.device | str | None = None) -> TreeKVCache:
        """A cache as `save` wrote it, which continues token for token as that one would have.

        Args:
            path: the file. It may come from anywhere: it is checked, and nothing in it is executed.
            model: the model, or `model.config`; with the model its weights are compared, if they were known to `save`.
            device: where keys and values go; default is where each layer of the model computes, or the CPU.

        Raises:
            TreeKVError: there is no such file, it is damaged, it is a link or a folder, or it was saved with another
                model.

        Example:
            >>> cache = treekv.TreeKVCache.load("context.treekv", model)  # doctest: +SKIP
        """
        loaded: TreeKVCache = saved.load(path, model, device, cls)
        return loaded

    @staticmethod
    def describe(path: str | os.PathLike[str]) -> saved.SavedCache:
        """What a file that `save` wrote says of its cache: settings, model, size and notes. Only its header is read.

        Raises:
            TreeKVError: as `load` does, but for the model.
        """
        return saved.describe(path)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if layer_idx >= len(self.layers):
            raise TreeKVError(
                f"the cache was made for a model of {len(self.layers)} layers, but layer {layer_idx} asks for it; "
                "make it with the configuration of this model"
            )
        if layer_idx == self._attending[0]:
            seen = [self.get_seq_length(index) for index in self._attending]
            if any(tokens != seen[0] for tokens in seen[1:]):
                raise TreeKVError(
                    f"the layers of the cache have seen different numbers of tokens ({min(seen)} and {max(seen)}): the "
                    "last forward pass was interrupted, or the model has fewer layers; call cache.reset() and start "
                    "again with the prompt"
                )
        before = self._layer_before.get(layer_idx)
        if before is not None and before[1].awaits_attention:
            raise TreeKVError(
                f"layer {before[0]} of the model did not attend to what the cache keeps: call "
                "model.set_attn_implementation('treekv') and cache.reset(); if that was done, this model changes keys "
                "after they are cached, and cannot be compressed"
            )
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Make row i what row `beam_idx[i]` is now.

        Raises:
            TreeKVError: it is no tensor of row numbers.
        """
        self._check_rows(beam_idx, "beam_idx")
        self._select(beam_idx)
        super().reorder_cache(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Continue with some rows, LongTensor [new batch].

        Raises:
            TreeKVError: it is no tensor of row numbers.
        """
        self._check_rows(indices, "indices")
        self._select(indices)
        self._select_in_layers(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row `repeats` times, one after the other.

        Raises:
            TreeKVError: that is no whole number of at least 1.
        """
        if type(repeats) is not int or repeats < 1:
            raise TreeKVError(f"repeats must be a whole number of at least 1, got {repeats!r}")
        if self._batch():
            rows = torch.arange(self._batch()).repeat_interleave(repeats)
            self._select(rows)
            self._select_in_layers(rows)

    def _select_in_layers(self, rows: Any) -> None:
        layers: list[Any] = self.layers
        for layer in layers:
            states = isinstance(layer, LinearAttentionLayer)  # which can be reordered only
            (layer.reorder_cache if states else layer.batch_select_indices)(rows)

    def _check_rows(self, index: Any, name: str) -> None:
        if not isinstance(index, Tensor) or index.ndim != 1 or index.dtype not in (torch.int64, torch.int32):
            got = f"{index.dtype} {list(index.shape)}" if isinstance(index, Tensor) else repr(index)
            raise TreeKVError(f"{name} must be a LongTensor [rows] of row numbers, got {got}")
        rows = self._batch()
        if rows:
            chosen = index.tolist()
            wrong = next((row for row in chosen if not 0 <= row < rows), None)
            if wrong is not None or not chosen:
                got = "none" if wrong is None else wrong
                raise TreeKVError(f"{name} must hold row numbers between 0 and {rows - 1}, got {got}")

    def _select(self, rows: Tensor) -> None:
        groups = [_group(part) for index in self._compressed for part in self._parts(index)]
        for group in {id(group): group for group in groups}.values():
            group.select(rows)

    def activate_past_recording(self) -> None:
        """Refuse assisted decoding, which starts with this call."""
        raise TreeKVError(
            "assisted (speculative) decoding takes tokens back, but a TreeKV cache cannot restore what it has evicted; "
            "generate without assistant_model and prompt_lookup_num_tokens"
        )

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse to take tokens back."""
        raise TreeKVError("a TreeKV cache cannot be cropped: evicted tokens cannot be restored; call cache.reset()")

    @property
    def nbytes(self) -> int:
        """Bytes held now by keys, values and the queries that some policies look at, over all layers; without states of
        linear attention or convolution, without the ledger's 20 bytes a slot and head and, where heads have
        budgets and one row decodes, a mask of one number for each KV head and slot."""
        storages = [each for layer in self.layers for each in _storages(layer)]
        return sum(_bytes(each.keys) + _bytes(each.values) + _bytes(_queries(each)) for each in storages)

    @property
    def full_nbytes(self) -> int:
        """Bytes that keys and values would take now in a cache that keeps every token seen, padding included."""
        total = self.nbytes
        for part in itertools.chain(*map(self._parts, self._compressed)):
            if part.is_initialized:
                per_token = sum(t.shape[1] * t.shape[3] * t.element_size() for t in (part.keys, part.values))
                total += part.batch * (part.tokens_seen - part.slots) * per_token - _bytes(part.queries)
        return total

    @property
    def kept_tokens(self) -> int:
        """The most tokens that a row of any head of any compressed layer keeps now."""
        parts = itertools.chain(*map(self._parts, self._compressed))
        return max((part.owner.longest(part) for part in parts if part.is_initialized), default=0)

    @property
    def held_tokens(self) -> int:
        """The former name of `kept_tokens`."""
        warnings.warn("held_tokens is now kept_tokens", DeprecationWarning, stacklevel=2)
        return self.kept_tokens

    def kept_positions(self, layer: int) -> Tensor:
        """True positions of the tokens that `layer` keeps, LongTensor [batch, kv_heads, kept], ascending.

        Positions count a row's real tokens from 0, padding excluded. Where rows or heads keep different numbers of
        tokens the shorter ones end with -1.

        Raises:
            TreeKVError: there is no such layer, or it is not compressed.
        """
        parts = self._parts(layer)
        if not parts[0].is_initialized:
            return torch.empty((0, 0, 0), dtype=torch.long)
        most = max(part.owner.longest(part) for part in parts)
        heads = sum(part.keys.shape[1] * part.heads_as_rows for part in parts)
        kept = torch.full((self._batch(), heads, most), -1, device=parts[0].keys.device)
        for part in parts:
            group, n = _group(part), part.heads_as_rows
            own = slice(None) if part.head_numbers is None else part.head_numbers
            for row in range(self._batch()):
                positions = group.ledger.positions(group.ledger_rows(part, slice(row * n, (row + 1) * n)))
                kept[row, own, : positions.shape[2]] = positions.flatten(0, 1)
        return kept

    def tokens_seen(self, layer: int, row: int = 0) -> int:
        """Real tokens that a row of a compressed layer has seen, padding excluded.

        Raises:
            TreeKVError: there is no such layer or row, or the layer is not compressed.
        """
        part = self._parts(layer)[0]
        rows = self._batch()
        if not rows:
            raise TreeKVError("the cache has read nothing yet, so it has no rows")
        if not 0 <= row < rows:
            raise TreeKVError(f"row must be a whole number between 0 and {rows - 1}, got {row!r}")
        group = _group(part)
        return group.ledger.seen[group.ledger_rows(part)][row * part.heads_as_rows]

    @property
    def trace(self) -> dict[int, LayerTrace | JoinedTrace]:
        """The evictions so far, by layer, if `config.trace` is true.

        Raises:
            TreeKVError: they were not recorded.
        """
        if not self.config.trace:
            raise TreeKVError("evictions were not recorded: trace is false, use TreeKVConfig(..., trace=True)")
        traces: dict[int, LayerTrace | JoinedTrace] = {}
        for index in self._compressed:
            found: list[tuple[list[int] | None, LayerTrace]] = []
            for part in self._parts(index):
                group = _group(part)
                if part.is_initialized and group.ledger.trace is not None:
                    found.append((part.head_numbers, group.ledger.trace.of(group.ledger_rows(part))))
            if found:
                traces[index] = found[0][1] if found[0][0] is None else JoinedTrace(found)
        return traces

    def _parts(self, layer: int) -> list[TreeKVLayer]:
        """A compressed layer: itself, or its parts."""
        if not hasattr(layer, "__index__") or not 0 <= layer < len(self.layers):  # numpy's whole numbers too
            raise TreeKVError(f"layer must be a whole number between 0 and {len(self.layers) - 1}, got {layer!r}")
        found = attention_of(self.layers[layer])
        if isinstance(found, SplitLayer):
            return found.parts
        if not isinstance(found, TreeKVLayer):
            what = "a sliding window" if getattr(found, "is_sliding", False) else "no full attention"
            raise TreeKVError(f"layer {layer} has {what} and is not compressed")
        return [found]

    def _batch(self) -> int:
        """Rows of the batch; 0 before the first token."""
        part = self._parts(self._compressed[0])[0]
        return part.batch // part.heads_as_rows if part.is_initialized else 0


def _future_rotaries(config: TreeKVConfig, model_config: Any) -> list[Rotary | None] | None:
    """How a prompt's queries are moved in each of the model's layers, if they are."""
    if not policies.get(config.policy).scores_future(config):
        return None
    try:
        return query_rotaries(model_config)
    except TreeKVError as error:
        moves, instead = f"policy {config.policy!r}", "another policy"
        if config.prompt_score == "future":
            moves, instead = "prompt_score 'future'", "prompt_score 'window'"
        raise TreeKVError(
            f"{moves} moves queries to other positions, which is not possible with the rotary embedding of this "
            f"{getattr(model_config, 'model_type', '?')!r} model; use {instead}"
        ) from error


def _storages(layer: Any) -> list[Any]:
    """What has the keys and values of a layer."""
    layer = attention_of(layer)
    own = [layer] if isinstance(layer, CacheLayerMixin) else []
    return list(layer.parts) if isinstance(layer, SplitLayer) else own


def _queries(storage: Any) -> Tensor | None:
    return storage.queries if isinstance(storage, TreeKVLayer) else None


def _bytes(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.numel() * tensor.element_size()


def _group(part: TreeKVLayer) -> LayerGroup:
    """It may have been divided since the cache was made, by layers on several devices."""
    owner = part.owner
    assert isinstance(owner, LayerGroup)  # the only owner there is
    return owner
