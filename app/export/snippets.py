"""Code that runs chosen settings elsewhere: a few lines of Python, or one command."""

from __future__ import annotations

import shlex
from typing import Final

SETTINGS_FILE: Final = "settings.json"
PROMPT: Final = "Once upon a time"
NEW_TOKENS: Final = 64


def python_snippet(model: str, prompt: str = PROMPT, tokens: int = NEW_TOKENS) -> str:
    """A complete script that continues `prompt` by `tokens` tokens, with the settings file in the same folder."""
    return f"""\
import treekv

model, tokenizer = treekv.load_model({model!r})
config = treekv.TreeKVConfig.load({SETTINGS_FILE!r})
cache = treekv.TreeKVCache(config, model.config)

inputs = tokenizer({prompt!r}, return_tensors="pt").to(model.device)
output = model.generate(**inputs, past_key_values=cache, max_new_tokens={tokens}, do_sample=False)
print(tokenizer.decode(output[0, inputs.input_ids.shape[1] :], skip_special_tokens=True))
print(f"{{cache.nbytes:,}} bytes of keys and values, {{cache.kept_tokens:,}} tokens kept")
"""


def command_line(model: str, prompt: str = PROMPT, tokens: int = NEW_TOKENS) -> str:
    """The same as one command for a POSIX shell, with words quoted where necessary."""
    words = ["treekv", "generate", prompt, "--model", model, "--settings", SETTINGS_FILE, "--tokens", str(tokens)]
    if prompt.startswith("-"):  # otherwise it would be parsed as an option
        words = [*words[:2], *words[3:], "--", prompt]
    return shlex.join(words)
