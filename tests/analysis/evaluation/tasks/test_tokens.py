"""Prompts are tokenized in two parts, the same for given and withheld questions."""

from __future__ import annotations

import pytest

from analysis.evaluation.tasks.tokens import encode_prompt
from analysis.token_ids import special_prefix
from tests.analysis.evaluation.words import Words
from treekv import TreeKVError


def test_the_parts_of_a_prompt_are_tokenized_alike_with_and_without_the_template():
    tokenizer = Words()
    assert special_prefix(tokenizer) == [0] and special_prefix(Words(bos=False)) == []
    context, question = encode_prompt(tokenizer, "some context", "\nWhat?", " It is")
    assert tokenizer.decode(context) == "<begin>some context" and tokenizer.decode(question) == "\nWhat? It is"
    with pytest.raises(TreeKVError, match="no chat template"):
        encode_prompt(tokenizer, "some context", "\nWhat?", "", chat=True)
    tokenizer.chat_template = "set"
    context, question = encode_prompt(tokenizer, "some context", "\nWhat?", " It is", chat=True)
    assert tokenizer.decode(context) == "[user]some context"
    assert tokenizer.decode(question) == "\nWhat?[/][answer]It is", "the answer begins where the template ends"
