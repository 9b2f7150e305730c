"""A device by its name, refused in one sentence before anything is loaded, and where the layers of a model compute."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from treekv.errors import TreeKVError


def usable_device(device: torch.device | str | None) -> torch.device:
    """The device, by default the CPU.

    Raises:
        TreeKVError: there is no such device, or it cannot be used here.
    """
    try:
        target = torch.device(device if device is not None else "cpu")
    except (RuntimeError, TypeError) as error:
        raise TreeKVError(f"device must be one such as 'cpu' or 'cuda', got {device!r}") from error
    try:
        torch.empty(0, device=target)  # fails before the model is loaded, not after
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise TreeKVError(f"device {str(target)!r} cannot be used here: {reason}") from error
    return target


def layer_devices(model: nn.Module, layers: int) -> list[torch.device]:
    """Where each of its `layers` layers computes: they may be spread over several devices, or be moved to one when
    they are called."""
    decoder: Any = model
    if hasattr(decoder, "get_decoder"):  # of transformers; beside it there may be a tower for images
        decoder = decoder.get_decoder()
    stacks = (part for part in decoder.modules() if isinstance(part, nn.ModuleList) and len(part) == layers)
    stack = next(stacks, [model] * layers)  # the outermost
    return [_device_of(layer) for layer in stack]


def _device_of(layer: nn.Module) -> torch.device:
    hook = getattr(layer, "_hf_hook", None)  # accelerate's: one, or several of them
    for own in getattr(hook, "hooks", (hook,)):
        moved_to = getattr(own, "execution_device", None)
        if moved_to is not None:
            return torch.device(moved_to)
    return next(layer.parameters()).device
