"""The family of a token that is still kept: which tokens it beat, level by level, and when."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import xarray as xr

from analysis.retention.record import select
from treekv.errors import TreeKVError

NAMED: Final = 12  # tokens of a level that a sentence names


class Absorbed(NamedTuple):
    """A token that another one beat.

    Attributes:
        level: 1 if the kept token itself beat it, 2 if one of level 1 had, and so on.
        position: its own position.
        winner: the position of the token that beat it.
        step: when.
    """

    level: int
    position: int
    winner: int
    step: int


def family(
    retention: xr.Dataset,
    position: int,
    *,
    policy: str | None = None,
    layer: int | None = None,
    head: int | None = None,
    step: int | None = None,
) -> list[Absorbed]:
    """The tokens that the one at `position` represents, by level and, within a level, by the step.

    Args:
        retention: a record.
        position: of a token that is kept after `step`.
        policy: may be None if the record has only one.
        layer, head: the first ones if None; a KV head.
        step: position of the last token processed, the last of the record if None.

    Raises:
        TreeKVError: a policy, layer, head, step or position that is not in the record, or a token that is not kept
            then.
    """
    evicted_at, survivor, _, step = _head(retention, policy, layer, head, step)
    if not 0 <= position <= step:
        raise TreeKVError(f"position must be between 0 and {step}, the last one read, got {position}")
    if 0 <= evicted_at[position] <= step:
        raise TreeKVError(
            f"the token at position {position} was evicted at step {evicted_at[position]}; give one that is kept"
        )
    lost = np.flatnonzero((evicted_at >= 0) & (evicted_at <= step) & (survivor >= 0))
    beaten: dict[int, list[int]] = {}
    for loser in lost[np.argsort(evicted_at[lost], kind="stable")].tolist():
        beaten.setdefault(int(survivor[loser]), []).append(loser)
    found: list[Absorbed] = []
    level, winners = 1, [position]
    while winners:
        own = [
            Absorbed(level, loser, winner, int(evicted_at[loser]))
            for winner in winners
            for loser in beaten.get(winner, [])
        ]
        found += sorted(own, key=lambda one: (one.step, one.position))
        level, winners = level + 1, [one.position for one in own]
    return found


def family_in_words(
    retention: xr.Dataset,
    position: int,
    *,
    policy: str | None = None,
    layer: int | None = None,
    head: int | None = None,
    step: int | None = None,
) -> list[str]:
    """What `family` finds, in one sentence for the token and one for each level; the arguments are the same."""
    found = family(retention, position, policy=policy, layer=layer, head=head, step=step)
    tokens = _head(retention, policy, layer, head, step)[2]

    def named(at: int) -> str:
        words = " ".join(tokens[at].split()) or "\u2423" if tokens else ""
        return f"\u201c{words}\u201d ({at:,})" if tokens else f"the token at {at:,}"

    if not found:
        return [f"{_capital(named(position))} has beaten no token: it stands for itself alone."]
    sentences = [f"{_capital(named(position))} stands for {len(found) + 1:,} tokens: itself and those below it."]
    for level in range(1, found[-1].level + 1):
        own = [one for one in found if one.level == level]
        shown = [
            f"{named(one.position)} at step {one.step:,}"
            if level == 1
            else f"{named(one.winner)} had beaten {named(one.position)} at step {one.step:,}"
            for one in own[:NAMED]
        ]
        more = f"; and {len(own) - NAMED:,} more" if len(own) > NAMED else ""
        sentences.append(f"Level {level}: {'it beat ' if level == 1 else ''}{'; '.join(shown)}{more}.")
    return sentences


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]


def _head(
    retention: xr.Dataset, policy: str | None, layer: int | None, head: int | None, step: int | None
) -> tuple[np.ndarray, np.ndarray, list[str], int]:
    """`evicted_at` and `survivor` of one head, the text of the tokens or none, and the step."""
    layer = int(retention["layer"].values[0]) if layer is None else layer
    head = int(retention["head"].values[0]) if head is None else head
    steps = int(retention.attrs["steps"])
    step = steps - 1 if step is None else step
    if not 0 <= step < steps:
        raise TreeKVError(f"step {step} is outside the record; give 0 to {steps - 1}")
    one = select(retention, policy, layer, head)
    tokens = [str(token) for token in one["token"].values] if "token" in one.coords else []
    return one["evicted_at"].values, one["survivor"].values, tokens, step
