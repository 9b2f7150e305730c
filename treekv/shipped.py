"""Settings that come with this package: recommended ones for the models that have an alias.

    TreeKVConfig.load("smollm2-128")

Each file says under "provenance" how it was made; docs/recommend.md says what it is worth.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from treekv.errors import TreeKVError

FOLDER: Final = Path(__file__).parent / "recommended"


def names() -> list[str]:
    """The names of the settings, as `TreeKVConfig.load` and `--settings` take them."""
    return sorted((file.stem for file in FOLDER.glob("*.json")), key=_by_size)


def find(name: str | os.PathLike[str]) -> Path:
    """The user's file of that name or, where there is none, that of shipped settings.

    Raises:
        TreeKVError: a plain word that is neither, or no name at all.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise TreeKVError(f"settings are a file or one of {', '.join(names())}, got {name!r}")
    given = Path(name)
    if str(given) != given.name or given.suffix == ".json" or os.path.exists(given):
        return given
    own = FOLDER / f"{given}.json"
    if not os.path.isfile(own):
        raise TreeKVError(
            f"there is no settings file {str(given)!r}, and the settings that come with TreeKV are {', '.join(names())}"
        )
    return own


def provenance(name: str) -> dict[str, Any]:
    """What the settings of that name, one of `names()`, were made from.

    Raises:
        TreeKVError: there are no such settings.
    """
    content = json.loads(find(name).read_text(encoding="utf-8"))
    return dict(content.get("provenance", {}))


def _by_size(name: str) -> tuple[str, int]:
    model, _, size = name.rpartition("-")
    return model, int(size) if size.isdecimal() else 0
