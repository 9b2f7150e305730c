"""The one model that the process keeps loaded for all sessions."""

from __future__ import annotations

import gc
import threading
from typing import Any

import streamlit as st
import torch

import treekv

_lock = threading.Lock()
_name: str | None = None  # of the loaded model


def get(name: str) -> tuple[Any, Any]:
    """The loaded model and its tokenizer, as `treekv.load_model` gives them; the previous one is freed first.

    Call it in jobs, since loading takes seconds. Two models at once could be too large. Remote code is never run.

    Raises:
        TreeKVError: as of `treekv.load_model`.
    """
    global _name
    with _lock:
        if name != _name:
            _load.clear()  # before the next one is loaded, not after
            _name = None
        loaded: tuple[Any, Any] = _load(name)
        _name = name
    return loaded


def _release(_: Any) -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@st.cache_resource(max_entries=1, show_spinner=False, on_release=_release)
def _load(name: str) -> tuple[Any, Any]:
    return treekv.load_model(name)
