"""The rule of an eviction as whole numbers, and its execution in torch.

Every rule that evicts while decoding says three things: which ranks compete, by which score, and where the next contest
starts. A `Contest` says them in numbers alone, so the same rule runs here for a cache, in
`analysis.retention.kernels` for simulations, and on lists in the tests.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

from treekv.errors import TreeKVError
from treekv.policies.ranking import lowest, splitmix
from treekv.policies.scores import Evictions, Scores

#: What competitors are compared by. NOTHING: the oldest loses. AVERAGE, SUM: the observed weights since a token was
#: cached. LAST: the weight from the newest query. DRAW: the loser is drawn, all equally likely.
NOTHING, AVERAGE, SUM, LAST, DRAW = range(5)
SCORES: Final = {"NOTHING": NOTHING, "AVERAGE": AVERAGE, "SUM": SUM, "LAST": LAST, "DRAW": DRAW}

#: The largest `Contest.height`, so that a number of evictions can be shifted by it.
MOST_HEIGHT: Final = 62


class Contest(NamedTuple):
    """Who competes at an eviction, by which score, and where the next contest starts.

    With the cursor at c, the ranks from `first` + c on compete: `width` of them, but none of the last `recent`. The
    lowest score loses, of equals the oldest; the loser is evicted and the cursor becomes (c + `stride`) modulo `wrap`.
    With a `height`, a contest with the cursor at 0 starts at `sweep_start` instead.

    Attributes:
        by: NOTHING, AVERAGE, SUM, LAST or DRAW.
        first: rank of the oldest competitor when the cursor is 0; older tokens (sinks) are never evicted.
        width: how many compete; 0 for all that are not recent.
        recent: the last ranks, which never compete.
        stride: how far the cursor moves after a contest.
        wrap: the cursor starts again at 0 when it reaches this.
        height: how often the oldest competitors are thinned before sweeps leave them alone; 0 for without end. Needs
            `stride` 1.
        absorbs: whether a survivor is named: the highest of the others, of equals the newest.
        heads_together: whether all KV heads evict the same rank, by the mean of their scores.
        seed: for DRAW.
    """

    by: int
    first: int
    width: int = 0
    recent: int = 0
    stride: int = 0
    wrap: int = 1
    absorbs: bool = False
    heads_together: bool = False
    seed: int = 0
    height: int = 0


def check_contest(contest: Contest, capacity: int, policy: str) -> None:
    """Raise a `TreeKVError` if the contest cannot be held in a cache of `capacity` tokens that is one over."""
    least = {"by": (0, len(SCORES) - 1), "wrap": (1, None), "height": (0, MOST_HEIGHT)}
    for field in ("by", "first", "width", "recent", "stride", "wrap", "height"):
        value, (low, high) = getattr(contest, field), least.get(field, (0, None))
        if not isinstance(value, int) or value < low or (high is not None and value > high):
            right = f"between {low} and {high}" if high is not None else f"of at least {low}"
            raise TreeKVError(
                f"the contest of policy {policy!r} has {field}={value!r}; it must be a whole number {right}"
            )
    if contest.height and contest.stride != 1:
        raise TreeKVError(
            f"the contest of policy {policy!r} has height={contest.height} and stride={contest.stride}; a height needs "
            "stride 1"
        )
    farthest = contest.first + (contest.wrap - 1 if contest.stride else 0)
    competing = capacity + 1 - contest.recent - farthest
    competing = min(competing, contest.width) if contest.width else competing
    needed = 2 if contest.absorbs else 1
    if competing < needed:
        raise TreeKVError(
            f"the contest of policy {policy!r} leaves {competing} competitors at rank {farthest} of a cache of "
            f"{capacity} tokens with {contest.recent} recent ones; at least {needed} are needed"
        )


def run_contest(contest: Contest, scores: Scores, count: int) -> Evictions:
    """The next evictions: between 1 and `count`, as many as can be made at once.

    Each eviction shifts the ranks to its right down by one, so contest k starts at rank `first` + cursor +
    k * (stride + 1) of the list before it. Contests whose windows do not overlap are independent and run together, up
    to the end of a sweep of the cursor.
    """
    cursor, stride = scores.cursor, contest.stride
    if contest.height:
        cursor = _after_frozen(contest, scores)
    count = _before_wrap(contest, cursor, count)
    left, end = cursor + contest.first, scores.held - contest.recent
    plain = not (scores.traced or torch.compiler.is_compiling())  # a compiler would start anew for each rank
    if contest.by == NOTHING and count == 1 and isinstance(left, int) and plain:
        return Evictions(left, None, (cursor + stride) % contest.wrap if stride else None)
    if contest.by == DRAW:
        count = 1
        losers, survivors = _draw(contest, scores, left, end)
    elif contest.by == NOTHING:
        losers, survivors = _oldest(contest, scores, left, end, count)
    elif contest.width == 0 and stride == 0 and isinstance(left, int):
        losers, survivors = _lowest_of_all(contest, scores, left, end, count)
    elif isinstance(left, int):
        width = min(contest.width, end - left) if contest.width else end - left
        if width > stride + 1 or width < contest.width:
            count = 1
        else:
            count = min(count, 1 + (end - left - width) // (stride + 1))
        losers, survivors = _compare(contest, scores, left, width, count)
    else:
        losers, survivors = _compare_scattered(contest, scores, left, end)
    if survivors is not None:
        survivors = survivors.expand(*scores.shape, count)
    moved = (cursor + count * stride) % contest.wrap if stride else None
    return Evictions(losers.expand(*scores.shape, count), survivors, moved)


def sweep_start(height: int, wrap: int, evicted: int) -> int:
    """The cursor at which a sweep starts after so many evictions.

    One of the oldest `wrap` ranks freezes for 2^height evictions, once `height` sweeps have been made: the sweep starts
    after the frozen ones. At most half of the ranks freeze. From there on each needs twice as many evictions, and the
    sweep before starts at 0, which halves what was frozen.
    """
    counted, level, most = max(evicted - (height - 1) * wrap, 0), height, wrap >> 1
    while counted >> level > most:
        level += 1
    return 0 if (counted + wrap) >> level > most else counted >> level


def _after_frozen(contest: Contest, scores: Scores) -> int | Tensor:
    """The cursor; that of a contest which starts a sweep is moved to its start."""
    cursor, evicted = scores.cursor, scores.step + 1 - scores.held
    if isinstance(cursor, int) and cursor:
        return cursor
    if isinstance(evicted, int):
        start: int | Tensor = sweep_start(contest.height, contest.wrap, evicted)
    else:
        counted, most = (evicted - (contest.height - 1) * contest.wrap).clamp(min=0), contest.wrap >> 1
        levels = torch.arange(contest.height, MOST_HEIGHT + 1, device=scores.device)
        level = contest.height + (counted[..., None] >> levels > most).sum(-1)
        start = (counted >> level).masked_fill((counted + contest.wrap) >> level > most, 0)
    return start if isinstance(cursor, int) else torch.where(cursor == 0, start, cursor)


def _before_wrap(contest: Contest, cursor: int | Tensor, count: int) -> int:
    """How many of `count` contests the cursor makes before it wraps: only one where rows differ in their cursor, since
    their sweeps would end at different times."""
    if isinstance(cursor, Tensor):
        return 1
    return min(count, -(-(contest.wrap - cursor) // contest.stride)) if contest.stride else count


def _values(contest: Contest, scores: Scores, ranks: slice | Tensor) -> Tensor:
    values = scores.average(ranks) if contest.by == AVERAGE else scores.total(ranks)
    # Groups are equally large, so the mean over KV heads of group means is the mean over all query heads.
    return values.mean(1, keepdim=True) if contest.heads_together else values


def _compare(contest: Contest, scores: Scores, left: int, width: int, count: int) -> tuple[Tensor, Tensor | None]:
    """`count` windows of `width` ranks, `stride` + 1 apart, the first at rank `left`."""
    step = contest.stride + 1
    if count == 1:
        values = _values(contest, scores, slice(left, left + width))
        losers = values.argmin(2, keepdim=True)  # of equals the first
        survivors = _highest_of_others(values, losers) + left if _traced(contest, scores) else None
        return losers + left, survivors
    lefts = left + step * torch.arange(count, device=scores.device)[None, None]
    if step == width:  # the windows are adjacent
        windows = _values(contest, scores, slice(left, left + width * count))
    else:
        windows = _values(contest, scores, (lefts[..., None] + torch.arange(width, device=scores.device)).flatten(2))
    windows = windows.unflatten(2, (count, width))
    losers = windows.argmin(3)
    survivors = _highest_of_others(windows, losers[..., None])[..., 0] + lefts if _traced(contest, scores) else None
    return losers + lefts, survivors


def _compare_scattered(contest: Contest, scores: Scores, left: Tensor, end: int) -> tuple[Tensor, Tensor | None]:
    """One contest in each row, at different ranks `left` [batch, 1, 1]."""
    width = min(contest.width or end, end)
    ranks = left + torch.arange(width, device=scores.device)
    outside = None
    if contest.width == 0 or contest.first + contest.wrap - 1 + width > end:  # some window may be clipped
        outside = ranks >= end
        ranks = ranks.clamp(max=end - 1)
    values = _values(contest, scores, ranks)
    losers = (values if outside is None else values.masked_fill(outside, torch.inf)).argmin(2, keepdim=True)
    survivors = None
    if _traced(contest, scores):
        others = values if outside is None else values.masked_fill(outside, -torch.inf)
        survivors = _highest_of_others(others, losers) + left
    return losers + left, survivors


def _lowest_of_all(contest: Contest, scores: Scores, left: int, end: int, count: int) -> tuple[Tensor, Tensor | None]:
    """The cursor does not move and the competitors after an eviction are the same without the loser, so the `count`
    lowest lose."""
    values = _values(contest, scores, slice(left, end))
    losers = lowest(values, count, left)
    if not _traced(contest, scores):
        return losers, None
    # The newest of the highest can only be the last loser, which never is evicted: some competitor always remains.
    return losers, end - 1 - values.flip(2).argmax(2, keepdim=True)


def _oldest(contest: Contest, scores: Scores, left: int | Tensor, end: int, count: int) -> tuple[Tensor, Tensor | None]:
    if count > 1:
        lefts = left + (contest.stride + 1) * torch.arange(count, device=scores.device)[None, None]
    elif isinstance(left, int):
        lefts = torch.full((1, 1, 1), left, device=scores.device)
    else:
        lefts = left
    if not _traced(contest, scores):
        return lefts, None
    newest = (lefts + contest.width - 1).clamp(max=end - 1) if contest.width else torch.full_like(lefts, end - 1)
    return lefts, newest


def _draw(contest: Contest, scores: Scores, left: int | Tensor, end: int) -> tuple[Tensor, Tensor | None]:
    competing = end - left
    if contest.width:
        competing = (
            competing.clamp(max=contest.width) if isinstance(competing, Tensor) else min(competing, contest.width)
        )
    heads = 1 if contest.heads_together else scores.heads
    # `held` distinguishes the evictions of one step: it falls by one with each.
    drawn = splitmix(contest.seed, scores.layer, heads, scores.step, scores.held, scores.device)
    losers = (drawn % competing + left).expand(*scores.shape, 1)
    if not _traced(contest, scores):
        return losers, None
    newest = left + competing - 1
    return losers, newest - (losers == newest).long()


def _highest_of_others(values: Tensor, losers: Tensor) -> Tensor:
    """Index along the last dimension of the highest value but that at `losers`; of equals the last."""
    if values.shape[-1] == 2:
        return 1 - losers
    others = values.scatter(-1, losers, -torch.inf)
    return values.shape[-1] - 1 - others.flip(-1).argmax(-1, keepdim=True)


def _traced(contest: Contest, scores: Scores) -> bool:
    return contest.absorbs and scores.traced
