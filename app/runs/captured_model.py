"""The model that a capture was made with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import treekv
from treekv.errors import TreeKVError


def model_to_load(name: str) -> str:
    """What `treekv.load_model` takes for a model's name in a capture or a run: its alias where it has one."""
    from treekv.models import ALIASES  # here, since it loads transformers

    return next((alias for alias, entry in ALIASES.items() if entry.title == name), name)


def load_captured(name: str, given: str | None = None) -> tuple[Any, Any]:
    """The model of a capture and its tokenizer, by the name that the capture has of it, or a name given by the user.

    Raises:
        TreeKVError: it cannot be loaded, or the name says neither an alias nor a place.
    """
    wanted = model_to_load(name) if given is None else given
    if given is None:
        check_known(wanted, name)
    return treekv.load_model(wanted)


def check_known(wanted: str, name: str) -> None:
    """Raises TreeKVError if `wanted`, from a model called `name` in a capture, is neither an alias nor a place."""
    from treekv.models import ALIASES

    if wanted not in ALIASES and "/" not in wanted and not Path(wanted).exists():
        raise TreeKVError(f"the capture does not say where its model {name!r} is; give it with --model")
