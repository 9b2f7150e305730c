"""Code that runs the active configuration elsewhere: a few lines of Python, or one command."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

SETTINGS_FILE: Final = "settings.json"
PROMPT: Final = "Once upon a time"
NEW_TOKENS: Final = 64
PROMPT_FILE: Final = "prompt.txt"
LONGEST_PROMPT: Final = 400  # characters that stand in a command; a longer prompt is read from its file


def python_snippet(model: str, prompt: str = PROMPT, tokens: int = NEW_TOKENS) -> str:
    """A complete script that continues `prompt` by `tokens` tokens, with the settings file in the same folder, and
    `PROMPT_FILE` if the prompt needs one."""
    text = f"open({PROMPT_FILE!r}, encoding='utf-8').read()" if needs_file(prompt) else repr(prompt)
    return f"""\
import treekv

model, tokenizer = treekv.load_model({model!r})
config = treekv.TreeKVConfig.load({SETTINGS_FILE!r})
cache = treekv.TreeKVCache(config, model.config)

inputs = tokenizer({text}, return_tensors="pt").to(model.device)
output = model.generate(**inputs, past_key_values=cache, max_new_tokens={tokens}, do_sample=False)
print(tokenizer.decode(output[0, inputs.input_ids.shape[1] :], skip_special_tokens=True))
print(f"{{cache.nbytes:,}} bytes of keys and values, {{cache.kept_tokens:,}} tokens kept")
"""


def needs_file(prompt: str) -> bool:
    """Whether a prompt is too long to stand in a command."""
    return len(prompt) > LONGEST_PROMPT


def own_command() -> str:
    """How to call treekv from the folder in which this process runs: where it is not on the PATH, as in a new virtual
    environment, by the path by which it was called, or else by that of the script beside the interpreter."""
    if shutil.which("treekv") is not None:
        return "treekv"
    called, beside = Path(sys.argv[0]), Path(sys.executable).with_name("treekv")
    if called.name == "treekv":
        return str(called)
    if not beside.is_file():
        return "treekv"
    return str(beside.relative_to(Path.cwd())) if beside.is_relative_to(Path.cwd()) else str(beside)


def command_line(model: str, prompt: str = PROMPT, tokens: int = NEW_TOKENS, command: str = "treekv") -> str:
    """The same as one command for a POSIX shell, with words quoted where necessary."""
    given = ["--prompt-file", PROMPT_FILE] if needs_file(prompt) else [prompt]
    words = [command, "generate", *given, "--model", model, "--settings", SETTINGS_FILE, "--tokens", str(tokens)]
    if prompt.startswith("-") and not needs_file(prompt):  # otherwise it would be parsed as an option
        words = [*words[:2], *words[3:], "--", prompt]
    return shlex.join(words)
