"""Task "continuation": whether a model that writes on for long begins to repeat itself when its cache is compressed."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from analysis.evaluation.stream import stream_perplexity
from analysis.evaluation.tasks import options, texts
from analysis.evaluation.tasks.base import Document, Measurement
from analysis.evaluation.tasks.perplexity import PerplexityTask
from analysis.evaluation.tasks.tokens import context_window, end_tokens
from analysis.progress import Progress
from treekv import TreeKVCache, TreeKVConfig
from treekv.errors import TreeKVError

RUN: Final = 8  # tokens that count as a repetition if they occurred before
_CHUNK: Final = 64  # tokens per pass when the full cache reads what was written


@dataclass(kw_only=True)
class Continuation:
    """Long texts that the model writes itself, with a compressed cache, after a prompt.

    A prompt is a stretch of a text, read in one pass by the settings' own prefill. Then `new_tokens` tokens are drawn
    one by one at `temperature`; tokens that end a text are not drawn. All settings draw with the same random numbers,
    so differences between two of them come from what they keep. Prompts of one length can run in one pass.

    Scores: `repeated`, the share in per cent of runs of eight written tokens that the written text has had before;
    `full_loss`, what the written text costs when the full cache reads it after the prompt, in nats per token (a model
    that has lost the thread writes what it would not expect); `cache_bytes`.

    Args:
        files: texts (.txt, .md), folders of them or patterns.
        prompt: tokens of a prompt, special tokens at the start included.
        new_tokens: tokens to write.
        count: the most prompts: the first stretch of every text, then the second, and so on.
        skip: number of first tokens of each text to leave out.
        temperature: of the draws.
        seed: of the random numbers.
    """

    files: list[str] = field(default_factory=list)
    prompt: int = 512
    new_tokens: int = 2000
    count: int = 8
    skip: int = 0
    temperature: float = 1.0
    seed: int = 0
    name: ClassVar[str] = "continuation"

    def __post_init__(self) -> None:
        self.files = options.require_texts("files", self.files)
        options.require_int("prompt", self.prompt, 2)
        options.require_int("new_tokens", self.new_tokens, RUN)
        options.require_int("count", self.count, 1)
        options.require_int("skip", self.skip, 0)
        options.require_int("seed", self.seed, 0)
        number = isinstance(self.temperature, (int, float)) and not isinstance(self.temperature, bool)
        if not number or not 0 < self.temperature < math.inf:
            raise TreeKVError(f"temperature must be a number above 0, got {self.temperature!r}")

    @property
    def settings(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"files": texts.names(self.files)}

    def documents(self, tokenizer: Any) -> list[Document]:
        """The prompts. Raises TreeKVError if no text can be read or none is long enough."""
        stretches = PerplexityTask(files=self.files, lengths=[self.prompt], count=self.count, skip=self.skip)
        return stretches.documents(tokenizer)

    def run(
        self,
        model: Any,
        tokenizer: Any,
        config: TreeKVConfig | None,
        document: Document,
        progress: Progress | None = None,
    ) -> Measurement:
        """Measure one prompt; see `Task.run`."""
        return self.run_many(model, tokenizer, config, [document], progress)[0]

    def run_many(
        self,
        model: Any,
        tokenizer: Any,
        config: TreeKVConfig | None,
        documents: Sequence[Document],
        progress: Progress | None = None,
    ) -> list[Measurement]:
        """Measure several prompts in one pass; see `BatchTask.run_many`."""
        for document in documents:
            if document.data.get("error"):
                raise TreeKVError(document.data["error"])
        full = TreeKVConfig(policy="full")
        config = full if config is None else config
        total, window = self.prompt + self.new_tokens, context_window(model)
        if window is not None and total > window:
            raise TreeKVError(f"{self.prompt} tokens and {self.new_tokens} more exceed the model's window of {window}")
        ids = torch.tensor([document.data["ids"] for document in documents])
        draws = [torch.Generator().manual_seed(self._seed_of(document)) for document in documents]
        written, cache_bytes = self._written(model, config, ids, draws, progress)
        whole = torch.cat([ids, written], dim=1)
        read = stream_perplexity(model, whole, TreeKVCache(full, model.config), chunk=_CHUNK)
        losses = read.nll[:, self.prompt - 1 :].double().mean(1)
        return [
            Measurement(
                {"repeated": repeated(row), "full_loss": loss, "cache_bytes": cache_bytes / len(ids)},
                {"text": tokenizer.decode(row, skip_special_tokens=True)},
            )
            for row, loss in zip(written.tolist(), losses.tolist(), strict=True)
        ]

    def _written(
        self, model: Any, config: TreeKVConfig, ids: Tensor, draws: list[torch.Generator], progress: Progress | None
    ) -> tuple[Tensor, int]:
        """The drawn tokens [rows, new_tokens], and the bytes of the cache at the end."""
        device = model.get_input_embeddings().weight.device
        cache, tokens = TreeKVCache(config, model.config), []
        ends = end_tokens(model)
        with torch.inference_mode():
            piece = ids.to(device)
            for number in range(self.new_tokens):
                logits = model(input_ids=piece, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
                logits = logits.float().cpu() / self.temperature
                logits[:, ends] = -torch.inf
                # The largest of logits plus Gumbel noise is a draw from their softmax; noise does not depend on logits.
                noise = torch.stack([torch.empty(logits.shape[1]).exponential_(generator=draw) for draw in draws])
                tokens.append((logits - noise.log()).argmax(-1))
                piece = tokens[-1][:, None].to(device)
                if progress is not None:
                    progress(number + 1, self.new_tokens)
        return torch.stack(tokens, dim=1), cache.nbytes

    def _seed_of(self, document: Document) -> int:
        """Each prompt has its own random numbers, whichever others it runs with."""
        return zlib.crc32(repr((self.seed, document.data["ids"])).encode())


def repeated(ids: Sequence[int], run: int = RUN) -> float:
    """The share of runs of tokens that occurred before, in per cent of all runs.

    Example:
        >>> repeated([1, 2, 1, 2, 3], run=2)
        25.0
    """
    runs = [tuple(ids[at : at + run]) for at in range(len(ids) - run + 1)]
    return 100 * (1 - len(set(runs)) / len(runs))
