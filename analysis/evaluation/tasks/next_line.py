"""Task "next_line": complete code by its next line."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from analysis.evaluation.tasks import metrics, options, texts
from analysis.evaluation.tasks.answering import AnswerTask
from analysis.evaluation.tasks.base import Document, Measurement
from analysis.evaluation.tasks.tokens import count_tokens
from analysis.progress import Progress
from treekv import TreeKVConfig
from treekv.errors import TreeKVError
from treekv.files import read_text

SHORTEST, LONGEST = 10, 80  # characters of a line that is asked for, without its indentation
_LAST: Final = 3  # lines that come after the context: what is asked, where the question is withheld


@dataclass(kw_only=True)
class NextLine(AnswerTask):
    """Complete code: the next line after some thousand tokens of a file, greedily.

    A document is the end of what stands before a line that is drawn from the file: whole lines, of at most `length`
    tokens. The last three of them and the line's indentation are the question, so with `question: withheld` the rest is
    compressed before they arrive. Lines of comments and very short or long ones are not asked for.

    Scores: `score`, the similarity of the first line of the answer to the right one, in per cent, as for code in
    LongBench (twice the longest common subsequence over both lengths); `exact`, 100 where they are equal;
    `cache_bytes`.

    Args:
        files: files of code (.py, .txt), folders of them or patterns.
        lengths: tokens of a prompt.
        samples: lines drawn from each file, for each length.
        seed: of the draws.
        new_tokens: the most tokens of an answer.
        question, chat: see `AnswerTask`.
    """

    files: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=lambda: [2048])
    samples: int = 4
    seed: int = 0
    new_tokens: int = 32
    name: ClassVar[str] = "next_line"
    _paths: ClassVar[tuple[str, ...]] = ("files",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.files = options.require_texts("files", self.files)
        self.lengths = options.require_ints("lengths", self.lengths, 64)
        options.require_int("samples", self.samples, 1)
        options.require_int("seed", self.seed, 0)
        options.require_int("new_tokens", self.new_tokens, 1)

    def documents(self, tokenizer: Any) -> list[Document]:
        """The drawn lines; a file that cannot be read, or is too short, becomes a document that fails.

        Raises:
            TreeKVError: that is so of all files.
        """
        found: list[Document] = []
        for name, file in texts.unique((file.stem, file) for file in texts.find(self.files, [".py", ".txt"])):
            try:
                lines = read_text(file).split("\n")
            except TreeKVError as error:
                found += [_failed(name, length, error) for length in self.lengths]
                continue
            counts = [count_tokens(tokenizer, line + "\n") for line in lines]
            for length in self.lengths:
                try:
                    found += self._drawn(tokenizer, name, lines, counts, length)
                except TreeKVError as error:
                    found.append(_failed(name, length, error))
        reasons = [document.data.get("error") for document in found]
        if all(reasons):
            raise TreeKVError(str(reasons[0]))
        return found

    def score(self, data: dict[str, Any], answer: str) -> float:
        return metrics.similarity(_line(answer), data["answers"][0])

    def run(
        self,
        model: Any,
        tokenizer: Any,
        config: TreeKVConfig | None,
        document: Document,
        progress: Progress | None = None,
    ) -> Measurement:
        """As of every task with answers, and whether the line is right; see `Task.run`."""
        made = super().run(model, tokenizer, config, document, progress)
        exact = 100.0 * (_line(made.detail["answer"]) == document.data["answers"][0])
        scores = {"score": made.scores["score"], "exact": exact, "cache_bytes": made.scores["cache_bytes"]}
        return dataclasses.replace(made, scores=scores)

    def _drawn(self, tokenizer: Any, name: str, lines: list[str], counts: list[int], length: int) -> list[Document]:
        """The documents of a file. Raises TreeKVError if it is too short."""
        before = 0
        possible = []
        for number, (line, count) in enumerate(zip(lines, counts, strict=True)):
            last = counts[max(number - _LAST - 1, 0) : number]  # the question, and a line of context
            if before >= length and number > _LAST and sum(last) < length and _is_asked_for(line):
                possible.append(number)
            before += count
        if not possible:
            raise TreeKVError(f"the file {name!r} has no line to ask for after {length} tokens; it has {before} tokens")
        draw = random.Random(f"{self.name} {self.seed} {name} {length}")
        made = []
        for sample, number in enumerate(draw.sample(possible, min(self.samples, len(possible)))):
            indent = lines[number][: len(lines[number]) - len(lines[number].lstrip())]
            first, tokens = number, count_tokens(tokenizer, indent)
            while first and tokens + counts[first - 1] < length:
                first -= 1
                tokens += counts[first]
            data = {
                "context": "\n".join([*lines[first : number - _LAST], ""]),
                "question": "\n".join([*lines[number - _LAST : number], indent]),
                "start": "",
                "answers": [lines[number].strip()],
                "new_tokens": self.new_tokens,
            }
            facts = {"length": length, "text": name, "line": number + 1, "sample": sample}
            made.append(Document(f"{name}-{length}-{sample}", {"tokens": tokens, **facts, **data}))
        return made


def _failed(name: str, length: int, error: TreeKVError) -> Document:
    data = {"tokens": length, "length": length, "text": name, "error": str(error)}
    return Document(f"{name}-{length}-0", data)


def _is_asked_for(line: str) -> bool:
    plain = line.strip()
    return SHORTEST <= len(plain) <= LONGEST and not plain.startswith(("#", '"', "'"))


def _line(answer: str) -> str:
    """The first line of an answer, without space around it."""
    return answer.split("\n")[0].strip()
