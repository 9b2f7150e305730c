"""The settings compared side by side: which one is marked, and the controls that change it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import streamlit as st

from app.dashboard.session.messages import plain
from app.dashboard.session.settings import (
    COMPARED,
    LEAST_COMPARED,
    MOST_COMPARED,
    choose_settings,
    set_compared,
    with_changes,
)
from app.text import wording
from treekv import TreeKVConfig, TreeKVError, policies

STEP: Final = 16  # of the budget, so that prompts divide into blocks
MOST_SINKS: Final = 64
BLOCKS: Final = (1, 2, 4, 8, 16, 32, 64)
HEIGHTS: Final = tuple(range(1, 13))
PREFILLS: Final = {
    "once": "reduced once, after it is read",
    "stream": "reduced block by block",
    "none": "kept whole",
}
# Keys in the session.
EDITED: Final = "edited"  # index of the marked setting
TOGETHER: Final = "together"  # whether sliders change all settings
TAKEN: Final = "taken"  # a setting was chosen, which the page has not confirmed yet
_DRAWN: Final = "drawn-controls"  # by field, the `_Control` that was drawn last
_MOVED: Final = "moved-control"  # (field, index of the setting) of the last change by hand
_REFUSED: Final = "refused-change"  # the error message of the last change


@dataclass(frozen=True)
class Limits:
    """What the controls of one setting can reach, and which of them mean anything to its policy.

    Attributes:
        least, most: the budget's ends, tokens.
        sinks, recent: the most of each, tokens.
        has_sinks, has_recent, has_prefill, has_height: whether the policy has sinks, recent tokens, a choice of when a
            prompt is reduced, and a tree.
    """

    least: int
    most: int
    sinks: int
    recent: int
    has_sinks: bool
    has_recent: bool
    has_prefill: bool
    has_height: bool


class _Control(NamedTuple):
    """A control as it was drawn last: its key and the value that it was given."""

    key: str
    value: object


def limits(config: TreeKVConfig, tokens: int) -> Limits:
    """Limits for a text of `tokens` tokens. Settings from elsewhere may lie outside; controls then show the nearest."""
    return Limits(
        least=STEP,
        most=max(tokens // STEP * STEP, 2 * STEP),
        sinks=max(min(MOST_SINKS, config.cache_size // 2), config.sink_size, 1),
        recent=max(config.cache_size - config.sink_size, config.recent_size, 1),
        has_sinks=has_field(config, "sink_size"),
        has_recent=has_field(config, "recent_size"),
        has_prefill=policies.get(config.policy).evicts_decoding,
        has_height=has_field(config, "max_height"),
    )


def has_field(config: TreeKVConfig, name: str) -> bool:
    """Whether the field `name` means anything to this setting's policy."""
    policy = policies.get(config.policy)
    decodes = policy.evicts_decoding
    if name in policies.OPTIONS:
        return name in policy.options
    if name == "sink_size":
        return decodes
    if name == "recent_size":
        return decodes and config.policy != "streaming"
    return config.policy != "full"


def edit_settings(names: list[str], tokens: int) -> None:
    """Draw the compared settings by name, and the controls of the marked one for a text of `tokens` tokens."""
    configs = _configs()
    if st.session_state.get(EDITED) not in range(len(configs)):
        st.session_state[EDITED] = 0
    st.segmented_control(
        "Settings (the controls below change the selected one)",
        list(range(len(configs))),
        format_func=lambda number: names[number],
        required=True,
        key=EDITED,
        persist_state="session",
    )
    with st.container(border=True):
        _draw_controls(configs[st.session_state[EDITED]], tokens)
        _draw_buttons(len(configs))
    refused = st.session_state.pop(_REFUSED, None)
    if refused is not None:
        st.error(plain(refused))


def _configs() -> list[TreeKVConfig]:
    """A copy of the compared settings, to be changed and given to `set_compared`."""
    return list(st.session_state[COMPARED])


