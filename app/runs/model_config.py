"""The configuration of a model, without its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig

import treekv
from treekv import TreeKVError
from treekv.models import ALIASES, alias_states


def load_config(name: str) -> Any:
    """The configuration that transformers has of a model: an alias, a local folder or a hub id.

    An alias that has not been converted yet, and a GGUF file, are loaded for it.

    Raises:
        TreeKVError: there is no such model, or as `treekv.load_model`.
    """
    copies = {state.name: state.converted for state in alias_states()}
    folder = copies.get(name) if name in ALIASES else Path(name)
    if folder is None or folder.is_file():
        return treekv.load_model(name)[0].config
    try:
        return AutoConfig.from_pretrained(str(folder) if folder.is_dir() else name, trust_remote_code=False)
    except Exception as error:  # a damaged file can fail anywhere, and the hub in many ways
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise TreeKVError(
            f"the configuration of {name!r} cannot be read: {first}; give an alias ({', '.join(ALIASES)}), a model "
            "folder or a hub id"
        ) from error
