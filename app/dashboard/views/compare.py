"""Two to six settings on the same captured text: what each keeps, what each loses, and what is recommended."""

from __future__ import annotations

import streamlit as st

from app.dashboard.actions import compare, recommend
from app.dashboard.actions.compare import FOLLOWS, PICTURES, Comparison, View
from app.dashboard.session.messages import or_stop, plain
from app.dashboard.session.run import current_run
from app.dashboard.session.settings import (
    COMPARED,
    LEAST_COMPARED,
    MOST_COMPARED,
    choose_settings,
    compared_settings,
    current_settings,
    set_compared,
    with_changes,
)
from app.dashboard.session.view import kv_head_of, selected_index, selected_stretch
from app.dashboard.widgets.figure import draw_figure
from app.text import captions, wording
from treekv import TreeKVConfig, TreeKVError, policies

BLOCKS = [1, 2, 4, 8, 16, 32, 64]
PREFILLS = {
    "once": "in one go, at its end",
    "stream": "in blocks, as it comes",
    "none": "not at all",
}
MEMORY = "Memory"  # drawn from sizes alone, the other pictures from a simulation
CONTEXTS = [2**power for power in range(9, 21)]

run = current_run()
capture = or_stop(lambda: compare.capture(run))
current_settings(run)

st.title("Compare")
st.markdown(
    "The same text under several settings: what each would keep and what it would lose, simulated with the cache's own "
    "rules from what the model's attention saw."
)


def editor(names: list[str]) -> None:
    """The settings side by side, one of which the controls change."""
    configs: list[TreeKVConfig] = st.session_state[COMPARED]
    if st.session_state.get("edited") not in range(len(configs)):
        st.session_state["edited"] = 0
    st.segmented_control(
        "Settings; the controls below change the one marked",
        list(range(len(configs))),
        format_func=lambda number: names[number],
        required=True,
        key="edited",
        persist_state="session",
    )
    with st.container(border=True):
        _controls(configs[st.session_state["edited"]])
        _buttons(len(configs))
    said = st.session_state.pop("refused", None)
    if said is not None:
        st.error(plain(said))


def _controls(config: TreeKVConfig) -> None:
    limits = compare.limits(config, capture.tokens)
    values = {
        "policy": config.policy,
        "cache_size": min(max(config.cache_size, limits.least), limits.most),
        "sink_size": min(config.sink_size, limits.sinks),
        "recent_size": min(config.recent_size, limits.recent),
        "block_size": config.block_size,
        "prefill": config.prefill,
    }
    keys = {name: _shown(name, value) for name, value in values.items()}
    first, second = st.columns(2), st.columns(4)
    with first[0]:
        st.selectbox("Who is evicted", policies.names(), format_func=wording.policy_title, key=keys["policy"],
                     on_change=_change, args=("policy", keys["policy"]))  # fmt: skip
    with first[1]:
        st.selectbox("A prompt is reduced", list(PREFILLS), format_func=PREFILLS.__getitem__, key=keys["prefill"],
                     on_change=_change, args=("prefill", keys["prefill"]), disabled=not limits.prefills)  # fmt: skip
    with second[0]:
        st.slider("Budget (tokens)", limits.least, limits.most, step=limits.step, key=keys["cache_size"],
                  on_change=_change, args=("cache_size", keys["cache_size"]),
                  disabled=config.policy == "full")  # fmt: skip
    with second[1]:
        st.slider("Sinks", 0, limits.sinks, key=keys["sink_size"], on_change=_change,
                  args=("sink_size", keys["sink_size"]), disabled=not limits.protects,
                  help="First tokens, never evicted.")  # fmt: skip
    with second[2]:
        st.slider("Recent", 0, limits.recent, key=keys["recent_size"], on_change=_change,
                  args=("recent_size", keys["recent_size"]), disabled=not limits.recents,
                  help="Last tokens, never evicted.")  # fmt: skip
    with second[3]:
        blocks = sorted({*BLOCKS, config.block_size})
        st.select_slider("Block", blocks, key=keys["block_size"], on_change=_change,
                         args=("block_size", keys["block_size"]), disabled=config.policy == "full",
                         help="Tokens of a prompt treated together.")  # fmt: skip


