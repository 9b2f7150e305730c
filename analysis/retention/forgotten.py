"""When each policy forgot a word or phrase: the step after which a head holds none of its tokens.

found = analysis.forgotten(retention, "the river")  # or analysis.forgotten(captured, "the river", configs)
analysis.forgotten_in_words(found)  # one sentence
analysis.plot.forgotten(found)  # layer by layer and head by head
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import xarray as xr

from analysis.captures.data import Capture
from analysis.named_settings import Settings
from analysis.retention.simulate import simulate
from treekv.errors import TreeKVError

QUOTED = 60  # characters of a phrase that a sentence repeats


def forgotten(data: xr.Dataset | Capture, phrase: str, configs: Settings | None = None) -> xr.Dataset:
    """The steps at which each head lost the first and the last token of a phrase, wherever the text has it.

    Args:
        data: a retention record with the text of its tokens, or a capture, which is simulated.
        phrase: one or several words. Upper and lower case are the same, and so are all spaces. Whole words are found;
            only where there are none, parts of words.
        configs: the settings to simulate, if `data` is a capture; as of `simulate`.

    Returns:
        Dataset over (policy, layer, head, occurrence), int32; heads are KV heads:
          broken_at     the step at which the first of its tokens was evicted, -1 if all are kept
          forgotten_at  the step at which the last of them was evicted, -1 if one is kept
        with the coordinates `first` and `last`, the positions of the tokens that contain an occurrence, and `text`, its
        words there; attrs["steps"] and attrs["phrase"].

    Raises:
        TreeKVError: an empty phrase, one that the text does not have, a record without its text, or a capture without
            settings.
    """
    if not phrase.strip():
        raise TreeKVError("the phrase to look for is empty; give a word of the text")
    if isinstance(data, Capture):
        tokens: Sequence[str] = data.token_text
        if configs is None:
            raise TreeKVError("a capture forgets nothing by itself; give settings to simulate, or a retention record")
    elif "token" in data.coords:
        tokens = [str(token) for token in data["token"].values]
    else:
        raise TreeKVError("the record lacks the text of its tokens; pass it to retention_from_cache")
    spans = find_phrase(tokens, phrase)
    if not spans:
        raise TreeKVError(f"{_quoted(phrase)} is not in the text of {len(tokens):,} tokens")
    if isinstance(data, Capture):
        assert configs is not None
        data = simulate(data, configs)
    evicted_at = data["evicted_at"].transpose("policy", "layer", "head", "position")
    broken_at, forgotten_at = (np.empty((*evicted_at.shape[:3], len(spans)), np.int32) for _ in range(2))
    for number, (first, last) in enumerate(spans):
        gone = evicted_at.values[..., first : last + 1]
        kept = gone < 0
        broken_at[..., number] = np.where(kept.all(-1), -1, np.where(kept, np.iinfo(np.int32).max, gone).min(-1))
        forgotten_at[..., number] = np.where(kept.any(-1), -1, gone.max(-1))
    dims = ("policy", "layer", "head", "occurrence")
    return xr.Dataset(
        {"broken_at": (dims, broken_at), "forgotten_at": (dims, forgotten_at)},
        coords={
            **{name: data[name].values for name in dims[:3]},
            "occurrence": np.arange(len(spans)),
            "first": ("occurrence", [first for first, _ in spans]),
            "last": ("occurrence", [last for _, last in spans]),
            "text": ("occurrence", ["".join(tokens[first : last + 1]).strip() for first, last in spans]),
        },
        attrs={"steps": int(data.attrs["steps"]), "phrase": " ".join(phrase.split())},
    )


def find_phrase(tokens: Sequence[str], phrase: str) -> list[tuple[int, int]]:
    """The first and last token of each place of a text that has the phrase, as `forgotten` looks for it."""
    words = r"\s+".join(map(re.escape, phrase.split()))
    text = "".join(tokens)
    found = list(re.finditer(rf"(?<!\w){words}(?!\w)", text, re.IGNORECASE))
    found = found or list(re.finditer(words, text, re.IGNORECASE))
    ends = np.cumsum([len(token) for token in tokens])
    # The token of a character is the first that ends behind it; tokens without characters hold none.
    return [
        (int(np.searchsorted(ends, one.start(), "right")), int(np.searchsorted(ends, one.end() - 1, "right")))
        for one in found
    ]


def forgotten_in_words(data: xr.Dataset, occurrence: int = 0) -> str:
    """What `forgotten` found, in one sentence about one of the places of the text.

    Args:
        data: what `forgotten` returned.
        occurrence: which place, 0 for the first.

    Raises:
        TreeKVError: the text has fewer such places.
    """
    if not 0 <= occurrence < data.sizes["occurrence"]:
        raise TreeKVError(f"occurrence must be between 0 and {data.sizes['occurrence'] - 1}, got {occurrence}")
    one = data.isel(occurrence=occurrence)
    first, last = int(one["first"]), int(one["last"])
    where = f"position {first:,}" if first == last else f"positions {first:,} to {last:,}"
    clauses = [
        f"{name} {_when(one['forgotten_at'].sel(policy=name).values.ravel(), 'forgot it ' if not number else '')}"
        for number, name in enumerate(one["policy"].values)
    ]
    return f"{_quoted(str(one['text'].item()))} at {where}: {', '.join(clauses)}."


def _when(gone: np.ndarray, verb: str) -> str:
    """When some heads forgot it, each at its step, -1 for never."""
    heads, steps = len(gone), np.sort(gone[gone >= 0])
    if not len(steps):
        return "never forgot it"
    if len(steps) == heads and steps[0] == steps[-1]:
        return f"{verb}at step {steps[0]:,}"
    kept = f"{heads - len(steps)} of {heads} keep it"
    if 2 * len(steps) < heads:
        return f"{verb}in {len(steps)} of {heads} heads from step {steps[0]:,} on"
    half = f"{verb}at step {steps[-(-heads // 2) - 1]:,} in half of the heads"
    return f"{half} ({kept})" if len(steps) < heads else f"{half} and at {steps[-1]:,} in all"


def _quoted(phrase: str) -> str:
    words = " ".join(phrase.split())
    cut = words if len(words) <= QUOTED else words[: QUOTED - 1] + "\u2026"
    return f"\u201c{cut}\u201d"
