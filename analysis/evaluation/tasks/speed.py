"""Task "speed": time and memory of a prompt and the tokens after it."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from analysis.captures.forward_pass import decoder_of
from analysis.evaluation.tasks import options
from analysis.evaluation.tasks.base import Document, Measurement
from analysis.progress import Progress
from treekv import TreeKVCache, TreeKVConfig


@dataclass(kw_only=True)
class Speed:
    """Time and memory of one prompt and the tokens after it, by length.

    Each document is a prompt of random tokens. It is read in one call, then `new_tokens` tokens are generated greedily,
    one by one. After one warm-up round, `repeats` rounds are measured; each score is their median.

    Scores: `tokens_per_second` after the prompt; `prompt_seconds`; `peak_bytes`, the peak memory above what was
    allocated before (of the GPUs if the model is on them, else of the process, which only Linux reports: elsewhere the
    score is missing); `cache_bytes` at the end and `full_bytes`, the size of a cache that evicts nothing.

    Args:
        lengths: tokens of the prompt.
        new_tokens: tokens after it.
        batch: number of prompts at once.
        repeats: number of measured rounds.
        seed: of the random tokens.
    """

    lengths: list[int] = field(default_factory=lambda: [1024, 4096])
    new_tokens: int = 64
    batch: int = 1
    repeats: int = 3
    seed: int = 0
    name: ClassVar[str] = "speed"

    def __post_init__(self) -> None:
        self.lengths = options.require_ints("lengths", self.lengths, 1)
        for option in ("new_tokens", "batch", "repeats"):
            options.require_int(option, getattr(self, option), 1)
        options.require_int("seed", self.seed, 0)

    @property
    def settings(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def documents(self, tokenizer: Any) -> list[Document]:
        """One document per length; its tokens are drawn from the model's vocabulary when it is run."""
        return [
            Document(
                str(length), {"tokens": length, "length": length, "batch": self.batch, "new_tokens": self.new_tokens}
            )
            for length in self.lengths
        ]

    def run(
        self,
        model: Any,
        tokenizer: Any,
        config: TreeKVConfig | None,
        document: Document,
        progress: Progress | None = None,
    ) -> Measurement:
        """Measure one length; see `Task.run`."""
        config = TreeKVConfig(policy="full") if config is None else config
        vocabulary = model.config.get_text_config(decoder=True).vocab_size
        draw = torch.Generator().manual_seed(self.seed)
        ids = torch.randint(vocabulary, (self.batch, document.data["length"]), generator=draw)
        rounds = []
        for number in range(self.repeats + 1):
            rounds.append(_round(model, config, ids, self.new_tokens))
            if progress is not None:
                progress(number + 1, self.repeats + 1)
        measured = rounds[1:]
        scores = {
            figure: statistics.median(each[figure] for each in measured)
            for figure in measured[0]
            if all(each[figure] is not None for each in measured)
        }
        return Measurement(scores, {"rounds": measured, "threads": torch.get_num_threads()})


def _round(model: Any, config: TreeKVConfig, ids: Tensor, tokens: int) -> dict[str, Any]:
    device = model.get_input_embeddings().weight.device
    ids = ids.to(device)
    cache = TreeKVCache(config, model.config)
    peak = _PeakMemory(device)
    with torch.inference_mode():
        start = _now(device)
        hidden = decoder_of(model)(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
        token = model.get_output_embeddings()(hidden[:, -1:]).argmax(-1)
        prompt = _now(device) - start
        start = _now(device)
        for _ in range(tokens):
            token = model(input_ids=token, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
        rest = _now(device) - start
    return {
        "tokens_per_second": tokens * len(ids) / rest,
        "prompt_seconds": prompt,
        "peak_bytes": peak.bytes(),
        "cache_bytes": float(cache.nbytes),
        "full_bytes": float(max(cache.full_nbytes, cache.nbytes)),
    }


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class _PeakMemory:
    """The peak memory from now on, above what is allocated already."""

    def __init__(self, device: torch.device) -> None:
        self._gpus = list(range(torch.cuda.device_count())) if device.type == "cuda" else []
        self._before = 0
        if self._gpus:
            for gpu in self._gpus:
                torch.cuda.reset_peak_memory_stats(gpu)
            self._before = sum(torch.cuda.memory_allocated(gpu) for gpu in self._gpus)
        elif sys.platform == "linux":
            gc.collect()
            # Memory that the C library freed but kept would otherwise hide new allocations.
            with contextlib.suppress(OSError, AttributeError):
                ctypes.CDLL(None).malloc_trim(0)
            with contextlib.suppress(OSError):  # resets the peak of this process to its current memory
                Path("/proc/self/clear_refs").write_text("5")
            self._before = _status("VmRSS")

    def bytes(self) -> float | None:
        """The peak in bytes, None if the system does not report it."""
        if self._gpus:
            peak = sum(torch.cuda.max_memory_allocated(gpu) for gpu in self._gpus)
        elif self._before:
            peak = _status("VmHWM")
        else:
            return None
        return float(max(peak - self._before, 0))


def _status(entry: str) -> int:
    """Bytes of an entry of /proc/self/status, 0 if it is missing."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{entry}:"):
                return 1024 * int(line.split()[1])
    return 0
