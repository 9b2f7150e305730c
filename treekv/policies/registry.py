"""Policies by name."""

from __future__ import annotations

from treekv.errors import TreeKVError
from treekv.policies.base import Policy
from treekv.policies.settings import OPTIONS, Settings
from treekv.policies.variants import PUBLISHED

_policies: dict[str, Policy] = {}


def register(policy: Policy, *, replace: bool = False) -> None:
    """Make `policy` available as `TreeKVConfig(policy=policy.name)`.

    With `replace`, a policy that already has this name is replaced, as when a notebook cell runs again.

    Raises:
        TreeKVError: it is no `Policy` object, it has no name, it names an option that does not exist or that it
            does not support, it evicts while decoding without a rule, or another policy already has that name.
    """
    if not isinstance(policy, Policy):
        raise TreeKVError(f"register_policy takes an object of a subclass of Policy, got {policy!r}")
    name = getattr(policy, "name", None)
    if not isinstance(name, str) or not name:
        raise TreeKVError(f"a policy needs a name, a text of its own, got {name!r} from {type(policy).__name__}")
    for option in policy.options:
        if option not in OPTIONS:
            raise TreeKVError(f"policy {name!r} names the option {option!r}; options are {', '.join(OPTIONS)}")
    if policy.variants and "variant" not in policy.options:
        raise TreeKVError(f"policy {name!r} has variants, so its options must list 'variant'")
    if policy.evicts_decoding and policy.has_contest and not policy.defines_contest:
        raise TreeKVError(f"policy {name!r} evicts while decoding, but defines neither contest() nor evict()")
    if "share_heads" in policy.options and (type(policy).competing is Policy.competing or policy.reads_contents):
        raise TreeKVError(
            f"policy {name!r} has the option 'share_heads', so it must define competing(), and may not read contents"
        )
    if name in _policies and not replace:
        raise TreeKVError(f"a policy named {name!r} is registered already; choose another name, or pass replace=True")
    _policies[name] = policy


def unregister(name: str) -> None:
    """Remove the policy of that name.

    Raises:
        TreeKVError: there is none.
    """
    get(name)
    del _policies[name]


def get(name: str) -> Policy:
    """The policy of that name.

    Raises:
        TreeKVError: there is none.
    """
    if not isinstance(name, str) or name not in _policies:
        raise TreeKVError(f"policy must be one of {', '.join(map(repr, _policies))}, got {name!r}")
    return _policies[name]


def of(settings: Settings) -> Policy:
    """The policy that runs under these settings.

    Raises:
        TreeKVError: there is none of that name.
    """
    return get(settings.policy).acting(settings)


def names() -> list[str]:
    """All registered names, in the order of registration."""
    return list(_policies)


def title(name: str, variant: str = PUBLISHED) -> str:
    """The name of a policy for readers, such as "StreamingLLM" or, in a variant, "H2O, paper's allocation".

    Raises:
        TreeKVError: there is no policy of that name, or it has no such variant.
    """
    policy = get(name)
    policy.defaults(variant)  # raises for an unknown variant
    own = policy.title or name
    return own if variant == PUBLISHED else f"{own}, {policy.variants[variant].title}"
