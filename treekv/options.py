"""Options that only some policies heed: their defaults, and refusals where they would do nothing."""

from __future__ import annotations

from typing import Any, Final

from treekv import policies
from treekv.budgets import is_table, shortened
from treekv.errors import TreeKVError
from treekv.policies.contest import AVERAGE
from treekv.policies.pooling import FORWARD, FORWARD_KERNEL
from treekv.policies.scores import MOVED
from treekv.policies.settings import DERIVED, ENERGY, OPTIONS, Settings

FUTURE_OBSERVATION: Final = 32  # tokens at the end of a prompt that is also scored by its future, as SnapKV has it

#: The values of settings that are names.
CHOICES: Final = {
    "positions": ("rank", "original", "compressed"),
    "prefill": ("once", "stream", "none"),
    "scope_end": ("inside", "clipped"),
    "importance": ("attention", "contribution", "late", "similarity"),
    "after_prompt": ("evict", "keep"),
    "pooling": ("average", "max", "forward"),
    "prompt_score": ("window", "future"),
    "future_reduction": ("sum", ENERGY),
    "aggregation": ("norm_sum", "sum"),
}

#: Options whose default follows from other settings.
DERIVED_OPTIONS: Final = ("kernel_size", "pooling", "interval")


def defaults_of(settings: Settings) -> dict[str, Any]:
    """The default of each option, by its name."""
    policy = policies.get(settings.policy)
    defaults = OPTIONS | dict(policy.defaults(settings.variant).options)
    if "interval" in policy.options:
        defaults["interval"] = policy.default_interval(settings.cache_size)
    if policy.future_by(settings) == MOVED:
        defaults["pooling"] = FORWARD
    if (defaults["pooling"] if settings.pooling is DERIVED else settings.pooling) == FORWARD:
        defaults["kernel_size"] = FORWARD_KERNEL
    return defaults


def default_window(settings: Settings) -> int:
    """The default of `window_size`, once `block_size` is known."""
    policy = policies.get(settings.policy)
    if policy.future_by(settings) == MOVED:
        return FUTURE_OBSERVATION
    return policy.defaults(settings.variant).window_size(settings.block_size)


def check_options(settings: Settings) -> None:
    """Raise a `TreeKVError` for a name that is none of those there are, an option that the policy would ignore, or an
    impossible share or kernel."""
    for field, choices in CHOICES.items():
        value = getattr(settings, field)
        if field == "positions" and value is None:  # which depends on the model
            continue
        if not isinstance(value, str) or value not in choices:
            raise TreeKVError(f"{field} must be one of {', '.join(map(repr, choices))}, got {shortened(value)}")
    if settings.kernel_size % 2 == 0 and settings.pooling != FORWARD:
        raise TreeKVError(f"kernel_size must be odd, so that pooling is centred, got {settings.kernel_size}")
    share = settings.window_share
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < 1:
        raise TreeKVError(
            f"window_share must be a number of at least 0 and below 1, so that slots are left to the tree, got "
            f"{share!r}"
        )
    policy = policies.get(settings.policy)
    for option, default in OPTIONS.items():
        value = getattr(settings, option)
        if value == default or option in policy.heeded(settings):
            continue
        users = [_user(other, option) for other in map(policies.get, policies.names()) if option in other.options]
        raise TreeKVError(
            f"{option} is an option of polic{'ies' if len(users) > 1 else 'y'} {', '.join(users)} and must be "
            f"{default!r} for policy {policy.name!r}, got {value!r}"
        )
    if settings.importance in ("late", "similarity") and policy.by != AVERAGE:
        raise TreeKVError(
            f"importance {settings.importance!r} is an average, which policy {policy.name!r} does not compare by"
        )


def check_prompt(settings: Settings) -> None:
    """Raise a `TreeKVError` where keeping what follows a prompt would change nothing, or there is no prompt; or where
    heads cannot share what they keep of it."""
    policy = policies.get(settings.policy)
    if settings.after_prompt == "keep" and not (
        settings.prefill == "once" and policy.evicts_prompt and policy.evicts_decoding
    ):
        raise TreeKVError(
            "after_prompt 'keep' needs prefill 'once' and a policy that evicts while decoding, got prefill "
            f"{settings.prefill!r} and policy {settings.policy!r}"
        )
    if not isinstance(settings.share_heads, bool):
        raise TreeKVError(f"share_heads must be true or false, got {settings.share_heads!r}")
    if not settings.share_heads:
        return
    if is_table(settings.budgets):
        raise TreeKVError(
            "share_heads lets heads share the capacity of their layer, but budgets give each head its own; leave one "
            "of them out"
        )
    if settings.prefill != "once" or policy.evicts_after(settings):
        raise TreeKVError(
            "share_heads divides what is kept of a prompt that is read in one pass, and needs prefill 'once' and "
            f"after_prompt 'keep', got prefill {settings.prefill!r} and after_prompt {settings.after_prompt!r}"
        )


def _user(policy: policies.Policy, option: str) -> str:
    """A policy with this option, and when it heeds it."""
    return repr(policy.name) + ("" if option in policy.heeded(Settings()) else " with prompt_score 'future'")
