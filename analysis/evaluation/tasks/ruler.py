"""Task "ruler": the kinds of questions of RULER, generated or read from its files."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from analysis.evaluation.tasks import haystack, metrics, options, texts
from analysis.evaluation.tasks.answering import AnswerTask
from analysis.evaluation.tasks.base import Document
from analysis.evaluation.tasks.ruler_generators import GENERATORS, GeneratorOptions
from treekv.errors import TreeKVError
from treekv.files import atomic_write

COLUMNS = ("input", "outputs")
_FILE_TOKENS = 128  # the most tokens of an answer if a published document does not say


@dataclass(kw_only=True)
class Ruler(AnswerTask):
    """RULER (Hsieh et al., arXiv 2404.06654).

    Scored as published: the share of the expected strings that the answer contains, in per cent; for question answering
    ("qa" in the name of a file or in `task` of a row), whether it contains any of them.

    Documents are generated, or read from `files` in the published format: JSON lines with `input`, `outputs` and, in
    newer ones, `answer_prefix`. There the last line of the input is the question, for `question` "withheld". `write`
    writes generated documents in this format.

    Args:
        kinds: "single", "multikey", "multivalue", "multiquery", "tracking", "common" (words), "frequent" (words); see
            `ruler_generators`.
        lengths: tokens of prompt and answer together.
        samples: documents per kind and length.
        haystack: as in task "needle".
        keys: things with a number ("multikey", "multiquery"), numbers of a thing ("multivalue").
        digits: digits of a number; 0 for UUIDs.
        hops, chains: for "tracking": how often a value is passed on, and the number of such chains.
        common, rare, asked: for "common": how often the frequent and the other words occur, and how many words are
            frequent and asked for.
        seed: of all random draws.
        files: read these instead.
        new_tokens: the most tokens of an answer; by default what suits the kind; for files `tokens_to_generate` of a
            row or 128.
        question, chat: see `AnswerTask`.
    """

    kinds: list[str] = field(default_factory=lambda: list(GENERATORS))
    lengths: list[int] = field(default_factory=lambda: [2048])
    samples: int = 5
    haystack: str = haystack.PYDOC
    keys: int = 4
    digits: int = 4
    hops: int = 2
    chains: int = 1
    common: int = 20
    rare: int = 2
    asked: int = 5
    seed: int = 0
    files: list[str] = field(default_factory=list)
    new_tokens: int | None = None
    name: ClassVar[str] = "ruler"
    _paths: ClassVar[tuple[str, ...]] = ("files",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.kinds = options.require_texts("kinds", self.kinds)
        for kind in self.kinds:
            options.require_choice("kinds", kind, tuple(GENERATORS))
        self.lengths = options.require_ints("lengths", self.lengths, 128)
        options.require_texts("haystack", self.haystack)
        for option, least in (("samples", 1), ("keys", 2), ("hops", 1), ("chains", 1), ("common", 2), ("rare", 1)):
            options.require_int(option, getattr(self, option), least)
        options.require_int("digits", self.digits, 0, 15)
        options.require_int("asked", self.asked, 1)
        options.require_int("seed", self.seed, 0)
        if self.rare >= self.common:
            raise TreeKVError(f"rare must be less than common ({self.common}), got {self.rare}")
        if self.new_tokens is not None:
            options.require_int("new_tokens", self.new_tokens, 1)
        if self.files:
            self.files = options.require_texts("files", self.files)

    @property
    def settings(self) -> dict[str, Any]:
        fields = super().settings
        if self.files:  # nothing is generated
            return {option: fields[option] for option in ("files", "new_tokens", "question", "chat")}
        return fields | {"haystack": texts.names([self.haystack])[0]}

    def documents(self, tokenizer: Any) -> list[Document]:
        """The generated documents, or those of the files.

        Raises:
            TreeKVError: a length is too short, or a file is unusable.
        """
        if self.files:
            return [document for file in texts.find(self.files, [".jsonl"]) for document in self._read(tokenizer, file)]
        return [
            self._generate(tokenizer, kind, length, sample)
            for kind in self.kinds
            for length in self.lengths
            for sample in range(self.samples)
        ]

    def score(self, data: dict[str, Any], answer: str) -> float:
        metric = metrics.match_part if data["any"] else metrics.match_all
        return metric(answer, data["answers"])

    def _generate(self, tokenizer: Any, kind: str, length: int, sample: int) -> Document:
        key = f"{kind}-{length}-{sample}"
        generator, tokens = GENERATORS[kind]
        tokens = self.new_tokens or tokens
        sizes = GeneratorOptions(
            self.haystack, self.keys, self.digits, self.hops, self.chains, self.common, self.rare, self.asked
        )
        bare = {"context": "", "question": "", "start": ""}
        room = length - tokens - sum(len(part) for part in self.prompt_ids(tokenizer, bare))
        try:
            made = generator(tokenizer, random.Random(f"{self.seed} {key}"), room, sizes)
        except TreeKVError as error:
            raise TreeKVError(f"ruler, kind {kind!r}, length {length}: {error}") from error
        data = {**vars(made), "new_tokens": tokens, "any": False}
        facts = {"subtask": kind, "length": length, "sample": sample}
        return self._document(tokenizer, key, data, facts)

    def _read(self, tokenizer: Any, file: Path) -> list[Document]:
        try:
            rows = texts.read_rows(file, COLUMNS)
        except TreeKVError as error:  # the other files are still usable
            return [Document(f"{file.parent.name}-{file.stem}", {"subtask": _kind(file), "error": str(error)})]
        return [self._row(tokenizer, file, number, row) for number, row in enumerate(rows, start=1)]

    def _row(self, tokenizer: Any, file: Path, number: int, row: dict[str, Any]) -> Document:
        kind = str(row.get("task") or _kind(file))
        key = f"{file.parent.name}-{file.stem}-{number}"
        facts = {"subtask": kind, "sample": number}
        try:
            texts.require(row, f"line {number}", COLUMNS)
            text, expected = row["input"], row["outputs"]
            if not isinstance(text, str) or not text.strip():
                raise TreeKVError(f"line {number} has no input")
            if not isinstance(expected, list) or not expected or not all(expected):
                raise TreeKVError(f"line {number} has no outputs")
            context, mark, question = text.rstrip("\n").rpartition("\n")
            if not context:
                raise TreeKVError(f"line {number} has an input of one line, which has no context before the question")
            data = {
                "context": context,
                "question": mark + question,
                "start": row.get("answer_prefix") or "",
                "answers": [str(text) for text in expected],
                "new_tokens": self.new_tokens or row.get("tokens_to_generate") or _FILE_TOKENS,
                "any": kind.startswith("qa"),
            }
        except TreeKVError as error:
            return Document(key, {**facts, "error": f"{file.name}: {error}"})
        if isinstance(row.get("length"), int):
            facts["length"] = row["length"]
        return self._document(tokenizer, key, data, facts)

    def _document(self, tokenizer: Any, key: str, data: dict[str, Any], facts: dict[str, Any]) -> Document:
        context, question = self.prompt_ids(tokenizer, data)
        return Document(key, {"tokens": len(context) + len(question), **facts, **data})


def write(documents: Iterable[Document], folder: str | os.PathLike[str]) -> list[Path]:
    """Write generated documents in the published format, one file per kind, atomically.

    Args:
        documents: from `Ruler.documents`.
        folder: created if missing.

    Returns:
        The files, named after the kinds.

    Raises:
        TreeKVError: a file cannot be written.
    """
    kinds: dict[str, list[str]] = {}
    for document in documents:
        data = document.data
        lines = kinds.setdefault(data["subtask"], [])
        row = {
            "index": len(lines),
            "input": data["context"] + data["question"],
            "outputs": data["answers"],
            "length": data["length"],
            "answer_prefix": data["start"],
            "tokens_to_generate": data["new_tokens"],
            "task": data["subtask"],
        }
        lines.append(json.dumps(row, ensure_ascii=False))
    files = []
    for kind, lines in kinds.items():
        file = Path(folder) / f"{kind}.jsonl"
        with atomic_write(file) as temporary:
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        files.append(file)
    return files


def _kind(file: Path) -> str:
    """The kind of a published file: its name or, if that is generic, the name of its folder."""
    return file.stem if file.stem not in ("validation", "test") else file.parent.name
