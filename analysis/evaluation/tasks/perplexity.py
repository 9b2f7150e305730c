"""Task "ppl": perplexity of texts that stream through the cache."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from analysis.evaluation.stream import StreamResult, stream_perplexity
from analysis.evaluation.tasks import options, texts
from analysis.evaluation.tasks.base import Document, Measurement
from analysis.evaluation.tasks.tokens import context_window
from analysis.evaluation.tasks.windows import at_shorter_lengths, counted, windows_of
from analysis.evaluation.unfinished import UnfinishedStream
from analysis.progress import Progress
from analysis.token_ids import encode, special_prefix
from treekv import TreeKVCache, TreeKVConfig, policies
from treekv.errors import TreeKVError
from treekv.files import read_text

#: Copies of the paper's data sets that load without custom code: hub name, split, column.
DATASETS: Final = {
    "pg19": ("emozilla/pg19", "test", "text"),
    "openwebtext2": ("Geralt-Targaryen/openwebtext2", "train", "text"),
}
PASS_TOKENS: Final = 512  # of all rows in one pass: enough to saturate a CPU
PASS_LOGITS: Final = 2**26  # numbers in one pass, 256 MB
PASS_ROWS: Final = 16  # windows in one pass; a full cache of 16,384 tokens of SmolLM2 takes 0.4 GB a row in bfloat16
CELLS: Final = 256  # of loss by position, for any length
_MAX_READ: Final = 50  # texts read from a hub data set per requested document, at most


@dataclass(kw_only=True)
class PerplexityTask:
    """Perplexity of texts: each token is predicted from what the cache keeps of those before it.

    A document is a stretch of `length` tokens of a text, special tokens at the start included. Whatever the settings
    say about prompts, the cache evicts from the first token on (prefill "stream"), unless there is a `prompt`. Texts
    longer than the model's window are accepted: rank positions stay within it.

    With `stride`, the paper's protocol: a document is a stretch of `stretch` tokens, over which windows of `length`
    tokens slide; see `analysis.evaluation.tasks.windows`.

    Scores: `perplexity`; `loss` in nats per token; `bits_per_byte`, which is comparable between tokenizers;
    `cache_bytes`. Windows also give `perplexity_2048` and so on, for `stride` tokens, twice as many, ...: of the last
    `stride` tokens of windows of that length that start at the same places. The detail has the loss by position, and
    that of each window. Documents of one length can run in one pass (`run_many`).

    Args:
        files: texts (.txt, .md, or .jsonl with `column`), folders of them or patterns.
        dataset: instead of files, a data set on the hub: "pg19", "openwebtext2", or any other by name.
        split, column: of the data set or the .jsonl files; by default those of the data set, else "test" and "text".
        lengths: tokens of a document.
        count: the most documents per length: the first stretch of every text, then the second, and so on. Texts that
            are too short are used only if the others do not suffice, and fail.
        skip: number of first tokens of each text to leave out.
        join: concatenate all texts.
        decode_block: tokens that are fed and evicted together; 1 is the paper's protocol, more is faster.
        prompt: tokens read in one pass as a prompt, by the settings' own prefill, and not scored; the way to measure
            policies that act on prompts only, such as "snapkv".
        stride: tokens between the starts of windows, at most a length; the paper has 2,048 for PG19 and 1,024 for
            OpenWebText2. None reads each document once, and counts all of it.
        stretch: tokens of a document that windows slide over, at least the largest length.

    Attributes:
        unfinished: set by a sweep: the folder where streams of more than a minute are kept until they end, so that an
            interrupted one goes on.
    """

    files: list[str] = field(default_factory=list)
    dataset: str | None = None
    split: str | None = None
    column: str | None = None
    lengths: list[int] = field(default_factory=lambda: [2048])
    count: int = 8
    skip: int = 0
    join: bool = False
    decode_block: int = 1
    prompt: int = 0
    stride: int | None = None
    stretch: int | None = None
    name: ClassVar[str] = "ppl"
    unfinished: ClassVar[Path | None] = None

    def __post_init__(self) -> None:
        if bool(self.files) == (self.dataset is not None):
            raise TreeKVError("task 'ppl' needs either files or a dataset")
        if self.dataset is None:
            self.files = options.require_texts("files", self.files)
        for option in ("dataset", "split", "column"):
            if getattr(self, option) is not None:
                options.require_texts(option, getattr(self, option))
        self.lengths = options.require_ints("lengths", self.lengths, 2)
        options.require_int("count", self.count, 1)
        options.require_int("skip", self.skip, 0)
        options.require_bool("join", self.join)
        options.require_int("decode_block", self.decode_block, 1)
        options.require_int("prompt", self.prompt, 0, min(self.lengths) - 2)
        if (self.stride is None) != (self.stretch is None):
            raise TreeKVError("task 'ppl' needs both stride and stretch for sliding windows, or neither")
        if self.stride is not None:
            options.require_int("stride", self.stride, 1, min(self.lengths))
            options.require_int("stretch", self.stretch, max(self.lengths))
            if self.prompt:
                raise TreeKVError(f"windows are read from an empty cache, so prompt must be 0, got {self.prompt}")

    @property
    def settings(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"files": texts.names(self.files)}

    def documents(self, tokenizer: Any) -> list[Document]:
        """Stretches of all lengths.

        Raises:
            TreeKVError: the data set or all files are unreadable, or no text is long enough for a length. A single
                unreadable file becomes a document that fails.
        """
        before = special_prefix(tokenizer)
        found = list(self._texts(tokenizer))
        faults = [(name, text) for name, text in found if isinstance(text, TreeKVError)]
        read = [(name, encode(tokenizer, text)[self.skip :]) for name, text in found if isinstance(text, str)]
        if not read:
            raise faults[0][1]
        if self.join:
            read = [("joined", [token for _, ids in read for token in ids])]
        documents = [document for length in self.lengths for document in self._stretches(read, before, length)]
        for length in self.lengths:
            for name, error in faults:
                facts = {"tokens": length, "length": length, "text": name, "error": str(error)}
                documents.append(Document(f"{length}-{name}-0", facts))
        return documents

    def run(
        self,
        model: Any,
        tokenizer: Any,
        config: TreeKVConfig | None,
        document: Document,
        progress: Progress | None = None,
    ) -> Measurement:
        """Measure one document; see `Task.run`."""
        return self.run_many(model, tokenizer, config, [document], progress)[0]

    def run_many(
        self,
        model: Any,
        tokenizer: Any,
        config: TreeKVConfig | None,
        documents: Sequence[Document],
        progress: Progress | None = None,
    ) -> list[Measurement]:
        """Measure documents of one length in one pass; see `BatchTask.run_many`."""
        for document in documents:
            if document.data.get("error"):
                raise TreeKVError(document.data["error"])
        lengths = {document.data["tokens"] for document in documents}
        if len(lengths) != 1:
            raise TreeKVError(f"documents of one pass must have the same length, got {sorted(lengths)} tokens")
        used = self._settings(config)
        if self.stride is not None:
            return self._slide(model, tokenizer, used, documents, progress)
        ids = torch.tensor([document.data["ids"] for document in documents])
        result = self._read(model, used, ids, progress)
        facts = _facts(model, used, [result])
        measured = []
        for own, nll in zip(ids.tolist(), result.nll.double(), strict=True):
            scores = _scores(tokenizer, [nll], [own[self.prompt + 1 :]], result.cache_bytes / len(ids))
            measured.append(Measurement(scores, {"by_position": by_position(nll, self.prompt + 1), **facts}))
        return measured

    def _slide(
        self, model: Any, tokenizer: Any, used: TreeKVConfig, documents: Sequence[Document], progress: Progress | None
    ) -> list[Measurement]:
        """Read the windows of all documents as rows, at most `PASS_ROWS` at once."""
        assert self.stride is not None
        length, before = documents[0].data["tokens"], len(special_prefix(tokenizer))
        windows = [windows_of(document.data["ids"], before, length, self.stride) for document in documents]
        rows = torch.tensor([window for own in windows for window in own])
        results: list[StreamResult] = []
        for part in rows.split(PASS_ROWS):
            earlier = sum(result.nll.shape[0] for result in results)
            told = None if progress is None else _share_of(progress, earlier, len(part), rows.numel())
            results.append(self._read(model, used, part, told))
        facts = _facts(model, used, results) | {"stride": self.stride}
        cache_bytes = sum(result.cache_bytes for result in results) / len(rows)
        losses = torch.cat([result.nll for result in results]).double().split([len(own) for own in windows])
        measured = []
        for own, nll in zip(windows, losses, strict=True):
            parts = counted(nll, self.stride)
            scores = _scores(
                tokenizer, parts, [ids[-len(part) :] for ids, part in zip(own, parts, strict=True)], cache_bytes
            )
            scores |= {f"perplexity_{at}": value for at, value in at_shorter_lengths(nll, self.stride).items()}
            detail = {
                "by_position": by_position(nll.mean(0), 1),
                "windows": [{"loss": part.mean().item(), "tokens": len(part)} for part in parts],
            }
            measured.append(Measurement(scores, detail | facts))
        return measured

    def _read(self, model: Any, used: TreeKVConfig, ids: Tensor, progress: Progress | None) -> StreamResult:
        cache, chunk, unfinished = TreeKVCache(used, model.config), self._chunk(model, len(ids)), None
        if self.unfinished is not None:
            what = [used.to_dict(), str(model.config.name_or_path), str(model.dtype), chunk, self.prompt, ids.tolist()]
            name = hashlib.sha256(repr(what).encode()).hexdigest()[:32]
            unfinished = UnfinishedStream(self.unfinished, name)
        return stream_perplexity(model, ids, cache, chunk, progress, self.prompt, unfinished)

    def _chunk(self, model: Any, rows: int) -> int:
        """Tokens of a row per pass. A stream is evicted block by block in passes of any length, so a pass takes several
        blocks; after a prompt, the tokens of a pass are evicted together."""
        if self.prompt:
            return self.decode_block
        most = min(PASS_TOKENS, PASS_LOGITS // model.config.get_text_config(decoder=True).vocab_size)
        return self.decode_block * max(1, most // (rows * self.decode_block))

    def _settings(self, config: TreeKVConfig | None) -> TreeKVConfig:
        if config is None or config.policy == "full":
            return TreeKVConfig(policy="full")
        if self.prompt:
            return config
        if not policies.get(config.policy).evicts_after(config):
            raise TreeKVError(
                f"policy {config.policy!r} with these settings acts on prompts only, so it evicts nothing from a "
                "stream; give the task a prompt"
            )
        return config.replace(prefill="stream", block_size=self.decode_block)

    def _stretches(self, read: list[tuple[str, list[int]]], before: list[int], length: int) -> list[Document]:
        size = length if self.stretch is None else self.stretch
        own = size - len(before)
        found: list[Document] = []
        for number in itertools.count():
            left = [(name, ids) for name, ids in read if len(ids) >= (number + 1) * own]
            if not left or len(found) >= self.count:
                break
            for name, ids in left[: self.count - len(found)]:
                piece = before + ids[number * own : (number + 1) * own]
                facts = {"tokens": length, "length": length, "text": name, "stretch": number}
                found.append(Document(f"{length}-{name}-{number}", {**facts, "ids": piece}))
        short = [(name, len(ids)) for name, ids in read if len(ids) < own]
        if not found:
            raise TreeKVError(
                f"no text has {size} tokens; the longest has {max(tokens for _, tokens in short) + len(before)}"
            )
        for name, tokens in short[: self.count - len(found)]:
            error = f"the text {name!r} has {tokens + len(before)} tokens, fewer than {size}"
            data = {"tokens": length, "length": length, "text": name, "error": error}
            found.append(Document(f"{length}-{name}-0", data))
        return found

    def _texts(self, tokenizer: Any) -> Iterator[tuple[str, str | TreeKVError]]:
        """Texts by name, or the error of a file."""
        if self.dataset is None:
            return texts.unique(self._local())
        name, split, column = DATASETS.get(self.dataset, (self.dataset, "test", "text"))
        rows = texts.from_hub(name, self.split or split, self.column or column)
        return self._enough(tokenizer, rows)

    def _local(self) -> Iterator[tuple[str, str | TreeKVError]]:
        column = self.column or "text"
        for file in texts.find(self.files, [".txt", ".md", ".jsonl"]):
            try:
                if file.suffix != ".jsonl":
                    yield file.stem, read_text(file)
                    continue
                rows = texts.read_rows(file, [column])
            except TreeKVError as error:
                yield file.stem, error
                continue
            for number, row in enumerate(rows):
                text = row.get(column)
                yield f"{file.stem}-{number}", text if isinstance(text, str) else ""

    def _enough(self, tokenizer: Any, rows: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Texts of a data set until `count` are long enough, or long enough in total if they are joined."""
        longest, long, total = self.stretch or max(self.lengths), 0, 0
        for number, text in enumerate(itertools.islice(rows, _MAX_READ * self.count)):
            tokens = max(len(encode(tokenizer, text)) - self.skip, 0)
            total += tokens
            if tokens >= longest or self.join:
                long += 1
                yield f"{(self.dataset or '').split('/')[-1]}-{number}", text
            if (total >= longest * self.count) if self.join else (long >= self.count):
                return


