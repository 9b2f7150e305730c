"""A long stream that is interrupted goes on where it was: its cache and losses are kept in a folder meanwhile."""

from __future__ import annotations

import contextlib
import math
import re
import time
import warnings
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from treekv import TreeKVCache
from treekv.errors import TreeKVError
from treekv.files import atomic_write

EVERY: Final = 60.0  # seconds of work between two states
MOST_BYTES: Final = 2**29  # of a cache that is kept; writing a larger one each minute would cost more than it saves


class UnfinishedStream:
    """The state of one stream, in two files `NAME-TOKENS.treekv` and `NAME-TOKENS.safetensors`.

    A state counts once both are there; then earlier ones are deleted. So a kill at any moment leaves a whole one.

    Args:
        folder: where to keep it; made when there is something to keep.
        name: of letters, digits, `-` and `_`; the same for the same stream and settings only.
        every: seconds between two states.
    """

    def __init__(self, folder: Path, name: str, every: float = EVERY) -> None:
        self._folder, self._name, self._every = folder, name, every
        self._last = time.monotonic()

    def load(self, model: Any) -> tuple[TreeKVCache, Tensor, float] | None:
        """Cache, losses [rows, tokens read] and seconds of the last state; None without one that can be read."""
        for tokens in sorted(self._tokens(), reverse=True):
            try:
                cache = TreeKVCache.load(self._file(tokens, ".treekv"), model)
                kept = load_file(self._file(tokens, ".safetensors"))
                nll, seconds = kept["nll"], kept["seconds"].item()
            except (TreeKVError, SafetensorError, OSError, KeyError) as error:
                warnings.warn(f"a kept stream cannot be read and is read anew: {error}", stacklevel=2)
                continue
            if cache.get_seq_length() == nll.shape[1] == tokens:
                return cache, nll, seconds
        return None

    @property
    def is_due(self) -> bool:
        """Whether it is time for another state."""
        return time.monotonic() - self._last >= self._every

    def keep(self, cache: TreeKVCache, nll: Tensor, seconds: float, model: Any = None) -> None:
        """Write a state in place of the last, with a fingerprint of the model's weights.

        Where it cannot be written, a warning says so once, and the stream goes on without.
        """
        self._last = time.monotonic()
        if cache.nbytes > MOST_BYTES:
            return
        tokens = nll.shape[1]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            cache.save(self._file(tokens, ".treekv"), model)
            with atomic_write(self._file(tokens, ".safetensors")) as temporary:
                save_file({"nll": nll.contiguous(), "seconds": torch.tensor(seconds)}, temporary)
            self._remove(but=tokens)
        except (OSError, SafetensorError, TreeKVError) as error:
            warnings.warn(f"a long stream cannot be kept while it is read: {error}", stacklevel=2)
            self._every = math.inf

    def remove(self) -> None:
        """Delete all states: the stream has ended."""
        self._remove()
        with contextlib.suppress(OSError):  # others may be in it
            self._folder.rmdir()

    def _remove(self, but: int | None = None) -> None:
        for tokens in self._tokens():
            if tokens != but:
                self._file(tokens, ".safetensors").unlink(missing_ok=True)
                self._file(tokens, ".treekv").unlink(missing_ok=True)

    def _tokens(self) -> list[int]:
        """How far the states are that are there, whole or not."""
        pattern = re.compile(rf"{re.escape(self._name)}-(\d+)\.treekv")
        found = [pattern.fullmatch(file.name) for file in self._folder.glob(f"{self._name}-*.treekv")]
        return [int(match[1]) for match in found if match]

    def _file(self, tokens: int, suffix: str) -> Path:
        return self._folder / f"{self._name}-{tokens}{suffix}"
