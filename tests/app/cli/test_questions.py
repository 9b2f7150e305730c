"""treekv generate --context: read once, each question answered from a copy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests import tiny
from tests.app.cli.commands import invoke
from tests.app.conftest import words_tokenizer
from treekv import TreeKVCache, TreeKVConfig

CONTEXT = " ".join(f"w{number * number % 90 + 2}" for number in range(120))
QUESTIONS = ("w5 w9", "w30 w31 w40")
TOKENS = 6


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("texts") / "context.txt"
    file.write_text(CONTEXT)
    return file


def asked(tiny_model: Path, context: Path, *options: object) -> dict:
    questions = [part for question in QUESTIONS for part in ("--question", question)]
    sizes = ("--cache-size", 32, "--tokens", TOKENS, "--json", "--model", tiny_model)
    result = invoke("generate", "--context", context, *questions, *sizes, *options)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def expected(policy: str) -> list[list[int]]:
    """Context and question through a cache of their own, in two calls, then one token after another."""
    model, tokenizer = tiny.llama(), words_tokenizer()
    answers = []
    for question in QUESTIONS:
        cache = TreeKVCache(TreeKVConfig(policy=policy, cache_size=32), model.config)
        before = tokenizer(CONTEXT, return_tensors="pt")["input_ids"]
        tail = tokenizer(f"\n\nQuestion: {question}\nAnswer:", add_special_tokens=False, return_tensors="pt")[
            "input_ids"
        ]
        model(before, past_key_values=cache)
        logits = model(tail, past_key_values=cache).logits
        found = []
        for _ in range(TOKENS):
            found.append(int(logits[0, -1].argmax()))
            if found[-1] == tokenizer.eos_token_id:
                break
            logits = model(torch.tensor([[found[-1]]]), past_key_values=cache).logits
        answers.append(found)
    return answers


def test_every_question_is_answered_from_the_context_alone(tiny_model: Path, context: Path) -> None:
    found = asked(tiny_model, context, "--compare", "full")
    assert found["context_tokens"] == 120 and not found["stopped"]
    for policy in ("tree", "full"):
        assert [answer[policy]["token_ids"] for answer in found["answers"]] == expected(policy)
    assert [answer["question"] for answer in found["answers"]] == list(QUESTIONS)
    assert found["read"]["tree"]["bytes"] < found["read"]["full"]["bytes"]
    assert found["read"]["tree"]["settings"]["cache_size"] == 32


def test_the_answers_are_printed_with_their_questions(tiny_model: Path, context: Path) -> None:
    options = ("--cache-size", 32, "--tokens", 3, "--model", tiny_model)
    result = invoke("generate", "--context", context, "--question", QUESTIONS[0], *options)
    assert result.exit_code == 0, result.output
    assert QUESTIONS[0] in result.stdout and "tokens kept" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("w3", "--context", "CONTEXT", "--question", "w4"), "not both"),
        (("--context", "CONTEXT"), "needs a question"),
        (("--context", "CONTEXT", "--question", " "), "needs a question"),
        (("w3", "--question", "w4"), "give it with --context"),
        (("--question", "w4"), "give it with --context"),
        (("--context", "CONTEXT", "--question", "w4", "--compare", "tree"), "name another one, such as full"),
        (("--context", "none.txt", "--question", "w4"), "none.txt"),
    ],
)
def test_what_is_wrong_is_one_sentence(context: Path, arguments: tuple, words: str) -> None:
    result = invoke("generate", *(context if part == "CONTEXT" else part for part in arguments))
    assert result.exit_code == 2 and words in result.stderr


def test_a_model_without_a_chat_template_says_so(tiny_model: Path, context: Path) -> None:
    options = ("--cache-size", 32, "--model", tiny_model, "--chat")
    result = invoke("generate", "--context", context, "--question", "w4", *options)
    assert result.exit_code == 2 and "no chat template" in result.stderr