def _scores(tokenizer: Any, nll: Sequence[Tensor], ids: Sequence[list[int]], cache_bytes: float) -> dict[str, float]:
    """From the losses of the scored tokens, in one or several runs of text, and their ids."""
    losses = torch.cat(list(nll))
    scored = "".join(tokenizer.decode(run, skip_special_tokens=True) for run in ids)
    loss = losses.mean().item()
    return {
        "perplexity": math.exp(loss),
        "loss": loss,
        "bits_per_byte": losses.sum().item() / math.log(2) / max(len(scored.encode()), 1),
        "cache_bytes": cache_bytes,
    }


def _facts(model: Any, used: TreeKVConfig, results: Sequence[StreamResult]) -> dict[str, Any]:
    """How the texts were read, for the detail of a measurement."""
    positions = context_window(model)
    rows, seconds = sum(len(result.nll) for result in results), sum(result.seconds for result in results)
    return {
        "seconds": seconds,
        "tokens_per_second": results[0].tokens * rows / seconds,
        "together": len(results[0].nll),
        "prefill": used.prefill,
        "block_size": used.block_size,
        "past_window": positions is not None and results[0].tokens > positions,
    }


def _share_of(progress: Progress, earlier: int, rows: int, total: int) -> Progress:
    """What `rows` rows report, after `earlier` rows of as many tokens were read, as a share of `total` tokens."""
    return lambda done, tokens: progress(earlier * tokens + rows * done, total)


def by_position(nll: Tensor, first: int) -> dict[str, list[float]]:
    """Pool losses [tokens], the first at position `first`, to at most `CELLS` cells of equal width.

    Returns lists `position` (the first of each cell), `loss` (its mean) and `tokens` (its number of tokens).
    """
    width = math.ceil(len(nll) / CELLS)
    cells = nll.split(width)
    return {
        "position": [first + index * width for index in range(len(cells))],
        "loss": [cell.mean().item() for cell in cells],
        "tokens": [len(cell) for cell in cells],
    }
