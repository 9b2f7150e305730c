"""A device by its name, refused in one sentence before anything is loaded."""

from __future__ import annotations

import torch

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
