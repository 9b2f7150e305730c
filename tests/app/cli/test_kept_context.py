"""treekv generate --save-cache and --cache: a context is read once, and asked in other calls."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.cli.questions import context_ids, question_ids
from tests import tiny
from tests.app.cli.commands import invoke
from tests.app.conftest import words_tokenizer
from treekv import TreeKVCache, TreeKVConfig

CONTEXT = " ".join(f"w{number * number % 90 + 2}" for number in range(120))
SIZES = ("--cache-size", 32)
ASK = ("--question", "w5 w9", "--question", "w30 w31", "--tokens", 6, "--json")


@pytest.fixture(scope="module")
def kept(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A file that was made, and the answers given then."""
    folder = tmp_path_factory.mktemp("contexts")
    (folder / "context.txt").write_text(CONTEXT)
    file = folder / "context.treekv"
    options = ("--context", folder / "context.txt", "--save-cache", file, "--model", tiny_model, *SIZES)
    result = invoke("generate", *options, *ASK)
    assert result.exit_code == 0, result.output
    return file, json.loads(result.stdout)


def test_a_kept_context_gives_the_same_answers_with_its_own_model_and_settings(kept: tuple[Path, dict]) -> None:
    file, right = kept
    result = invoke("generate", "--cache", file, *ASK)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["context_tokens"] == 120 and found["read"]["tree"]["settings"]["cache_size"] == 32
    for one, other in zip(found["answers"], right["answers"], strict=True):
        assert one["tree"]["token_ids"] == other["tree"]["token_ids"]
    assert "loaded in" in invoke("generate", "--cache", file, "--question", "w5", "--tokens", 2).stderr


def test_a_context_can_be_read_without_a_question(tiny_model: Path, kept: tuple[Path, dict], tmp_path: Path) -> None:
    text = kept[0].parent / "context.txt"
    options = ("--context", text, "--save-cache", tmp_path / "x", "--model", tiny_model, *SIZES, "--compare", "full")
    result = invoke("generate", *options)
    assert result.exit_code == 0 and "120" in result.stderr
    assert TreeKVCache.describe(tmp_path / "x").config.policy == "tree"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--save-cache", "new"), "--save-cache needs a text to read; give it with --context"),
        (("--question", "w4"), "or a saved one with --cache"),
        (("--cache", "FILE"), "needs a question"),
        (("--cache", "FILE", "--question", " "), "needs a question"),
        (("w3", "--cache", "FILE", "--question", "w4"), "not both"),
        (("--cache", "FILE", "--context", "TEXT", "--question", "w4"), "not both"),
        (("--cache", "FILE", "--question", "w4", "--cache-size", 9), "leave out --cache-size"),
        (("--cache", "FILE", "--question", "w4", "--settings", "s.json"), "leave out --settings"),
        (("--cache", "FILE", "--question", "w4", "--compare", "full"), "leave out --compare"),
        (("--cache", "FILE", "--question", "w4", "--save-cache", "new"), "leave out --save-cache"),
        (("--cache", "FILE", "--question", "w4", "--chat"), "read without --chat"),
        (("--cache", "none", "--question", "w4"), "there is no file"),
        (("--cache", "TEXT", "--question", "w4"), "is not a saved TreeKV cache"),
        (("--context", "TEXT", "--save-cache", "no/such/folder"), "there is no folder"),
        (("--context", "TEXT", "--save-cache", "."), "is a folder"),
    ],
)
def test_what_is_wrong_is_one_sentence(kept: tuple[Path, dict], here: Path, arguments: tuple, words: str) -> None:
    stand_in = {"FILE": kept[0], "TEXT": kept[0].parent / "context.txt"}
    result = invoke("generate", *(stand_in.get(part, part) for part in arguments))
    assert result.exit_code == 2 and words in " ".join(result.stderr.split()), result.stderr


def test_another_model_and_other_caches_are_refused(kept: tuple[Path, dict], tmp_path: Path) -> None:
    folder = tmp_path / "other"
    other = tiny.llama()
    other.model.layers[0].self_attn.k_proj.weight.data.mul_(1.01)
    other.save_pretrained(folder)
    words_tokenizer().save_pretrained(folder)
    result = invoke("generate", "--cache", kept[0], "--question", "w4", "--model", folder)
    assert result.exit_code == 2 and "its weights are others" in result.stderr
    cache = TreeKVCache(TreeKVConfig(cache_size=12), other.config)
    other(tiny.tokens(20), past_key_values=cache)
    cache.save(tmp_path / "x", other)
    result = invoke("generate", "--cache", tmp_path / "x", "--question", "w4")
    assert result.exit_code == 2 and "but not of a context" in result.stderr
    notes = {"model": str(folder), "chat": False, "token_ids": [1, 2]}
    cache.save(tmp_path / "x", other, notes=notes)
    result = invoke("generate", "--cache", tmp_path / "x", "--question", "w4")
    assert result.exit_code == 2 and "the token ids" in result.stderr


def test_a_question_in_a_user_message_does_not_depend_on_the_context() -> None:
    tokenizer = words_tokenizer()
    tokenizer.chat_template = "w1 {% for m in messages %}{{ m['content'] }} w2{% endfor %}"
    before, (tail,) = context_ids(tokenizer, "w7 w8", True), question_ids(tokenizer, ["w9"], True)
    whole = tokenizer("w1 w7 w8\n\nw9 w2", add_special_tokens=False)["input_ids"]
    assert before[0].tolist() + tail[0].tolist() == whole
