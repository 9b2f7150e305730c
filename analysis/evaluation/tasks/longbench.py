"""Task "longbench": the sixteen English tasks of LongBench, version 1."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

import huggingface_hub
import huggingface_hub.errors

from analysis.evaluation.tasks import metrics, options, texts
from analysis.evaluation.tasks.answering import AnswerTask
from analysis.evaluation.tasks.base import Document
from analysis.evaluation.tasks.longbench_prompts import PROMPTS
from analysis.evaluation.tasks.tokens import encode_prompt
from analysis.token_ids import encode
from treekv.errors import TreeKVError
from treekv.files import read_json

COLUMNS: Final = ("input", "context", "answers")
HUB: Final = ("THUDM/LongBench", "data.zip")
Metric = Callable[[str, str], float]


@dataclass(frozen=True)
class Subset:
    """One of the tasks.

    Attributes:
        metric: its score; None for classification, which needs the classes.
        new_tokens: the most tokens of an answer.
        few_shot: the context is a list of solved examples, and only the first line of the answer counts.
        plain: never use the chat template.
    """

    metric: Metric | None
    new_tokens: int
    few_shot: bool = False
    plain: bool = False


SUBSETS: Final = {
    "narrativeqa": Subset(metrics.qa_f1, 128),
    "qasper": Subset(metrics.qa_f1, 128),
    "multifieldqa_en": Subset(metrics.qa_f1, 64),
    "hotpotqa": Subset(metrics.qa_f1, 32),
    "2wikimqa": Subset(metrics.qa_f1, 32),
    "musique": Subset(metrics.qa_f1, 32),
    "gov_report": Subset(metrics.rouge_l, 512),
    "qmsum": Subset(metrics.rouge_l, 512),
    "multi_news": Subset(metrics.rouge_l, 512),
    "trec": Subset(None, 64, few_shot=True, plain=True),
    "triviaqa": Subset(metrics.qa_f1, 32, few_shot=True, plain=True),
    "samsum": Subset(metrics.rouge_l, 128, few_shot=True, plain=True),
    "passage_count": Subset(metrics.count, 32),
    "passage_retrieval_en": Subset(metrics.retrieval, 32),
    "lcc": Subset(metrics.code_similarity, 64, plain=True),
    "repobench-p": Subset(metrics.code_similarity, 64, plain=True),
}


@dataclass(kw_only=True)
class LongBench(AnswerTask):
    """LongBench (Bai et al., arXiv 2308.14508; data and code at https://github.com/THUDM/LongBench, MIT licence).

    As in the published code, prompts longer than `longest` lose their middle, answers are greedy with the published
    numbers of tokens, and the best match among the expected answers counts, in per cent. Unlike there, a prompt is
    truncated once in token ids, where the published code converts them to text and back, and context and question are
    tokenized separately.

    The published wording of the prompts is read from `prompts`, a folder with `dataset2prompt.json` (the `config`
    folder of the code). Without it the wording is our own, in the same form: instruction, context, instruction,
    question, in the same order and for the same kind of answer. Such scores are comparable with each other, not with
    published ones; each document records which wording it has.

    Args:
        subsets: which of the tasks; see `SUBSETS`.
        files: folders or files of JSON lines named after the tasks (hotpotqa.jsonl); by default the hub's archive.
        prompts: the folder with the published wording.
        samples: the first documents of each task, this many; 0 for all.
        longest: the most tokens of a prompt; with the answer it must fit the model's window.
        question, chat: see `AnswerTask`; few-shot and code tasks never use the chat template, as published.
    """

    subsets: list[str] = field(default_factory=lambda: list(SUBSETS))
    files: list[str] = field(default_factory=list)
    prompts: str | None = None
    samples: int = 0
    longest: int = 3500
    name: ClassVar[str] = "longbench"
    _paths: ClassVar[tuple[str, ...]] = ("files",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.subsets = options.require_texts("subsets", self.subsets)
        for subset in self.subsets:
            options.require_choice("subsets", subset, tuple(SUBSETS))
        if self.files:
            self.files = options.require_texts("files", self.files)
        if self.prompts is not None:
            options.require_texts("prompts", self.prompts)
        options.require_int("samples", self.samples, 0)
        options.require_int("longest", self.longest, 64)

    @property
    def settings(self) -> dict[str, Any]:
        return super().settings | {"prompts": None if self.prompts is None else "published"}

    def documents(self, tokenizer: Any) -> list[Document]:
        """All documents of the selected tasks.

        Raises:
            TreeKVError: a file, the archive or the prompts are missing or incomplete.
        """
        wording = PROMPTS if self.prompts is None else _published(Path(self.prompts), self.subsets)
        found = []
        for subset, rows in self._rows():
            if isinstance(rows, TreeKVError):
                found.append(Document(subset, {"dataset": subset, "error": str(rows)}))
                continue
            for number, row in enumerate(rows):
                if self.samples and number >= self.samples:
                    break
                found.append(self._document(tokenizer, subset, number, row, wording[subset]))
        return found

    def prompt_ids(self, tokenizer: Any, data: dict[str, Any]) -> tuple[list[int], list[int]]:
        """Token ids of context and question; a prompt that is too long loses its middle."""
        plain = SUBSETS[data["dataset"]].plain
        parts = encode_prompt(tokenizer, data["context"], data["question"], chat=self.chat and not plain)
        return cut(*parts, self.longest)

    def score(self, data: dict[str, Any], answer: str) -> float:
        subset = SUBSETS[data["dataset"]]
        if subset.few_shot:
            answer = answer.lstrip("\n").split("\n")[0]
        if subset.metric is None:
            return max(metrics.classification(answer, expected, data["classes"]) for expected in data["answers"])
        return max(subset.metric(answer, expected) for expected in data["answers"])

    def stop_ids(self, tokenizer: Any, data: dict[str, Any]) -> list[int]:
        """Summaries of dialogues end at a newline, as published: models would go on with the next dialogue."""
        return encode(tokenizer, "\n")[-1:] if data["dataset"] == "samsum" else []

    def min_tokens(self, data: dict[str, Any]) -> int:
        """As published, a summary of a dialogue has at least one token."""
        return 1 if data["dataset"] == "samsum" else 0

    def _document(self, tokenizer: Any, subset: str, number: int, row: dict[str, Any], wording: str) -> Document:
        facts: dict[str, Any] = {"dataset": subset, "sample": number}
        key = f"{subset}-{number}"
        try:
            texts.require(row, f"row {number}", COLUMNS)
            answers = [str(answer) for answer in row["answers"] or [] if str(answer).strip()]
            if not answers:
                raise TreeKVError(f"row {number} has no answers")
            if not isinstance(row["context"], str) or not row["context"].strip():
                raise TreeKVError(f"row {number} has no context")
            classes = row.get("all_classes") or []
            if SUBSETS[subset].metric is None and not classes:
                raise TreeKVError(f"row {number} has no all_classes")
        except TreeKVError as error:
            return Document(key, {**facts, "error": f"{subset}: {error}"})
        before, question = _fill(wording, row["context"], str(row["input"] or ""))
        data = {
            "context": before,
            "question": question,
            "start": "",
            "answers": answers,
            "classes": [str(name) for name in classes],
            "new_tokens": SUBSETS[subset].new_tokens,
            "wording": "own" if self.prompts is None else "published",
            **facts,
        }
        context, rest = self.prompt_ids(tokenizer, data)
        if isinstance(row.get("length"), int):
            data["words"] = row["length"]
        return Document(key, {"tokens": len(context) + len(rest), **data})

    def _rows(self) -> Iterator[tuple[str, list[dict[str, Any]] | TreeKVError]]:
        """The rows of each task, or the error of its file."""
        if not self.files:
            yield from _archive(self.subsets)
            return
        files = {file.stem: file for file in texts.find(self.files, [".jsonl"])}
        for subset in self.subsets:
            if subset not in files:
                raise TreeKVError(
                    f"there is no file {subset}.jsonl among {', '.join(texts.names(self.files))}; name only subsets "
                    "that exist"
                )
            try:
                yield subset, texts.read_rows(files[subset], COLUMNS)
            except TreeKVError as error:
                yield subset, error


def cut(context: list[int], question: list[int], longest: int) -> tuple[list[int], list[int]]:
    """Remove the middle of a prompt of more than `longest` tokens, as LongBench does.

    The first and the last `longest // 2` tokens remain, whichever part they belong to.

    Example:
        >>> cut([1, 2, 3, 4, 5, 6], [7, 8], 4)
        ([1, 2], [7, 8])
    """
    total = len(context) + len(question)
    if total <= longest:
        return context, question
    half = longest // 2
    whole = context + question
    first, last = whole[:half], whole[total - half :]
    if len(question) >= half:  # nothing of the context is in the second half
        return first[: len(context)], first[len(context) :] + last
    return first + last[: half - len(question)], question


def _fill(wording: str, context: str, question: str) -> tuple[str, str]:
    """The prompt up to the end of the context, and after it; braces in the texts are not fields."""
    before, mark, after = wording.partition("{context}")
    if not mark:
        raise TreeKVError("a prompt of LongBench must have the field {context}")
    return before.replace("{input}", question) + context, after.replace("{input}", question)


def _published(folder: Path, subsets: list[str]) -> dict[str, str]:
    file = folder / "dataset2prompt.json"
    if not file.is_file():
        raise TreeKVError(f"the folder {str(folder)!r} has no dataset2prompt.json")
    wording = read_json(file, "prompts")
    if not isinstance(wording, dict):
        raise TreeKVError(f"{str(file)!r} must be a mapping of subsets and prompts, got {type(wording).__name__}")
    missing = [subset for subset in subsets if not isinstance(wording.get(subset), str)]
    if missing:
        raise TreeKVError(f"{str(file)!r} has no prompt for {', '.join(missing)}")
    return wording


def _archive(subsets: list[str]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The rows of the hub's archive, which is downloaded once and kept in the hub's own cache."""
    repository, name = HUB
    try:
        path = huggingface_hub.hf_hub_download(repository, name, repo_type="dataset", local_files_only=True)
    except huggingface_hub.errors.LocalEntryNotFoundError:
        texts.check_reachable(repository)
        try:
            path = huggingface_hub.hf_hub_download(repository, name, repo_type="dataset")
        except Exception as error:  # the hub client and its libraries share no base class of errors
            raise texts.load_error(repr(repository), error) from error
    try:
        with zipfile.ZipFile(path) as archive:
            inside = {Path(entry).name: entry for entry in archive.namelist()}
            for subset in subsets:
                entry = inside.get(f"{subset}.jsonl")
                if entry is None:
                    raise TreeKVError(f"{name} of the data set {repository!r} has no {subset}.jsonl")
                text = archive.read(entry).decode("utf-8")
                yield subset, list(texts.rows(text, f"{subset}.jsonl of {name}", COLUMNS))
    except zipfile.BadZipFile as error:
        raise TreeKVError(f"{name} of the data set {repository!r} is damaged: {error}; download it again") from error
