"""Words that the command, the report and the dashboard share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import xarray as xr

    from treekv import TreeKVConfig

POLICY_TITLES: Final = {"full": "full cache", "streaming": "StreamingLLM", "tree": "TreeKV"}
OTHER_TITLES: Final = {
    "tree_left": "tree, left",
    "h2o": "H2O",
    "tova": "TOVA",
    "snapkv": "SnapKV",
    "pyramidkv": "PyramidKV",
    "random": "random",
}

SINKS_APART: Final = (
    "The first {count} tokens were taken out before the transform, since an attention sink leaks into the low bands. "
    "Left in, claim 2 can come out differently: docs/wavelets.md shows both."
)

# One sentence under each picture: how to read it.
READ_SPECTRUM: Final = (
    "Each line is one band, from slow changes along the text (violet) to differences between "
    "neighbours (green); lines that rise to the right, the green ones most, mean that near tokens differ more from "
    "their neighbours than far ones do, so the far context can be kept coarsely."
)
READ_COEFFICIENTS: Final = (
    "Each row is one band and each column a place in the text; bright cells are where neighbouring stretches "
    "of that length contribute differently to the output, and dark ones are where one token can stand for "
    "several."
)
READ_SINKS: Final = (
    "Each bar is one of the first tokens, which soak up attention whatever they say; compare with the dashed line, "
    "what the strongest band reaches elsewhere, to see why they are drawn, and kept in a cache, apart."
)
READ_GROWTH: Final = (
    "Each cell is one head: yellow and brown ones contribute more towards the end in this band, blue less, grey the "
    "same; where rows or columns stand out, layers or heads want budgets of their own."
)
READ_TRENDS: Final = (
    "Each mark is one band with its 95 % interval; a mark whose whisker lies wholly to the right of the grey bar has "
    "grown by more than chance would, a hollow mark is not decided."
)
READ_EVICTION_MAP: Final = (
    "Read downwards as time: each row shows which tokens (columns) are still held after that many have been "
    "read; TreeKV thins the past gradually from right to left, a window would cut it off along a diagonal."
)
READ_DENSITY: Final = (
    "The further to the right, the older: a window drops to nothing at its edge, while a tree's line falls in steps, "
    "so that less and less is kept of what is further back."
)
READ_TEXT: Final = (
    "The text as it stood at that moment: on dark ground are the tokens that most heads still hold, on the palest "
    "those that all have forgotten; move the slider, or let it play, to watch the past thin out."
)
READ_TREE: Final = (
    "Each vertical line is the life of one token, upwards in time; where it ends, a horizontal line leads to the "
    "neighbour that won the comparison and stands for both from then on."
)


READ_MAPS: Final = (
    "One map a setting, all on one scale: read each downwards as time, and compare how the dark ground of what is "
    "forgotten spreads, gradually for a tree, along a sharp edge for a window."
)
READ_AGREEMENT: Final = (
    "Each cell says how many of the tokens that either of two settings holds at the end are held by both: bright "
    "cells are settings that could stand for each other, dark ones forget different things."
)
READ_BIAS: Final = (
    "Left, how far the kept tokens lie from where an ideal tree would have them, short bars for a tree; right, how "
    "unevenly the tenths of the text are kept, 0 when all alike and 0.9 when only one is: a tree's bar ends at its "
    "diamond."
)
READ_MASS: Final = (
    "How much of the attention that the full cache pays still finds its token, layer by layer: higher is better, "
    "and a layer that drops shows where a setting forgets what is looked at."
)
READ_ERROR: Final = (
    "How far the attention output moves away from that of the full cache, layer by layer: lower is better; "
    "differences of a few per cent of these numbers say nothing about real texts."
)
READ_MEMORY: Final = (
    "A full cache grows in a straight line with the context; a bounded one turns flat where it is full, and what lies "
    "between the two at your length is what you save."
)
READ_RECOMMENDATION: Final = (
    "Every setting that was tried, by its simulated error: the filled diamonds were chosen, and a circle that lies "
    "just as far left was not better by enough to be believed."
)
READ_DIFFERENCE: Final = (
    "White where simulation and real run hold the same tokens; blue what only the simulation kept, yellow what only "
    "the real run kept: a pale map means that the simulation can be trusted."
)


def policy_title(policy: str) -> str:
    """What people call a policy, such as "tree" or "tree (real run)"."""
    name, bracket, rest = policy.partition(" (")
    return (POLICY_TITLES.get(name) or OTHER_TITLES.get(name, name)) + bracket + rest


def titled(retention: xr.Dataset) -> xr.Dataset:
    """A retention record whose policies have the names that people call them by, for pictures."""
    return retention.assign_coords(policy=[policy_title(str(name)) for name in retention["policy"].values])


def verdict(claims: Mapping[str, Any]) -> str:
    """The sentence under the two claims, from the attributes of `analysis.trends`."""
    low, high = claims.get("claim_ii_correlation_low"), claims.get("claim_ii_correlation_high")
    between = "" if low is None else f" (95 % interval {number(low, '+.2f')} to {number(high, '+.2f')})"
    return (
        f"Growth against the order of the bands, lowest to highest: correlation "
        f"{number(claims['claim_ii_correlation'], '+.2f')}{between}; +1 would be perfect order. The band that grows "
        f"most is {claims['claim_ii_top_band']}. "
        + (
            SINKS_APART.format(count=claims["sink_count"])
            if claims.get("sinks", "separate") == "separate"
            else f"The first {claims['sink_count']} tokens were left in the transform and leak into the low bands."
        )
    )


CONTROLS: Final = {"cache_size": "Budget", "sink_size": "Sinks", "recent_size": "Recent", "block_size": "Block"}


def by_control(sentence: str) -> str:
    """A sentence about settings with the names that the controls of the dashboard have."""
    return re.sub("|".join(CONTROLS), lambda found: CONTROLS[found[0]], sentence)


def listed(items: Sequence[object]) -> str:
    """Such as 5, 15 and 25."""
    *most, last = map(str, items)
    return f"{', '.join(most)} and {last}" if most else last


def settings_in_words(config: TreeKVConfig) -> str:
    """One line on what a cache with these settings keeps, and what becomes of a prompt."""
    title = policy_title(config.policy)
    if config.policy == "full":
        return f"{title}: every token is kept"
    parts = [f"{config.sink_size} sinks", f"{config.recent_size:,} recent"]
    if config.region_size:
        parts.append(f"{config.region_size:,} {'in the tree' if config.policy.startswith('tree') else 'chosen by it'}")
    prompt = {
        "tree": "a prompt is read whole and reduced at its end",
        "stream": f"a prompt is read in blocks of {config.block_size}, reduced as it comes",
        "none": "a prompt is kept whole",
    }[config.prefill]
    return f"{title}: {config.cache_size:,} tokens ({', '.join(parts)}); {prompt}"


def band_width(band: str, level: int) -> str:
    """Over how many tokens a band's half wave runs; the lowest band takes all that is slower."""
    return f"{2**level} and more" if band.startswith("A") else str(2 ** (level - 1))


def number(value: float | None, form: str) -> str:
    """A number in the given format, a dash where there is none."""
    return "-" if value is None or value != value else format(value, form)


def size(number: float) -> str:
    """Bytes for people, in powers of ten: 1.2 MB."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
