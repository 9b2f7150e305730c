"""Settings as the functions that compare them take them: one, a list, or a dictionary of names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError

Settings: TypeAlias = "TreeKVConfig | Sequence[TreeKVConfig] | Mapping[str, TreeKVConfig]"


def by_name(settings: Settings) -> dict[str, TreeKVConfig]:
    """Settings by the name that results give them.

    Without names they are called by their policies, with the cache size where a policy occurs more than once:

    >>> list(by_name(TreeKVConfig(cache_size=128)))
    ['tree']
    >>> list(by_name([TreeKVConfig(cache_size=128), TreeKVConfig(cache_size=256), TreeKVConfig(policy="full")]))
    ['tree 128', 'tree 256', 'full']

    Raises:
        TreeKVError: something else than settings, or two in a list that would have the same name.
    """
    if isinstance(settings, TreeKVConfig):
        return {settings.policy: settings}
    if isinstance(settings, Mapping):
        named, values = dict(settings), list(settings.values())
    elif isinstance(settings, Sequence) and not isinstance(settings, str):
        named, values = {}, list(settings)
    else:
        named, values = {}, [settings]
    for value in values:
        if not isinstance(value, TreeKVConfig):
            raise TreeKVError(f"settings must be TreeKVConfig objects, got {value!r:.60}")
    if isinstance(settings, Mapping):
        return named
    often = Counter(config.policy for config in values)
    names = [
        config.policy if often[config.policy] == 1 else f"{config.policy} {config.cache_size}" for config in values
    ]
    for name, count in Counter(names).items():
        if count > 1:
            raise TreeKVError(f"{count} of the settings would be called {name!r}; pass a dictionary with their names")
    return dict(zip(names, values, strict=True))
