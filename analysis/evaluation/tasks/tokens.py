"""Texts as token ids: counting, prompts in two parts, and the number of positions a model has for them."""

from __future__ import annotations

from typing import Any

from analysis.token_ids import encode, special_prefix
from treekv.errors import TreeKVError


def count_tokens(tokenizer: Any, text: str) -> int:
    """The number of tokens of a text without special tokens."""
    return len(encode(tokenizer, text))


def encode_prompt(
    tokenizer: Any, context: str, question: str, start: str = "", chat: bool = False
) -> tuple[list[int], list[int]]:
    """Token ids of the context with everything before it, and of the rest of the prompt.

    Both parts are tokenized separately, so that they are the same whether the question is given or withheld.

    Args:
        tokenizer: the model's.
        context, question: the text up to the question, and the question.
        start: the start of the answer, which the model continues.
        chat: put context and question into the tokenizer's chat template as the user's turn.

    Raises:
        TreeKVError: the tokenizer has no chat template, or the template changes the text.
    """
    if not chat:
        return special_prefix(tokenizer) + encode(tokenizer, context), encode(tokenizer, question + start)
    if not getattr(tokenizer, "chat_template", None):
        raise TreeKVError("this tokenizer has no chat template: leave out chat")
    turn = [{"role": "user", "content": context + question}]
    text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    first = text.find(context)
    if first < 0:
        raise TreeKVError("the chat template changes the text, so the context cannot be separated from the question")
    end = first + len(context)
    return encode(tokenizer, text[:end]), encode(tokenizer, text[end:] + start.lstrip())


def context_window(model: Any) -> int | None:
    """The number of positions that a model was trained for, None if its config does not say."""
    positions = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    return int(positions) if positions else None


def end_tokens(model: Any) -> list[int]:
    """The ids that end a text when the model generates, in ascending order."""
    ends = model.generation_config.eos_token_id
    return [] if ends is None else sorted(set(ends)) if isinstance(ends, (list, tuple)) else [ends]
