"""The number type in which a model computes, without changing the model that was given."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import nn

from treekv.errors import TreeKVError

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def fastest_dtype(model: nn.Module) -> str:
    """The name of the model's own number type, or "bfloat16" for a float32 model on a CPU with instructions for it.

    These halve the time of a pass. A token's loss changes by some thousandths of a nat, alike for all settings.
    """
    parameter = next(model.parameters())
    if parameter.dtype == torch.float32 and parameter.device.type == "cpu" and _cpu_has_bfloat16():
        return "bfloat16"
    return str(parameter.dtype).removeprefix("torch.")


def _cpu_has_bfloat16() -> bool:
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"))


@contextlib.contextmanager
def computing_in(model: nn.Module, dtype: str | None) -> Iterator[nn.Module]:
    """The model in evaluation mode: itself if it computes in `dtype` already, otherwise a copy of it.

    Only parameters are converted: buffers, such as the frequencies of rotary embeddings, lose too much in half
    precision. Raises TreeKVError for an unknown number type.
    """
    name = fastest_dtype(model) if dtype is None else dtype
    if name not in DTYPES:
        raise TreeKVError(f"dtype must be one of {', '.join(DTYPES)} or None for the fastest, got {dtype!r}")
    wanted = DTYPES[name]
    parameters = list(model.parameters())
    if any(parameter.dtype != wanted for parameter in parameters):
        # Entries of the memo are taken instead of copies, so that no second copy in the old type is ever made.
        memo = {id(each): nn.Parameter(each.detach().to(wanted), requires_grad=False) for each in parameters}
        model = copy.deepcopy(model, memo)
    training = model.training
    model.eval()
    try:
        yield model
    finally:
        model.train(training)
