"""Greedy answers to questions about a long context, and the base class of the tasks that score them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from analysis.evaluation.tasks import options, texts
from analysis.evaluation.tasks.base import Document, Measurement
from analysis.evaluation.tasks.prompt_cache import PromptCache, next_logits
from analysis.evaluation.tasks.tokens import context_window, encode_prompt, end_tokens
from analysis.progress import Progress
from treekv import TreeKVCache, TreeKVConfig
from treekv.errors import TreeKVError

QUESTION_MODES = ("given", "withheld")


@dataclass(frozen=True)
class Answer:
    """A generated answer.

    Attributes:
        text: without the prompt.
        tokens: number of generated tokens.
        cache_bytes, full_bytes: bytes of keys and values at the end, in the cache and in one that evicts nothing.
        kept: the most tokens that any layer keeps at the end.
    """

    text: str
    tokens: int
    cache_bytes: int
    full_bytes: int
    kept: int


def generate_answer(
    model: Any,
    tokenizer: Any,
    config: TreeKVConfig | None,
    context: Sequence[int],
    question: Sequence[int],
    max_tokens: int,
    *,
    withheld: bool = False,
    stop_ids: Sequence[int] = (),
    min_tokens: int = 0,
    prompt_cache: PromptCache | None = None,
) -> Answer:
    """Generate greedily after context and question: always the token with the highest logit, without penalties.

    Args:
        model, tokenizer: of transformers, the model with the attention implementation "treekv".
        config: the settings; None for the full cache.
        context, question: token ids.
        max_tokens: the most tokens to generate.
        withheld: let the cache compress the context before the question arrives, as in a second turn of a
            conversation; otherwise both are one prompt.
        stop_ids: token ids that end the answer, besides the model's own.
        min_tokens: number of tokens before the answer may end.
        prompt_cache: reuses the last prompt for the next settings.

    Raises:
        TreeKVError: no context or question, or more tokens than the model has positions for under these settings.
    """
    if not context or not question:
        raise TreeKVError("there must be a context and a question" if not context else "there is no question")
    config = TreeKVConfig(policy="full") if config is None else config
    length = len(context) + len(question)
    check_window(model, config, length, max_tokens)
    cache = TreeKVCache(config, model.config)
    ends = sorted({*stop_ids, *end_tokens(model)})
    prompt_cache = prompt_cache or PromptCache()
    with torch.inference_mode():
        if withheld:
            prompt_cache.read(model, context, cache)
            logits = next_logits(model, question, cache)
        else:
            logits = prompt_cache.read(model, [*context, *question], cache)
        new = greedy_tokens(model, cache, logits, max_tokens, ends, min_tokens)
    return Answer(
        text=tokenizer.decode(new, skip_special_tokens=True),
        tokens=len(new),
        cache_bytes=cache.nbytes,
        full_bytes=max(cache.full_nbytes, cache.nbytes),
        kept=cache.kept_tokens,
    )


def greedy_tokens(
    model: Any, cache: TreeKVCache, logits: Tensor, most: int, ends: Sequence[int], least: int = 0
) -> list[int]:
    """At most `most` tokens after what the cache has read, whose next token has these `logits` [vocabulary]: always the
    one with the highest, up to one of the `ends`, which is not taken for one of the `least` first."""
    new: list[int] = []
    while True:
        if len(new) < least:
            logits = logits.index_fill(0, torch.tensor(ends, device=logits.device, dtype=torch.long), -torch.inf)
        new.append(int(logits.argmax()))
        if len(new) == most or new[-1] in ends:
            return new
        logits = next_logits(model, new[-1:], cache)


def check_window(model: Any, config: TreeKVConfig, length: int, tokens: int) -> None:
    """Raise a `TreeKVError` if the model has no positions for a prompt of `length` tokens and `tokens` more."""
    positions = context_window(model)
    if positions is None or length + tokens <= positions:
        return
    moves = config.for_model(model.config).positions != "original"
    if config.policy != "full" and config.prefill == "stream" and moves:
        return
    raise TreeKVError(
        f"a prompt of {length} tokens and {tokens} more do not fit the model's window of {positions}; only prefill "
        "'stream' with positions 'rank' or 'compressed' goes beyond it"
    )


@dataclass(kw_only=True)
class AnswerTask:
    """Base class of tasks that score a generated answer.

    The data of a document has `context`, `question`, `start` (of the answer), `answers` (expected), `new_tokens` (the
    most to generate) and `tokens`, the length of the prompt.

    Args:
        question: "given", or "withheld": the context is compressed before the question arrives.
        chat: use the tokenizer's chat template.

    Attributes:
        prompt_cache: set by a sweep, so that a document is read once for several settings.
    """

    question: str = "given"
    chat: bool = False
    name: ClassVar[str]
    prompt_cache: ClassVar[PromptCache | None] = None
    _paths: ClassVar[tuple[str, ...]] = ()  # options that are paths; `settings` has only their last parts

    def __post_init__(self) -> None:
        options.require_choice("question", self.question, QUESTION_MODES)
        options.require_bool("chat", self.chat)

    @property
    def settings(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        for path in self._paths:
            fields[path] = texts.names(fields[path]) if isinstance(fields[path], list) else fields[path]
        return fields

    def prompt_ids(self, tokenizer: Any, data: dict[str, Any]) -> tuple[list[int], list[int]]:
        """Token ids of a document's context, and of question and start of the answer."""
        return encode_prompt(tokenizer, data["context"], data["question"], data["start"], self.chat)

    def score(self, data: dict[str, Any], answer: str) -> float:
        """The score of an answer, between 0 and 1."""
        raise NotImplementedError

    def stop_ids(self, tokenizer: Any, data: dict[str, Any]) -> list[int]:
        """Token ids that end an answer, besides the model's own."""
        return []

    def min_tokens(self, data: dict[str, Any]) -> int:
        """Number of tokens before an answer may end."""
        return 0

    def run(
        self,
        model: Any,
        tokenizer: Any,
        config: TreeKVConfig | None,
        document: Document,
        progress: Progress | None = None,
    ) -> Measurement:
        """The score of the answer to one document, in percent; see `Task.run`."""
        data = document.data
        if data.get("error"):
            raise TreeKVError(data["error"])
        context, question = self.prompt_ids(tokenizer, data)
        said = generate_answer(
            model,
            tokenizer,
            config,
            context,
            question,
            data["new_tokens"],
            withheld=self.question == "withheld",
            stop_ids=self.stop_ids(tokenizer, data),
            min_tokens=self.min_tokens(data),
            prompt_cache=self.prompt_cache,
        )
        if progress is not None:
            progress(1, 1)
        detail = {"answer": said.text, "expected": data["answers"], "new_tokens": said.tokens, "held": said.kept}
        scores = {"score": 100 * self.score(data, said.text), "cache_bytes": float(said.cache_bytes)}
        return Measurement(scores, detail | {"full_bytes": said.full_bytes})
