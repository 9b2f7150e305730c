"""What the settings of a sweep are called in tables and pictures, as everywhere else."""

from __future__ import annotations

import re
from typing import Final

from treekv import policies

#: Of names that the sweeps of this project give to settings of their own.
OWN: Final = {"recommended": "TreeKV, recommended", "tree future": "TreeKV, future-shifted scores"}
_APART: Final = re.compile(r"(?P<name>.*?)(?P<rest> \(.*\))?", re.DOTALL)


def settings_title(name: str) -> str:
    """The title of the policy, if that is the name, with its variant or what is said of it; else the name itself.

    Example:
        >>> settings_title("h2o paper"), settings_title("tree (stride 2)"), settings_title("mine")
        ("H2O, paper's allocation", 'TreeKV (stride 2)', 'mine')
    """
    found = _APART.fullmatch(name)
    assert found is not None
    plain, rest = found["name"], found["rest"] or ""
    policy, _, variant = plain.partition(" ")
    if plain in OWN or policy not in policies.names():
        return OWN.get(plain, plain) + rest
    known = policies.get(policy)
    if not variant:
        return known.title + (", as published" if known.variants else "") + rest
    own = known.variants[variant].title if variant in known.variants else variant
    return f"{known.title}, {own}{rest}"
