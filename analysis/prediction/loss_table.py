"""The table that replay and measure return, and the checks they share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from analysis import netcdf
from analysis.captures.data import Capture
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError
from treekv.model_identity import model_fingerprint, model_name

FORMAT: Final = "treekv-token-loss"
FULL: Final = "full"  # the first row: the full cache

Text: TypeAlias = "Capture | Sequence[int] | Tensor"


def checked_text(model: nn.Module, text: Text, prompt: int) -> Tensor:
    """LongTensor [T], the tokens of a text; raises TreeKVError as `replay` and `measure` do."""
    if isinstance(text, Capture):
        known, given = text.attrs.get("model_fingerprint"), model_fingerprint(model)
        if known not in (None, given):
            raise TreeKVError(
                f"the capture is of {text.model!r} with the fingerprint {known}, but the model has {given}; give the "
                "checkpoint that was captured, in the number type it was captured in (and dtype='bfloat16' to compute "
                "faster)"
            )
    ids = torch.as_tensor(text.token_ids if isinstance(text, Capture) else text, dtype=torch.long)
    if ids.ndim != 1 or len(ids) < 2:
        raise TreeKVError(f"the text must be a list of at least 2 token ids, got the shape {tuple(ids.shape)}")
    vocabulary = vocabulary_size(model)
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocabulary:
        wrong = low if low < 0 else high
        raise TreeKVError(f"token id {wrong} is outside the model's vocabulary of {vocabulary}")
    if not 0 <= prompt <= len(ids) - 2:
        raise TreeKVError(f"prompt must leave at least 2 of the {len(ids)} tokens, got {prompt}")
    return ids


def vocabulary_size(model: Any) -> int:
    return int(model.config.get_text_config(decoder=True).vocab_size)


def check_configs(configs: Mapping[str, TreeKVConfig]) -> None:
    """Raises TreeKVError where there are none, or another policy has the name of the first row."""
    if not configs:
        raise TreeKVError("no settings given; pass some, such as TreeKVConfig(cache_size=128)")
    if FULL in configs and configs[FULL].policy != FULL:
        raise TreeKVError(
            f"the name {FULL!r} is that of the full cache, the first row, but stands for policy "
            f"{configs[FULL].policy!r}; give these settings another name"
        )


def check_losses(losses: np.ndarray, model: nn.Module) -> None:
    """Raises TreeKVError unless the losses that `model` gave are finite: it may overflow in half precision."""
    if not np.isfinite(losses).all():
        dtype = next(model.parameters()).dtype
        raise TreeKVError(
            f"the losses are not finite numbers (the model computes in {dtype}); compute in 'float32' or 'bfloat16'"
        )


def loss_table(
    losses: Mapping[str, np.ndarray],
    configs: Mapping[str, TreeKVConfig],
    text: Text,
    model: nn.Module,
    prompt: int,
    **attrs: Any,
) -> xr.Dataset:
    """The Dataset of losses by name, float32 [tokens - prompt - 1] each: of the tokens after the prompt's next one."""
    names = list(losses)
    first = prompt + 1
    count = len(losses[names[0]])
    coords: dict[str, Any] = {"policy": names, "position": np.arange(first, first + count, dtype=np.int32)}
    if isinstance(text, Capture):
        coords["token"] = ("position", np.asarray(text.token_text[first : first + count], dtype=np.str_))
    values = np.stack([losses[name] for name in names]).astype(np.float32)
    about = {"long_name": "loss of the token", "units": "nats"}
    known = {name: configs.get(name, TreeKVConfig(policy=FULL)).to_dict() for name in names}
    found: Any = model
    return xr.Dataset(
        {"loss": (("policy", "position"), values, about)},
        coords=coords,
        attrs={
            "format": FORMAT,
            "format_version": netcdf.FORMAT_VERSION,
            "model": text.model if isinstance(text, Capture) else model_name(found.config),
            "prompt": prompt,
            "configs": json.dumps(known),
            **attrs,
            **netcdf.versions(),
        },
    )


def extra_loss(table: xr.Dataset) -> xr.DataArray:
    """Mean loss of each setting above that of the full cache, nats a token, (policy) without the full cache.

    The table is one that `replay` or `measure` gave.
    """
    mean = table["loss"].astype(np.float64).mean("position")
    others = [name for name in table["policy"].values.tolist() if name != FULL]
    found = (mean - mean.sel(policy=FULL, drop=True)).sel(policy=others)
    return found.rename("extra_loss").assign_attrs(units="nats", long_name="loss above the full cache")
