"""Wording that the command line, the reports and the dashboard share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import xarray as xr

    from analysis.memory_plan import Plan
    from treekv import TreeKVConfig

MODEL_HELP: Final = "An alias such as smollm2, a local folder, or a hub id."

PAPER: Final = "paper"  # the protocol of `analysis.trends`
FEW_SAMPLES: Final = "Amplitude varies so much along a text that fewer than 5 samples rarely decide anything."
SINKS_APART: Final = (
    "The first {count} tokens were removed before the transform, since an attention sink leaks into the low bands. "
    "If they are left in, claim (ii) can have another result; docs/wavelets.md shows both."
)


def policy_title(policy: str) -> str:
    """The title of a policy, of a variant of it ("h2o paper") or of one of its records ("tree (real run)").

    Unknown names are kept as they are.
    """
    from treekv import policies  # here, since the command line's help loads no model library

    name, bracket, rest = policy.partition(" (")
    own, _, variant = name.partition(" ")
    if own in policies.names() and variant in ("", policies.PUBLISHED, *policies.get(own).variants):
        name = policies.title(own, variant or policies.PUBLISHED)
    return name + bracket + rest


def titled(retention: xr.Dataset) -> xr.Dataset:
    """A retention record with the titles of its policies in place of their names, for figures."""
    return retention.assign_coords(policy=[policy_title(str(name)) for name in retention["policy"].values])


def claim_words(claims: Mapping[str, Any]) -> tuple[str, str]:
    """The verdicts on claims 1 and 2 from the attributes of `analysis.trends`; of 2 both readings, if they differ."""
    first, second = str(claims["claim_i"]), str(claims["claim_ii"])
    if claims.get("protocol") == PAPER and claims["claim_ii_absolute"] != claims["claim_ii_ratio"]:
        second = f"{claims['claim_ii_absolute']} as a rise, {claims['claim_ii_ratio']} as a ratio"
    return first, second


def protocol_words(claims: Mapping[str, Any]) -> str:
    """What was compared with what, from the attributes of `analysis.trends`."""
    first, last = claims["first_positions"], claims["last_positions"]
    if claims.get("protocol") != PAPER:
        return f"the last {last} positions over the first {first}"
    start, stop = claims["middle_start"], claims["middle_stop"]
    samples = "1 sample" if claims["samples"] == 1 else f"{claims['samples']} samples"
    return (
        f"positions {stop - last:,} to {stop - 1:,} over {start} to {start + first - 1}, {samples} of "
        f"{claims['tokens']:,} tokens"
    )


def verdict(claims: Mapping[str, Any]) -> str:
    """The sentences under the two claims, from the attributes of `analysis.trends`."""
    if claims.get("protocol") == PAPER:
        return (
            f"The paper's comparison: {protocol_words(claims)}. From one band to the next higher the rise grows by "
            f"{number(claims['absolute_step'], '+.2g')} ({number(claims['absolute_step_low'], '+.2g')} to "
            f"{number(claims['absolute_step_high'], '+.2g')}), and the ratio by the factor "
            f"{number(claims['ratio_step'], '.3f')} ({number(claims['ratio_step_low'], '.3f')} to "
            f"{number(claims['ratio_step_high'], '.3f')}; 95 % intervals). " + FEW_SAMPLES * (claims["samples"] < 5)
        ).rstrip()
    low, high = claims.get("claim_ii_correlation_low"), claims.get("claim_ii_correlation_high")
    between = "" if low is None else f" (95 % interval {number(low, '+.2f')} to {number(high, '+.2f')})"
    return (
        f"Correlation of growth with the order of the bands, from low to high: "
        f"{number(claims['claim_ii_correlation'], '+.2f')}{between}; +1 is perfect order. The band that grows most is "
        f"{claims['claim_ii_top_band']}. "
        + (
            SINKS_APART.format(count=claims["sink_count"])
            if claims.get("sinks", "separate") == "separate"
            else f"The first {claims['sink_count']} tokens were left in the transform and leak into the low bands."
        )
    )


def beyond_words(claims: Mapping[str, Any]) -> str:
    """What holds beyond the paper's comparison, from the attributes of `analysis.trends` to the last token."""
    sinks = "without" if claims.get("sinks", "separate") == "separate" else "with"
    return (
        f"Beyond it, {protocol_words(claims)}, {sinks} the first {claims['sink_count']} tokens: claim (i) "
        f"{claims['claim_i']}, claim (ii) {claims['claim_ii']}, most growth in {claims['claim_ii_top_band']}. There "
        "the tokens just read count, and the sinks can change claim (ii); docs/wavelets.md shows both."
    )