def _draw_controls(config: TreeKVConfig, tokens: int) -> None:
    reach = limits(config, tokens)
    evicts = config.policy != "full"
    variants = policies.get(config.policy).variants
    first, second = st.columns([3, 3, 2]), st.columns(4)
    with first[0]:
        st.selectbox(
            "Eviction policy",
            policies.names(),
            format_func=wording.policy_title,
            **_control("policy", config.policy),
        )
    with first[1]:
        st.selectbox(
            "Prompt handling",
            list(PREFILLS),
            format_func=PREFILLS.__getitem__,
            disabled=not reach.has_prefill,
            **_control("prefill", config.prefill),
        )
    with first[2]:
        if variants:
            st.selectbox(
                "Variant",
                [policies.PUBLISHED, *variants],
                format_func=lambda name: variants[name].title if name in variants else "as published",
                help="Whose default sizes: the method's own, or those that others use it with.",
                **_control("variant", config.variant),
            )
        else:
            st.selectbox(
                "Height",
                [None, *sorted({*HEIGHTS, config.max_height or 1})],
                format_func=lambda height: "no limit" if height is None else str(height),
                placeholder="no limit",
                disabled=not reach.has_height,
                help="How often the far past is thinned before the tree leaves it alone.",
                **_control("max_height", config.max_height),
            )
    with second[0]:
        st.slider(
            "Budget (tokens)",
            reach.least,
            reach.most,
            step=STEP,
            disabled=not evicts,
            **_control("cache_size", min(max(config.cache_size, reach.least), reach.most)),
        )
    with second[1]:
        st.slider(
            "Sinks",
            0,
            reach.sinks,
            disabled=not reach.has_sinks,
            help="The first tokens, which are never evicted.",
            **_control("sink_size", min(config.sink_size, reach.sinks)),
        )
    with second[2]:
        st.slider(
            "Recent",
            0,
            reach.recent,
            disabled=not reach.has_recent,
            help="The last tokens, which are never evicted.",
            **_control("recent_size", min(config.recent_size, reach.recent)),
        )
    with second[3]:
        st.select_slider(
            "Block",
            sorted({*BLOCKS, config.block_size}),
            disabled=not evicts,
            help="How many prompt tokens are processed together.",
            **_control("block_size", config.block_size),
        )


def _draw_buttons(count: int) -> None:
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.toggle(
            "Change all settings together",
            value=True,
            key=TOGETHER,
            persist_state="session",
            width="content",
            help="Budget, sinks, recent and block, for every setting that has them.",
        )
        st.button(
            "Add",
            key="add",
            disabled=count >= MOST_COMPARED,
            on_click=_add,
            help="Adds a copy of the selected setting.",
        )
        st.button(
            "Remove",
            key="remove",
            disabled=count <= LEAST_COMPARED,
            on_click=_remove,
            help="Removes the selected setting.",
        )
        st.button(
            "Use this configuration",
            key="take",
            on_click=_take,
            type="primary",
            help="It becomes the active configuration, which Generate runs and Export exports.",
        )


def _control(name: str, value: object) -> dict[str, Any]:
    """Key and callback of the control of the field `name`, which is to show `value`.

    With every interaction the browser sends the values of all controls, also the outdated values of those that the
    server has changed meanwhile, and these must not pass for moves. So a control whose value was changed by anything
    but itself becomes a new control with a new key, and `_change` ignores values that were not moved by hand.
    """
    drawn: dict[str, _Control] = st.session_state.setdefault(_DRAWN, {})
    key, last = drawn.get(name, _Control(f"edit-{name}-0", value))
    if last != value:
        key = f"edit-{name}-{int(key.rpartition('-')[2]) + 1}"
    drawn[name] = _Control(key, value)
    # A control that is being moved already shows the value; setting it again would undo a further move meanwhile.
    if st.session_state.get(_MOVED) != (name, st.session_state[EDITED]) or st.session_state.get(key) != value:
        st.session_state[key] = value
    return {"key": key, "on_change": _change, "args": (name, key)}


def _change(name: str, key: str) -> None:
    """Put the new value of one control into the marked setting, and into the others where it fits them."""
    edited, value = st.session_state[EDITED], st.session_state[key]
    drawn: dict[str, _Control] = st.session_state[_DRAWN]
    if key != drawn[name].key or value == drawn[name].value:
        return  # an outdated control, or one that was not moved
    drawn[name] = _Control(key, value)
    st.session_state[_MOVED] = name, edited
    configs = _configs()
    try:
        configs[edited] = with_changes(configs[edited], **{name: value})
    except TreeKVError as error:
        st.session_state[_REFUSED] = wording.by_control(str(error))
        return
    if st.session_state.get(TOGETHER, True) and name not in ("policy", "prefill", "max_height", "variant"):
        for number, config in enumerate(configs):
            if number != edited and has_field(config, name):
                try:
                    configs[number] = with_changes(config, **{name: value})
                except TreeKVError:
                    continue  # a value that does not fit this one leaves it as it is
    set_compared(configs)


def _add() -> None:
    configs = _configs()
    set_compared([*configs, configs[st.session_state[EDITED]]])
    st.session_state[EDITED] = len(configs)


def _remove() -> None:
    configs = _configs()
    del configs[st.session_state[EDITED]]
    set_compared(configs)
    st.session_state[EDITED] = 0


def _take() -> None:
    choose_settings(_configs()[st.session_state[EDITED]])
    st.session_state[TAKEN] = True
