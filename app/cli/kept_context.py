"""treekv generate --save-cache and --cache: a context that was read, kept in a file and asked from there."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app import DEFAULT_MODEL
from app.cli.console import stage
from app.cli.questions import Asked, answer_questions, context_ids, question_ids, read_with_each

if TYPE_CHECKING:
    import torch

    from treekv import TreeKVConfig

# What this command keeps among the notes of a cache file.
_MODEL, _CHAT, _IDS = "model", "chat", "token_ids"


def check_options(
    context: str | None, cache: Path | None, questions: list[str] | None, given: dict[str, Any], *, prompted: bool
) -> None:
    """Raise a `TreeKVError` unless these options, `given` by name or None, make sense together."""
    from treekv import TreeKVError
    from treekv.cache.cache_file import check_target

    if context is None and cache is None:
        needs = "--question needs the text that it is about" if questions else "--save-cache needs a text to read"
        raise TreeKVError(f"{needs}; give it with --context" + (", or a saved one with --cache" if questions else ""))
    source = "--cache" if context is None else "--context"
    if prompted:
        raise TreeKVError(f"give either a prompt to continue or a {source} with questions, and not both")
    if context is not None and cache is not None:
        raise TreeKVError("give either a --context to read or a --cache that has read one, and not both")
    if cache is not None and any(value is not None for value in given.values()):
        named = next(name for name, value in given.items() if value is not None)
        raise TreeKVError(
            f"the settings of a --cache are those it was read with; leave out --{named.replace('_', '-')}"
        )
    if not (questions or given["save_cache"]) or not all(question.strip() for question in questions or []):
        raise TreeKVError(f"a {source} needs a question about it; give one or more with --question")
    if given["save_cache"] is not None:
        check_target(given["save_cache"])


def ask(
    context: str | None,
    cache: Path | None,
    questions: list[str],
    configs: Callable[[], dict[str, TreeKVConfig]],
    *,
    save_cache: Path | None,
    model: str | None,
    chat: bool,
    tokens: int,
    temperature: float,
    as_json: bool,
) -> bool:
    """Read a context with each of the settings, and keep what the first has read if that is wanted, or take it from a
    cache file; then answer the questions. False if it was stopped."""
    from app.text.inputs import read_text

    text, settings = "", {}
    if context is not None:
        text, settings = read_text(context), configs()
        model = model or DEFAULT_MODEL
    else:
        assert cache is not None  # `check_options`
        model, chat = read_notes(cache, model, chat)
    with stage(f"Loading {model}"):
        from treekv import load_model

        network, tokenizer = load_model(model)
    if cache is not None:
        asked, before = load_context(cache, network)
        read = [asked]
    else:
        before = context_ids(tokenizer, text, chat)
        read = read_with_each(network, before, settings)
    if save_cache is not None:
        save_context(save_cache, read[0], network, before, model=model, chat=chat)
    tails = question_ids(tokenizer, questions, chat)
    return answer_questions(
        network, tokenizer, before, questions, tails, read, tokens=tokens, temperature=temperature, as_json=as_json
    )


def save_context(path: Path, asked: Asked, network: Any, ids: torch.Tensor, *, model: str, chat: bool) -> None:
    """Keep what was read of a context: its cache, its tokens, the name by which its model was loaded, and whether it
    stands in a user message."""
    with stage(f"Saving {path}"):
        asked.cache.save(path, network, notes={_MODEL: model, _CHAT: chat, _IDS: ids[0].tolist()})


def read_notes(path: Path, model: str | None, chat: bool) -> tuple[str, bool]:
    """The name of the model of a kept context, unless it is given, and whether its questions stand in a user message,
    before anything is loaded.

    Raises:
        TreeKVError: no such file, or one that this command did not write, or the questions are to stand elsewhere.
    """
    from treekv import TreeKVCache, TreeKVError

    said = TreeKVCache.describe(path)
    kept = said.notes.get(_MODEL), said.notes.get(_CHAT), said.notes.get(_IDS)
    if not (isinstance(kept[0], str) and isinstance(kept[1], bool) and isinstance(kept[2], list)) or said.rows != 1:
        raise TreeKVError(
            f"{str(path)!r} is a saved cache, but not of a context: make one with treekv generate --context FILE "
            "--save-cache"
        )
    if chat and not kept[1]:
        raise TreeKVError(
            f"the context in {str(path)!r} was read without --chat; leave it out, or read it again with it"
        )
    return model or kept[0], kept[1]


def load_context(path: Path, network: Any) -> tuple[Asked, torch.Tensor]:
    """A kept context, and its token ids [1, tokens].

    Raises:
        TreeKVError: it was read by another model, or the file is damaged.
    """
    import torch

    from treekv import TreeKVCache, TreeKVError

    start = time.perf_counter()
    cache = TreeKVCache.load(path, network)
    seconds = time.perf_counter() - start
    ids = TreeKVCache.describe(path).notes[_IDS]
    vocabulary = network.config.get_text_config(decoder=True).vocab_size
    if len(ids) != cache.get_seq_length() or not all(type(i) is int and 0 <= i < vocabulary for i in ids):
        raise TreeKVError(f"the token ids in {str(path)!r} are not those of its cache; save it again")
    return Asked(cache.config.policy, cache.config, cache, seconds, cache.nbytes, verb="loaded"), torch.tensor([ids])