def _buttons(count: int) -> None:
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.toggle("Move all settings at once", value=True, key="together", persist_state="session", width="content",
                  help="Budget, sinks, recent and block, where a setting has them.")  # fmt: skip
        st.button("Add", key="add", disabled=count >= MOST_COMPARED, on_click=_add,
                  help="A copy of the one marked, to be changed.")  # fmt: skip
        st.button("Remove", key="remove", disabled=count <= LEAST_COMPARED, on_click=_remove,
                  help="Takes the one marked away.")  # fmt: skip
        st.button("Take these settings", key="take", on_click=_take, type="primary",
                  help="Generate and Take away then use the ones marked.")  # fmt: skip


def _shown(name: str, value: object) -> str:
    """The key of a control, which shows `value` of the marked setting.

    A browser sends the values of all controls with each move, those that it has not been told of yet as they were
    before, and those that a run showed which the next move cut short as if they were moves. So a control whose value
    was changed by others becomes a new one, and what each was last made to show is kept for `_change`.
    """
    key, last = st.session_state.setdefault("shown", {}).get(name, (f"edit-{name}-0", value))
    if last != value:
        key = f"edit-{name}-{int(key.rpartition('-')[2]) + 1}"
    st.session_state["shown"][name] = key, value
    if st.session_state.get("moved") != (name, st.session_state["edited"]) or st.session_state.get(key) != value:
        st.session_state[key] = value  # to tell the moved one would take it back, should it have moved on meanwhile
    return key


def _change(name: str, key: str) -> None:
    """Put one control's new value into the marked setting, and into the others where it fits them."""
    configs: list[TreeKVConfig] = list(st.session_state[COMPARED])
    edited, value = st.session_state["edited"], st.session_state[key]
    if key != st.session_state["shown"][name][0] or value == st.session_state["shown"][name][1]:
        return  # it is no longer there, or nobody moved it
    st.session_state["shown"][name] = key, value
    st.session_state["moved"] = name, edited
    try:
        configs[edited] = with_changes(configs[edited], **{name: value})
    except TreeKVError as error:
        st.session_state["refused"] = wording.by_control(str(error))
        return
    if st.session_state.get("together", True) and name not in ("policy", "prefill"):
        for number, config in enumerate(configs):
            if number != edited and compare.has(config, name):
                try:
                    configs[number] = with_changes(config, **{name: value})
                except TreeKVError:
                    continue  # it stays as it is
    set_compared(configs)


def _add() -> None:
    configs: list[TreeKVConfig] = list(st.session_state[COMPARED])
    configs.append(configs[st.session_state["edited"]])
    set_compared(configs)
    st.session_state["edited"] = len(configs) - 1


def _remove() -> None:
    configs: list[TreeKVConfig] = list(st.session_state[COMPARED])
    configs.pop(st.session_state["edited"])
    set_compared(configs)
    st.session_state["edited"] = 0


def _take() -> None:
    config = st.session_state[COMPARED][st.session_state["edited"]]
    choose_settings(config)
    st.session_state["taken"] = True


def scope(configs: dict[str, TreeKVConfig]) -> tuple[tuple[int, ...], int]:
    """The layers to simulate and how much of the text is the prompt."""
    left, right = st.columns(2)
    few = compare.few_layers(capture)
    if not {*st.session_state.get("compare_layers", few)} <= set(capture.layers):  # of another run
        del st.session_state["compare_layers"]
    if "compare_layers" not in st.session_state and "compare_layers" not in st.query_params:
        st.session_state["compare_layers"] = few
    if st.session_state.get("compare_prompt", 0) > capture.tokens:
        del st.session_state["compare_prompt"]
        st.session_state["prompt-given"] = False
    st.session_state.setdefault("prompt-given", "compare_prompt" in st.query_params)
    if not st.session_state["prompt-given"]:  # it follows the settings until somebody says what it is
        st.session_state["compare_prompt"] = compare.usual_prompt(configs, capture.tokens)
    with left:
        layers = st.multiselect("Layers to simulate", capture.layers, key="compare_layers", bind="query-params",
                                help="A few answer within a second, all of them take longer.")  # fmt: skip
    with right:
        prompt = st.slider("Of the text, so many tokens are the prompt", 0, capture.tokens,
                           key="compare_prompt", bind="query-params", on_change=_give_prompt,
                           help="The rest comes one token at a time, as when text is generated. At 0 the whole text "
                           "comes so, or in blocks where a setting reads a prompt in blocks.")  # fmt: skip
    if not layers and not st.session_state.get("layers_shown"):  # an address can ask for layers that are not there
        layers = few
        st.warning(f"None of the layers in the address was captured; simulated are {', '.join(map(str, few))}.")
    else:
        st.session_state["layers_shown"] = True
    return tuple(sorted(layers)), int(prompt)


