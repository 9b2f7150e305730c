"""What the settings of a sweep are called in tables and pictures, as everywhere else."""

from __future__ import annotations

import re
from typing import Final

from treekv import policies

#: Of names that the sweeps of this project give to settings of their own.
OWN: Final = {
    "recommended": "TreeKV, recommended",
    "recommended sum": "TreeKV, recommended, but by the sum",
    "tree future": "TreeKV, future-shifted scores, by the sum",
    "tree future energy": "TreeKV, future-shifted scores",
}
_APART: Final = re.compile(r"(?P<name>.*?)(?P<rest> \(.*\))?", re.DOTALL)


def settings_title(name: str, policy: str | None = None) -> str:
    """The title of the policy, if that is the name, with its variant or what is said of it; else the name itself.

    Where the `policy` of the settings is known, a name that tells of another one stays as it is.

    Example:
        >>> settings_title("h2o paper"), settings_title("tree (stride 2)"), settings_title("mine")
        ("H2O, paper's allocation", 'TreeKV (stride 2)', 'mine')
    """
    found = _APART.fullmatch(name)
    assert found is not None
    plain, rest = found["name"], found["rest"] or ""
    told, _, variant = plain.partition(" ")
    told = "tree" if plain in OWN else told
    if told not in policies.names() or policy not in (None, told):
        return name
    if plain in OWN:
        return OWN[plain] + rest
    known = policies.get(told)
    if not variant:
        return known.title + (", as published" if known.variants else "") + rest
    own = known.variants[variant].title if variant in known.variants else variant
    return f"{known.title}, {own}{rest}"