CONTROLS: Final = {
    "cache_size": "Budget",
    "sink_size": "Sinks",
    "recent_size": "Recent",
    "block_size": "Block",
    "max_height": "Height",
}


def by_control(sentence: str) -> str:
    """A sentence about settings, with the names of the dashboard's controls in it."""
    return re.sub("|".join(CONTROLS), lambda found: CONTROLS[found[0]], sentence)


def listed(items: Sequence[object]) -> str:
    """Items as text: "5, 15 and 25"."""
    *most, last = map(str, items)
    return f"{', '.join(most)} and {last}" if most else last


def settings_in_words(config: TreeKVConfig) -> str:
    """One line on what a cache with these settings keeps, and how a prompt is treated."""
    title = config.title
    if config.policy == "full":
        return f"{title}: every token is kept"
    parts = [f"{config.sink_size} sinks", f"{config.recent_size:,} recent"]
    if config.region_size:
        parts.append(f"{config.region_size:,} {'in the tree' if config.policy.startswith('tree') else 'chosen by it'}")
    if config.max_height is not None:
        parts[-1] += f" of height {config.max_height}"
    prompt = {
        "once": "a prompt is read whole and reduced at its end"
        + ", by what coming queries would see" * (config.prompt_score == "future"),
        "stream": f"a prompt is read in blocks of {config.block_size} and reduced after each",
        "none": "a prompt is kept whole",
    }[config.prefill]
    if config.share_heads:
        prompt += ", of which the heads of a layer share what is kept"
    if config.after_prompt == "keep":
        prompt += ", what follows it is kept"
    words = f"{title}: {config.cache_size:,} tokens ({', '.join(parts)}); {prompt}"
    return words if config.positions is None else f"{words}; positions: {config.positions}"


def band_width(band: str, level: int) -> str:
    """The length of a band's half wave in tokens; the lowest band has everything slower."""
    return f"{2**level} and more" if band.startswith("A") else str(2 ** (level - 1))


def band_in_words(band: str) -> str:
    """What a Haar band compares: "D1: adjacent tokens", "A8: 256-token average"; packets have their names only."""
    level = int(band[1:]) if band[1:].isdecimal() else 0
    if not level or band[0] not in "AD":
        return band
    if band[0] == "A":
        return f"{band}: {2**level}-token average"
    return f"{band}: adjacent {f'{2 ** (level - 1)}-token averages' if level > 1 else 'tokens'}"


def number(value: float | None, form: str) -> str:
    """A number in the given format, or a dash for None and NaN."""
    return "-" if value is None or value != value else format(value, form)


def size(number: float) -> str:
    """Bytes as text: 1.2 MB."""
    from analysis.units import format_bytes  # here, since the command line's help loads no analysis

    return format_bytes(number)


def duration(seconds: float) -> str:
    """Seconds as text to estimate by: "20 s", "3 min", "1.5 h"."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def plan_in_words(found: Plan, users: int, context: int, dtype: str) -> str:
    """What `analysis.memory_plan.plan` found, in one sentence."""
    many = f"{users:,} {'request' if users == 1 else 'requests'} of {context:,} tokens"
    if found.config.policy == "full":
        return f"The full cache fits: {many} take {size(users * found.request_bytes)} in {dtype}."
    room = f"{found.users_full:,}" if found.users_full else "none"
    return (
        f"{found.config.cache_size:,} tokens for each layer and KV head ({found.config.title}) are the most with which "
        f"{many} fit: {size(found.request_bytes)} a request in {dtype}, {found.full_bytes / found.request_bytes:.1f} "
        f"times less than the full cache ({size(found.full_bytes)}), with which {room} would fit."
    )


def size_beside(held: float, every: float) -> str:
    """The bytes of a cache beside those of the keys and values of all tokens; it can have room for more of them."""
    if held <= every:
        return f"{size(held)} of {size(every)}"
    return f"{size(held)}, with room for more than the {size(every)} of all tokens so far"
