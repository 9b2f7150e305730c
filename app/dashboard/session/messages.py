"""Error messages on a page: escaped for markdown, without the server's own paths."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TypeVar

import streamlit as st

from app.dashboard.pages import runs_root
from treekv import TreeKVError

T = TypeVar("T")


def or_stop(work: Callable[[], T]) -> T:
    """The result; when the input is at fault its sentence is shown and the page ends there."""
    try:
        return work()
    except TreeKVError as error:
        st.error(sentence(error))
        st.stop()


def sentence(error: object) -> str:
    """What is wrong, as markdown shows it as it is, with files named from the folder of runs on."""
    return plain(below_root(str(error)))


def below_root(text: str) -> str:
    """The text without the path to the folder of runs: where on the server that lies is nobody's business."""
    for path in (runs_root().resolve(), runs_root().absolute(), runs_root()):
        name = str(path)
        if name not in ("/", "."):
            text = text.replace(f"{name}{os.sep}", "").replace(name, path.name)
    return text


def plain(text: str) -> str:
    """Text that markdown shows as it is: no links, pictures or emphasis from a file's name."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~$:.-])", r"\\\1", text)