def _give_prompt() -> None:
    st.session_state["prompt-given"] = True


def context() -> tuple[int, int, str]:
    """For which context, batch and type memory is told."""
    columns = st.columns(3)
    with columns[0]:
        length = st.select_slider("Context length (tokens)", CONTEXTS, 32768, key="memory_tokens", bind="query-params",
                                  format_func=lambda n: f"{n:,}")  # fmt: skip
    with columns[1]:
        batch = st.select_slider(
            "Batch (rows)", [1, 2, 4, 8, 16, 32, 64, 128], 1, key="memory_batch", bind="query-params"
        )
    with columns[2]:
        dtype = st.segmented_control(
            "Numbers kept as",
            compare.DTYPES,
            default="bfloat16",
            required=True,
            key="memory_dtype",
            bind="query-params",
        )
    return int(length), int(batch), str(dtype)


@st.fragment
def side_by_side() -> None:
    configs = compared_settings(run, capture.tokens)
    editor(list(configs))
    if st.session_state.pop("taken", False):
        st.toast("Taken: Generate and Take away use these settings now.")
    with st.expander("What is simulated, and for what memory is told"):
        layers, prompt = scope(configs)
        length, batch, dtype = context()
    if not layers:
        st.info("Choose at least one layer to simulate.")
        return
    also = {layer for layer in capture.layers if layer == selected_index("layer")}  # the sidebar's, in pictures only
    shown = tuple(sorted({*layers, *also}))
    found = or_stop(lambda: compare.compare(run, configs, shown, prompt))
    table(found.of(layers), prompt, length, batch, dtype)
    picture = st.segmented_control(
        "Picture", [*PICTURES, MEMORY], default="Maps", required=True, key="picture", bind="query-params"
    )
    if picture == MEMORY:
        draw_figure(
            lambda: compare.memory_figure(capture, configs, length, batch, dtype), captions.MEMORY, key="memory"
        )
        return
    make, reading = PICTURES[picture]
    draw_figure(lambda: make(found, view_of()), f"{reading} {FOLLOWS[picture]}".strip(), key=f"compare-{picture}")


def view_of() -> View:
    """What the sidebar chooses of the pictures that can show a part."""
    head = kv_head_of(selected_index("head"), capture.query_heads, capture.kv_heads)
    start, stop = selected_stretch(capture.tokens)
    return View(selected_index("layer"), head, start, stop)


def table(found: Comparison, prompt: int, length: int, batch: int, dtype: str) -> None:
    rows = compare.rows(capture, found, length, batch, dtype)
    percent = st.column_config.NumberColumn(format="%.1f %%")
    st.dataframe(
        rows,
        hide_index=True,
        width="stretch",
        column_config={"attention retained": percent, "output error": percent},
    )
    for name in compare.untouched(found.configs, prompt):
        st.warning(f"{name} reduces a prompt and nothing else, and {compare.prompt_in_words(prompt)}: it keeps all.")
    st.caption(
        f"{compare.means_in_words(capture, found)} Memory is that of keys and values of "
        f"{len(capture.model_layers)} layers at {length:,} tokens, {batch} {'row' if batch == 1 else 'rows'}, {dtype}."
    )


side_by_side()
recommend.section(run, capture)
compare.reality()
