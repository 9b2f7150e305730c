"""Questions about a long context, answered greedily under given settings; what tasks with answers share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from analysis.evaluation.tasks import options, texts
from analysis.evaluation.tasks.base import Document, Measurement, Progress
from analysis.evaluation.tasks.prompt_cache import Prompts, next_logits
from treekv import TreeKVCache, TreeKVConfig
from treekv.errors import TreeKVError

QUESTION = ("given", "withheld")


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Attributes:
        text: without the prompt.
        tokens: how many it generated.
        cache_bytes, full_bytes: what the cache holds at the end, and what one that keeps everything would.
        held: the most tokens that a layer holds at the end.
    """

    text: str
    tokens: int
    cache_bytes: int
    full_bytes: int
    held: int


def opening(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before every text, such as a token for its beginning; often nothing."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    return list(whole[: whole.index(bare[0])])


def count(tokenizer: Any, text: str) -> int:
    """Tokens of a text without what the tokenizer puts around it."""
    return len(encode(tokenizer, text))


def encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else []


def prompt(
    tokenizer: Any, context: str, question: str, start: str = "", chat: bool = False
) -> tuple[list[int], list[int]]:
    """Token ids of the context with what comes before it, and of the rest of the prompt.

    Both parts are tokenized on their own, so that they are the same whether the question is given or withheld.

    Args:
        tokenizer: the model's.
        context, question: the text up to the question, and from there on.
        start: the beginning of the answer, which the model goes on from.
        chat: put context and question into the tokenizer's chat template as the user's turn.

    Raises:
        TreeKVError: the tokenizer has no chat template, or the template changes the text.
    """
    if not chat:
        return opening(tokenizer) + encode(tokenizer, context), encode(tokenizer, question + start)
    if not getattr(tokenizer, "chat_template", None):
        raise TreeKVError("this tokenizer has no chat template: leave out chat")
    turn = [{"role": "user", "content": context + question}]
    text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    begin = text.find(context)
    if begin < 0:
        raise TreeKVError("the chat template changes the text, so the context cannot be told from the question")
    end = begin + len(context)
    return encode(tokenizer, text[:end]), encode(tokenizer, text[end:] + start.lstrip())


def window(model: Any) -> int | None:
    """The positions that a model was made for, None if it does not say."""
    found = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    return int(found) if found else None


def answer(
    model: Any,
    tokenizer: Any,
    config: TreeKVConfig | None,
    context: Sequence[int],
    question: Sequence[int],
    tokens: int,
    *,
    withheld: bool = False,
    stop: Sequence[int] = (),
    least: int = 0,
    prompts: Prompts | None = None,
) -> Answer:
    """Generate greedily after context and question: always the token with the highest logit, nothing else weighed in.

    Args:
        model, tokenizer: of transformers, the model with the attention implementation "treekv".
        config: the settings; None for the full cache.
        context, question: token ids.
        tokens: the most to generate.
        withheld: let the cache compress the context before the question is there, as in a second turn of a
            conversation; otherwise both are one prompt.
        stop: token ids that end the answer, beside the model's own.
        least: so many tokens come before one that ends the answer may.
        prompts: the last prompt, kept for the next settings.

    Raises:
        TreeKVError: no context or question, or more tokens than the model has positions for under these settings.
    """
    if not context or not question:
        raise TreeKVError("there must be a context and a question" if not context else "there is no question")
    config = TreeKVConfig(policy="full") if config is None else config
    length = len(context) + len(question)
    _check_window(model, config, length, tokens)
    cache = TreeKVCache(config, model.config)
    ends = model.generation_config.eos_token_id
    ends = sorted({*stop, *([] if ends is None else ends if isinstance(ends, (list, tuple)) else [ends])})
    new: list[int] = []
    prompts = prompts or Prompts()
    with torch.inference_mode():
        if withheld:
            prompts.read(model, context, cache)
            logits = next_logits(model, question, cache)
        else:
            logits = prompts.read(model, [*context, *question], cache)
        while True:
            if len(new) < least:
                logits = logits.index_fill(0, torch.tensor(ends, device=logits.device, dtype=torch.long), -torch.inf)
            new.append(int(logits.argmax()))
            if len(new) == tokens or new[-1] in ends:
                break
            logits = next_logits(model, new[-1:], cache)
    return Answer(
        text=tokenizer.decode(new, skip_special_tokens=True),
        tokens=len(new),
        cache_bytes=cache.nbytes,
        full_bytes=max(cache.full_nbytes, cache.nbytes),
        held=cache.held_tokens,
    )


def _check_window(model: Any, config: TreeKVConfig, length: int, tokens: int) -> None:
    positions = window(model)
    if positions is None or length + tokens <= positions:
        return
    if config.policy != "full" and config.prefill == "stream" and config.positions == "rank":
        return
    raise TreeKVError(
        f"a prompt of {length} tokens and {tokens} more do not fit the model's window of {positions}; only prefill "
        "'stream' with positions 'rank' goes further"
    )


@dataclass(kw_only=True)
class AnswerTask:
    """What tasks with answers have in common.

    A document's data holds `context`, `question`, `start` (the beginning of the answer), `answers`, `new_tokens` and
    `tokens`, the length of the prompt.

    Args:
        question: "given", or "withheld": the context is compressed before the question is there.
        chat: use the tokenizer's chat template.

    Attributes:
        shared_prompts: holds the last prompt for the next settings, where several are measured on the same documents.
    """

    question: str = "given"
    chat: bool = False
    name: ClassVar[str]
    shared_prompts: ClassVar[Prompts | None] = None
    _paths: ClassVar[tuple[str, ...]] = ()  # options that are paths: settings have only their names

    def __post_init__(self) -> None:
        options.choice("question", self.question, QUESTION)
        options.flag("chat", self.chat)

    @property
    def settings(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        for path in self._paths:
            fields[path] = texts.names(fields[path]) if isinstance(fields[path], list) else fields[path]
        return fields

    def prompt(self, tokenizer: Any, data: dict[str, Any]) -> tuple[list[int], list[int]]:
        """Token ids of a document's context and of the rest."""
        return prompt(tokenizer, data["context"], data["question"], data["start"], self.chat)

    def score(self, data: dict[str, Any], answer: str) -> float:
        """Between 0 and 1."""
        raise NotImplementedError

    def stop(self, tokenizer: Any, data: dict[str, Any]) -> list[int]:
        """Token ids that end an answer, beside the model's own."""
        return []

    def least(self, data: dict[str, Any]) -> int:
        """Tokens of an answer before it may end."""
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
        context, question = self.prompt(tokenizer, data)
        said = answer(
            model,
            tokenizer,
            config,
            context,
            question,
            data["new_tokens"],
            withheld=self.question == "withheld",
            stop=self.stop(tokenizer, data),
            least=self.least(data),
            prompts=self.shared_prompts,
        )
        if progress is not None:
            progress(1, 1)
        detail = {"answer": said.text, "expected": data["answers"], "new_tokens": said.tokens, "held": said.held}
        scores = {"score": 100 * self.score(data, said.text), "cache_bytes": float(said.cache_bytes)}
        return Measurement(scores, detail | {"full_bytes": said.full_bytes})
