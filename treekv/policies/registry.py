"""Policies by name."""

from __future__ import annotations

from treekv.errors import TreeKVError
from treekv.policies.base import Policy

_policies: dict[str, Policy] = {}


def register(policy: Policy) -> None:
    """Make `policy` available as `TreeKVConfig(policy=policy.name)`.

    Raises:
        TreeKVError: it is no `Policy` object, it has no name, or another policy already has that name.
    """
    if not isinstance(policy, Policy):
        raise TreeKVError(f"register_policy takes an object of a subclass of Policy, got {policy!r}")
    name = getattr(policy, "name", None)
    if not isinstance(name, str) or not name:
        raise TreeKVError(f"a policy needs a name, a text of its own, got {name!r} from {type(policy).__name__}")
    if policy.name in _policies:
        raise TreeKVError(f"a policy named {policy.name!r} is registered already; choose another name")
    _policies[policy.name] = policy


def get(name: str) -> Policy:
    """The policy of that name.

    Raises:
        TreeKVError: there is none.
    """
    if not isinstance(name, str) or name not in _policies:
        raise TreeKVError(f"policy must be one of {', '.join(map(repr, _policies))}, got {name!r}")
    return _policies[name]


def names() -> list[str]:
    """All registered names, in the order of registration."""
    return list(_policies)
