"""The colour of each policy, the same in every picture; its name and the order of policies are the registry's.

Settings of one policy have its hue, each later one in a figure lighter, so that Compare's A and B stay what they are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

#: By the name in the registry; all are legible on white, and lightened on dark pages with their order kept.
COLOURS: Final = {
    "full": "#5b6372",
    "tree": "#0b5394",
    "tree_left": "#2f7fae",
    "streaming": "#c25700",
    "h2o": "#2e7d32",
    "tova": "#7b3fa0",
    "snapkv": "#b0006d",
    "pyramidkv": "#8c2d62",
    "random": "#7a6240",
    "keydiff": "#00838f",
    "lagkv": "#5d7a00",
    "rkv": "#a61c1c",
    "snapkv_decode": "#c2477f",
    "cur": "#3f51b5",
    "vase": "#00695c",
    "cascade": "#1f6f4a",
    "lacache": "#d32f6e",
    "openvino": "#6b5bd0",
    "expected": "#8f6a00",
}
#: Of policies that users register, and of settings whose names tell of no policy, in their order.
OTHERS: Final = ("#31688e", "#8c510a", "#5a8f29", "#9c3d73", "#1b7f79", "#6c4a9e")
_LIGHTER: Final = 0.3  # of the way to white, for each further setting of the same policy
_MOST_LIGHTER: Final = 2  # steps; what is lighter cannot be seen on white


def policy_of(name: str) -> str | None:
    """The policy that the name of a setting in a figure tells of, such as "B TreeKV 128", "h2o paper" or "tree (real
    run)"; None if it tells of none."""
    from treekv import policies  # here, since it loads torch, and a stored map is drawn without

    plain = re.sub(r"^[A-Z] ", "", name)
    words = {word: policy for policy in policies.names() for word in (policy, policies.title(policy))}
    found = [word for word in words if re.match(rf"{re.escape(word)}(?!\w)", plain, re.IGNORECASE)]
    return words[max(found, key=len)] if found else None


def colours(names: Sequence[str]) -> list[str]:
    """A colour for each of these settings, as "rgb(r, g, b)"."""
    seen: Counter[str] = Counter()
    unknown: list[str] = []
    found = []
    for name in names:
        policy = policy_of(name)
        own = COLOURS.get(policy or "")
        if own is None:
            key = policy or name
            unknown += [] if key in unknown else [key]
            own = OTHERS[unknown.index(key) % len(OTHERS)]
        step = min(seen[policy or name], _MOST_LIGHTER)
        seen[policy or name] += 1
        found.append(_lighter(own, _LIGHTER * step))
    return found


def _lighter(colour: str, share: float) -> str:
    channels = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgb({', '.join(str(round(channel + share * (255 - channel))) for channel in channels)})"
