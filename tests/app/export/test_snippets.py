"""The exported script is Python and the command is quoted for a shell, whatever the prompt."""

from __future__ import annotations

import ast
import shlex

import pytest

from app.export.snippets import command_line, python_snippet

PROMPTS = ["Once upon a time", 'it\'s "quoted" $HOME `x`', "--help", "two\nlines", "\\"]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_script_is_python_with_the_prompt_in_it(prompt: str) -> None:
    tree = ast.parse(python_snippet("a/b'c", prompt, 7))
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert {prompt, "a/b'c", "settings.json", 7} <= words


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_shell_reads_the_command_as_it_is_meant(prompt: str) -> None:
    words = shlex.split(command_line("a b", prompt, 7))
    assert words[:2] == ["treekv", "generate"]
    assert words[words.index("--model") + 1] == "a b"
    assert words[words.index("--tokens") + 1] == "7"
    assert (words[-2:] == ["--", prompt]) if prompt.startswith("-") else (words[2] == prompt)
