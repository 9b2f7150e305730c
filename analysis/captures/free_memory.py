"""How much memory is left for new tensors."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

CONTROL_GROUP = Path("/sys/fs/cgroup")  # of the container, if there is one: Linux control groups, version 2


def free_bytes(device: torch.device) -> int:
    """Bytes that new tensors on `device` can take: free ones, and those that PyTorch holds without using them."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(int(psutil.virtual_memory().available), _left_of_limit())


def _left_of_limit() -> int:
    """What the container's limit leaves; a very large number without a limit."""
    try:
        limit, used = (int((CONTROL_GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        counters = dict(line.split() for line in (CONTROL_GROUP / "memory.stat").read_text().splitlines())
        return max(0, limit - used + int(counters["inactive_file"]))  # files in memory make room
    except (OSError, ValueError, KeyError):  # no control group, or no limit ("max")
        return 2**63
