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
    """The result of `work`; on a TreeKVError the page shows its sentence and ends there."""
    try:
        return work()
    except TreeKVError as error:
        st.error(sentence(error))
        st.stop()


def sentence(error: object) -> str:
    """An error message as a sentence, escaped for markdown, with file names relative to the folder of runs."""
    text = below_root(str(error))
    if re.match(r"[a-z]+ ", text):  # a word, not the name of a file or setting
        text = text[0].upper() + text[1:]
    return plain(text if text.endswith((".", "!", "?")) else f"{text}.")


def clause(error: object) -> str:
    """The same to stand behind a colon."""
    return plain(below_root(str(error)))


def below_root(text: str) -> str:
    """The text without the path to the folder of runs, so that pages do not reveal the server's file system."""
    for path in (runs_root().resolve(), runs_root().absolute(), runs_root()):
        name = str(path)
        if name not in ("/", "."):
            text = text.replace(f"{name}{os.sep}", "").replace(name, path.name)
    return text


def plain(text: str) -> str:
    """Text escaped for markdown, so that a file's name cannot make links, images or emphasis."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~$:.-])", r"\\\1", text)
