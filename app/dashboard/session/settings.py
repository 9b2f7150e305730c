"""The active configuration and the compared ones, which are kept in the session and in the address."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any, Final

import streamlit as st

from app.dashboard.session.keys import BEFORE, SETTINGS, UNSAVED
from app.dashboard.session.messages import below_root, clause
from app.dashboard.session.run import default_model, find_run
from app.runs import folder as run_folder
from app.runs.folder import RunFolder
from treekv import TreeKVConfig, TreeKVError, shipped
from treekv.resize import changed

CHOSEN, COMPARED = SETTINGS
WRONG: Final = "settings-wrong"  # in the session: what is wrong with those in the address or the run, not said yet
LEAST_COMPARED, MOST_COMPARED = 2, 6  # settings side by side
_LETTERS: Final = "ABCDEF"


# ---------------------------------------------------------------------- one setting in an address


def encode(config: TreeKVConfig) -> str:
    """Settings as text for an address, without defaults: "tree,cache_size=128,prefill=stream"."""
    every = dataclasses.asdict(config)
    named = {name: every.pop(name) for name in ("policy", "cache_size")}
    try:
        default = dataclasses.asdict(TreeKVConfig(**named))
        fields = {name: value for name, value in every.items() if value != default[name]}
        if TreeKVConfig(**named, **fields) != config:  # a default that follows from another field
            fields = every
    except TreeKVError:
        fields = every
    parts = [str(named["policy"]), f"cache_size={named['cache_size']}"]
    parts += [f"{name}={_word(value)}" for name, value in fields.items() if value is not None]
    return ",".join(parts)


def decode(text: str) -> TreeKVConfig:
    """The inverse of `encode`.

    Raises:
        TreeKVError: a part cannot be read, or the settings are invalid.
    """
    policy, *parts = text.split(",")
    known = {field.name: field for field in dataclasses.fields(TreeKVConfig)}
    fields: dict[str, Any] = {"policy": policy}
    for part in parts:
        name, equals, word = part.partition("=")
        if not equals or name not in known or name == "policy":
            raise TreeKVError(
                f"the settings in the address contain {part!r}; give a field and its value, such as sink_size=4"
            )
        fields[name] = _value(word)
    return TreeKVConfig(**fields)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):  # a row of numbers, or rows of them; one alone is followed by its separator
        separator = "_" if any(isinstance(cell, tuple) for cell in value) else "-"
        return separator.join(map(_word, value)) + separator * (len(value) == 1)
    return str(value)


def _value(word: str) -> Any:
    if word in ("true", "false"):
        return word == "true"
    if word.isdecimal():
        return int(word)
    if re.fullmatch(r"\d+(\.\d+)?(e[-+]\d+)?", word):
        return float(word)
    if not re.fullmatch(r"(\d+[-_]+)+\d*", word):
        return word
    rows = tuple(tuple(map(int, row.strip("-").split("-"))) for row in word.strip("_").split("_"))
    return rows if "_" in word else rows[0]


# ---------------------------------------------------------------------- the chosen setting


def current_settings(run: RunFolder | None = None, quiet: bool = False) -> TreeKVConfig:
    """The settings chosen in this session, or else those in the address, those chosen for the run before, those of the
    run, or the paper's defaults.

    The address follows the choice, so that a link contains it. What is wrong with settings from there or from the run
    is said once, on the first page that does not ask to be `quiet`.
    """
    if CHOSEN not in st.session_state:
        asked = _from_address()
        st.session_state[CHOSEN] = asked or _of_run(run)
        st.session_state[f"{CHOSEN}-by-hand"] = asked is not None
    if not quiet and (wrong := st.session_state.pop(WRONG, None)):
        st.warning(wrong)
    config: TreeKVConfig = st.session_state[CHOSEN]
    _to_address(CHOSEN, encode(config))
    return config


def choose_settings(config: TreeKVConfig) -> None:
    """Make these the active configuration, which Generate runs and Export exports, and keep it in the open run."""
    before = st.session_state.get(CHOSEN)
    if before is not None and before != config:
        st.session_state.setdefault(BEFORE, []).append(before)
    _activate(config)


def is_chosen() -> bool:
    """Whether the user, or a link, chose the active settings, and no run keeps them."""
    return bool(st.session_state.get(f"{CHOSEN}-by-hand", CHOSEN in st.query_params))


def undo_choice() -> None:
    """Make those settings active again that were before the last choice."""
    history: list[TreeKVConfig] = st.session_state.get(BEFORE, [])
    if history:
        _activate(history.pop())


def _activate(config: TreeKVConfig) -> None:
    st.session_state[CHOSEN] = config
    _to_address(CHOSEN, encode(config))
    st.session_state[UNSAVED] = ""
    run = find_run()
    st.session_state[f"{CHOSEN}-by-hand"] = run is None  # otherwise it is the run's own, and goes with it
    if run is not None:
        try:
            config.save(run.inside(run_folder.ACTIVE))
        except TreeKVError as error:  # the folder is write-protected, or a link leads out of it
            st.session_state[UNSAVED] = below_root(str(error))


def _from_address() -> TreeKVConfig | None:
    text = st.query_params.get(CHOSEN)
    if text is None:
        return None
    try:
        return decode(text)
    except TreeKVError as error:
        st.session_state[WRONG] = f"The settings in the address cannot be used: {clause(error)}"
        return None


def _of_run(run: RunFolder | None) -> TreeKVConfig:
    if run is None:
        return TreeKVConfig()
    try:
        chosen_before = run.has(run_folder.ACTIVE)
        return TreeKVConfig.load(run.file(run_folder.ACTIVE if chosen_before else run_folder.SETTINGS))
    except TreeKVError as error:
        st.session_state[WRONG] = f"The run's settings cannot be used: {clause(error)}"
        return TreeKVConfig()


def _to_address(name: str, text: str) -> None:
    if st.query_params.get(name) != text:
        st.query_params[name] = text


# ---------------------------------------------------------------------- the settings to compare


def compared_settings(run: RunFolder | None, tokens: int) -> dict[str, TreeKVConfig]:
    """The compared settings by their names in figures: "A TreeKV 128", "B StreamingLLM 128", ..."""
    if COMPARED not in st.session_state:
        asked = _compared_in_address()
        st.session_state[COMPARED] = asked or _to_begin_with(current_settings(run), tokens, run)
        st.session_state[f"{COMPARED}-by-hand"] = asked is not None
    configs: list[TreeKVConfig] = st.session_state[COMPARED]
    _to_address(COMPARED, ";".join(map(encode, configs)))
    return {setting_label(number, config): config for number, config in enumerate(configs)}


def set_compared(configs: list[TreeKVConfig]) -> None:
    """Replace the compared settings; only the first six are kept."""
    st.session_state[COMPARED] = list(configs)[:MOST_COMPARED]
    st.session_state[f"{COMPARED}-by-hand"] = True


def join_compared(config: TreeKVConfig) -> bool:
    """Add these settings to the compared ones, and return whether there was room; those that are there already stay."""
    configs = list(st.session_state.get(COMPARED, []))
    if config not in configs and len(configs) < MOST_COMPARED:
        set_compared([*configs, config])
    return bool(config in st.session_state.get(COMPARED, []))


def sized_name(config: TreeKVConfig) -> str:
    """The name of a setting for readers, with its size: "TreeKV 128", and "smollm2-128", as their file is called, for
    settings that come with TreeKV."""
    size = "" if config.policy == "full" else f" {config.cache_size:,}"
    return _shipped().get(config, f"{config.title}{size}")


def setting_label(number: int, config: TreeKVConfig) -> str:
    """The name of the setting at this index in figures."""
    return f"{_LETTERS[number]} {sized_name(config)}"


@functools.cache
def _shipped() -> dict[TreeKVConfig, str]:
    return {TreeKVConfig.load(name): name for name in shipped.names()}


def _compared_in_address() -> list[TreeKVConfig] | None:
    text = st.query_params.get(COMPARED)
    if text is None:
        return None
    try:
        configs = [decode(part) for part in text.split(";")]
        if not LEAST_COMPARED <= len(configs) <= MOST_COMPARED:
            raise TreeKVError(f"two to six settings can be compared, got {len(configs)}")
        return configs
    except TreeKVError as error:
        st.warning(f"The settings in the address cannot be compared: {clause(error)}")
        return None


def _to_begin_with(config: TreeKVConfig, tokens: int, run: RunFolder | None) -> list[TreeKVConfig]:
    """The active configuration (a tree that fits the text if it would keep all of it), the settings that come with
    TreeKV for the run's model, and others, all of the same size."""
    if config.policy == "full" or config.cache_size >= tokens:
        config = TreeKVConfig(cache_size=max(tokens // 128 * 16, 32))
    plain = as_by_default(config)
    others = [with_changes(plain, policy=name) for name in ("tree", "streaming", "h2o")]
    return [config, *_recommended(run, config), *(other for other in others if other != config)]


def _recommended(run: RunFolder | None, config: TreeKVConfig) -> list[TreeKVConfig]:
    """The settings that come with TreeKV for the run's model and this size, if there are any and they are others."""
    if run is None:
        return []
    name = f"{default_model(run)}-{config.cache_size}"
    if name not in shipped.names():
        return []
    found = TreeKVConfig.load(name)
    return [found] if found != config else []


def as_by_default(config: TreeKVConfig) -> TreeKVConfig:
    """Settings to compare others with: without budgets for layers or heads, and without the neighbours, importance,
    recent tokens and compressed positions that are chosen with them."""
    if not isinstance(config.budgets, tuple):
        return config
    kept = ["cache_size", "prefill", "after_prompt", "seed"] + ["positions"] * (config.positions != "compressed")
    refused = None
    for names in ([*kept, "sink_size", "block_size"], [*kept, "sink_size"], kept):
        try:
            return TreeKVConfig(policy=config.policy, **{name: getattr(config, name) for name in names})
        except TreeKVError as error:
            refused = refused or error
    assert refused is not None
    raise refused


def with_changes(config: TreeKVConfig, **changes: Any) -> TreeKVConfig:
    """`changed`, but block size and recent tokens return to defaults where the old ones no longer fit.

    Raises:
        TreeKVError: the first error, if defaults do not help either.
    """
    if "policy" in changes:
        config = config.for_policy(changes.pop("policy"))
    refused = None
    for relaxed in ({}, {"block_size": None}, {"block_size": None, "recent_size": None}):
        try:
            return changed(config, **(relaxed | changes))
        except TreeKVError as error:
            refused = refused or error
    assert refused is not None
    raise refused
