"""The captured queries, keys and values of one text, which all other analysis is computed from.

    captured = analysis.open("capture.nc")
    captured.weights(0, [2047])            # [query_heads, 1, 2048]
    captured.contributions(0, 2047)        # [query_heads, 2048, head_dim]

No attention matrix is stored; the weights of chosen queries are computed on demand.
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from analysis import netcdf
from analysis.captures.attention import attention_weights, output_weights, weighted_values
from analysis.captures.file_content import check_content
from analysis.captures.forward_pass import CacheLayer
from analysis.captures.rotary_record import recorded_rotary
from analysis.units import count, format_bytes
from treekv.attention.rotary import Rotary
from treekv.errors import TreeKVError

FORMAT = "treekv-capture"


@dataclass(repr=False)
class Capture:
    """Queries, keys and values of one text of T tokens; the batch size is always one.

    Lists have one entry a captured layer, in the order of `layers` (the model's layer numbers). Query head h
    reads KV head h // (query_heads // kv_heads). Positions are 0 ... T-1.
    """

    q: list[Tensor]  # per layer [query_heads, T, head_dim], after rotary embedding
    k: list[Tensor]  # per layer [kv_heads, T, head_dim], after rotary embedding
    v: list[Tensor]  # per layer [kv_heads, T, value_dim]
    scaling: list[float]  # per layer, the factor before the softmax
    layers: list[int]
    token_ids: Tensor  # LongTensor [T]
    token_text: list[str]
    query_positions: list[int]  # the observed queries, ascending
    model: str
    attrs: dict[str, Any] = field(default_factory=dict)  # settings, library versions, the model's fingerprint
    g: list[Tensor] | None = None  # per layer [query_heads, T, value_dim] float16, in units of g_scale; see `gradient`
    g_scale: list[float] | None = None  # per layer, a power of two

    @property
    def tokens(self) -> int:
        """T, the number of tokens."""
        return len(self.token_text)

    @property
    def query_heads(self) -> int:
        return self.q[0].shape[0]

    @property
    def kv_heads(self) -> int:
        return self.k[0].shape[0]

    @property
    def head_dim(self) -> int:
        """Channels of a query and of a key."""
        return int(self.q[0].shape[2])

    @property
    def model_layers(self) -> list[CacheLayer]:
        """The sizes of a cache of the model, layer by layer, for all its layers, captured or not.

        For files from before captures recorded this, only the captured layers are known.
        """
        recorded = self.attrs.get("model_layers")
        if recorded is not None:
            return [CacheLayer(*layer) for layer in json.loads(recorded)]
        each = zip(self.layers, self.k, self.v, strict=True)
        return [CacheLayer(n, k.shape[0] * k.shape[2] + v.shape[0] * v.shape[2], None) for n, k, v in each]

    @property
    def full_layers(self) -> list[int]:
        """The numbers of the model's full-attention layers, which a `TreeKVCache` compresses and which `budgets` refer
        to; like `model_layers` only the captured ones for old files."""
        return [layer.number for layer in self.model_layers if layer.window is None]

    def rotary(self, layer: int) -> Rotary | None:
        """The rotary embedding that moves the queries of the model's layer `layer`; None if it has none.

        Raises TreeKVError where the capture does not record it, or for a layer that was not captured.
        """
        return recorded_rotary(self.attrs, layer, self.k[self._index(layer)].shape[2])

    def weights(self, layer: int, query_positions: Sequence[int]) -> Tensor:
        """Softmax weights of these queries, float32 [query_heads, queries, T], zero after each query.

        `layer` is the model's number of a captured layer. Raises TreeKVError for a layer that was not
        captured or a position outside the text.
        """
        index = self._index(layer)
        positions = self._checked(query_positions)
        return attention_weights(self.q[index][:, positions], self.k[index], self.scaling[index], positions)

    def contributions(self, layer: int, query_position: int, model: nn.Module | None = None) -> Tensor:
        """s_j = weight of token j times its value, float32 [query_heads, t + 1, value_dim] for query t.

        Summed over j it is the attention output of each head. With `model`, the captured model, each head's part of
        its output projection is applied, [query_heads, t + 1, hidden]: what token j adds to the residual stream
        through that head (without the projection's bias, and before any norm that follows).
        Source: He et al., TreeKV, arXiv 2501.04987. Raises TreeKVError as `weights` does, and for a model without a
        known output projection.
        """
        weights = self.weights(layer, [query_position])[:, 0, : query_position + 1]
        found = weighted_values(weights, self.v[self._index(layer)][:, : query_position + 1])
        return found if model is None else found @ output_weights(model, layer, self.query_heads)

    @property
    def has_sensitivity(self) -> bool:
        """Whether the text was captured with its gradients."""
        return self.g is not None

    def gradient(self, layer: int) -> Tensor:
        """How the text's loss follows the attention outputs: float32 [query_heads, T, value_dim].

        The gradient of the sum of the next-token losses of the text, in nats, with respect to the attention output of
        each query head at each token, before the output projection. That of the last token, which predicts nothing,
        is zero. `layer` is the model's number of a captured layer.

        Raises TreeKVError for a layer that was not captured, or a capture without gradients.
        """
        index = self._index(layer)
        self.check_sensitivity()
        assert self.g is not None and self.g_scale is not None
        return self.g[index].float() * self.g_scale[index]

    def check_sensitivity(self) -> None:
        """Raise TreeKVError in one sentence for a capture without gradients."""
        if not self.has_sensitivity:
            raise TreeKVError(
                "this capture has no gradients of the loss; capture the text with sensitivity=True (treekv capture "
                "--sensitivity)"
            )

    def check_record(self, retention: xr.Dataset) -> None:
        """Raise TreeKVError for a retention record whose tokens, KV heads or layers are not those of this capture."""
        tokens, heads = retention.sizes["position"], retention.sizes["head"]
        if tokens != self.tokens:
            raise TreeKVError(
                f"the record has {tokens} tokens, the capture {self.tokens}; both must be of the same text"
            )
        if heads != self.kv_heads:
            raise TreeKVError(f"the record has {heads} KV heads, the capture {self.kv_heads}")
        missing = [int(layer) for layer in retention["layer"].values if layer not in self.layers]
        if missing:
            raise TreeKVError(f"layer {missing[0]} of the record was not captured; captured are {self.layers}")

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the capture to one netCDF file (q, k, v and g as float16) and return its path.

        Raises TreeKVError when the path cannot be written.
        """
        dims = {
            "q": ("layer", "query_head", "position", "channel"),
            "k": ("layer", "kv_head", "position", "channel"),
            "v": ("layer", "kv_head", "position", "value_channel"),
        }
        arrays: dict[str, Any] = {name: (dim, _half(getattr(self, name), name)) for name, dim in dims.items()}
        if self.g is not None:
            arrays["g"] = (("layer", "query_head", "position", "value_channel"), _half(self.g, "g"))
            arrays["g_scale"] = ("layer", np.asarray(self.g_scale, dtype=np.float64))
        dataset = xr.Dataset(
            {**arrays, "scaling": ("layer", np.asarray(self.scaling, dtype=np.float64))},
            coords={
                "layer": np.asarray(self.layers, dtype=np.int32),
                "token": ("position", np.asarray(self.token_text, dtype=np.str_)),
                "token_id": ("position", self.token_ids.cpu().numpy().astype(np.int64)),
                "query_position": np.asarray(self.query_positions, dtype=np.int32),
            },
            attrs={
                **self.attrs,
                "format": FORMAT,
                "format_version": netcdf.FORMAT_VERSION,
                "model": self.model,
            },
        )
        return netcdf.write(dataset, path)

    @classmethod
    def from_dataset(cls, dataset: xr.Dataset, device: str | torch.device = "cpu") -> Capture:
        """The capture from the contents of its file, tensors on `device`.

        Raises TreeKVError for impossible shapes, numbers that are not finite, or positions outside the text.
        """
        check_content(dataset)
        attrs = {name: value for name, value in dataset.attrs.items() if name not in ("format", "format_version")}
        return cls(
            q=list(torch.from_numpy(dataset["q"].values).to(device)),
            k=list(torch.from_numpy(dataset["k"].values).to(device)),
            v=list(torch.from_numpy(dataset["v"].values).to(device)),
            scaling=dataset["scaling"].values.tolist(),
            layers=dataset["layer"].values.tolist(),
            token_ids=torch.from_numpy(dataset["token_id"].values),
            token_text=[str(token) for token in dataset["token"].values],
            query_positions=dataset["query_position"].values.tolist(),
            model=str(attrs.pop("model", "")),
            attrs=attrs,
            g=list(torch.from_numpy(dataset["g"].values).to(device)) if "g" in dataset else None,
            g_scale=dataset["g_scale"].values.tolist() if "g" in dataset else None,
        )

    def __repr__(self) -> str:
        tokens, layers = count(self.tokens, "token"), count(len(self.layers), "layer")
        return f"Capture({self.model}, {tokens}, {layers}, {self._size})"

    def _repr_html_(self) -> str:
        """A small table, for notebooks."""
        rows = {
            "model": self.model,
            "tokens": f"{self.tokens:,}",
            "observed queries": str(len(self.query_positions)),
            "layers": f"{len(self.layers)}, from {self.layers[0]} to {self.layers[-1]}",
            "heads": f"{count(self.query_heads, 'query head')}, {count(self.kv_heads, 'KV head')}",
            **({"gradients": "of the next-token losses"} if self.has_sensitivity else {}),
            "tensors": f"{self._size}, {str(self.k[0].dtype).removeprefix('torch.')} on {self.k[0].device}",
        }
        cells = (f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in rows.items())
        return f"<table><caption>Capture</caption>{''.join(cells)}</table>"

    @property
    def _size(self) -> str:
        """Memory of the tensors in words."""
        return format_bytes(sum(x.nbytes for x in (*self.q, *self.k, *self.v, *(self.g or ()))))

    def _index(self, layer: int) -> int:
        try:
            return self.layers.index(layer)
        except ValueError:
            raise TreeKVError(f"layer {layer} was not captured; captured are {self.layers}") from None

    def _checked(self, positions: Sequence[int]) -> list[int]:
        wrong = [p for p in positions if not 0 <= p < self.tokens]
        if wrong or not len(positions):
            raise TreeKVError(
                f"query position {wrong[0] if wrong else 'list []'} is outside the text; "
                f"give positions from 0 to {self.tokens - 1}"
            )
        return list(positions)


def open_capture(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Capture:
    """Read a capture that `Capture.save` wrote; q, k, v are read as float16 on `device`.

    Raises TreeKVError in one sentence for a file that is missing, damaged, of another kind or newer, and for one whose
    content cannot be a capture.
    """
    return Capture.from_dataset(netcdf.read(path, FORMAT), device)


def _half(tensors: list[Tensor], name: str) -> np.ndarray:
    if len({tuple(x.shape) for x in tensors}) > 1:
        raise TreeKVError(f"the layers' {name} differ in shape {[tuple(x.shape) for x in tensors]}; save fewer layers")
    halves = [x.detach().to(torch.float16).cpu() for x in tensors]
    if all(bool(half.isfinite().all()) for half in halves):
        return torch.stack(halves).numpy()
    # A model in float32 or bfloat16 can exceed float16's range: the file then keeps float32, not infinities.
    return torch.stack([x.detach().float().cpu() for x in tensors]).numpy()
