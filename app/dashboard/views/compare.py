"""Compare: two to six settings on the same captured text, what each keeps and loses, and a recommendation."""

from __future__ import annotations

import streamlit as st

from analysis import plot
from analysis.memory_size import DTYPES
from analysis.prediction.needles import LEAST_TOKENS
from app.dashboard.actions import budget_curve, compare, losses, plan, recommend, table
from app.dashboard.actions.compare import PICTURES, Comparison, View
from app.dashboard.session.keys import PROMPT_GIVEN
from app.dashboard.session.messages import or_stop, plain
from app.dashboard.session.run import current_run, open_capture
from app.dashboard.session.settings import compared_settings, current_settings
from app.dashboard.session.view import kv_head_of, selected_index, selected_stretch
from app.dashboard.widgets.figure import MOST_SHOWN, draw_figure, draw_text
from app.dashboard.widgets.job_progress import show_job
from app.dashboard.widgets.settings_editor import TAKEN, edit_settings
from app.text import captions, wording
from treekv import TreeKVConfig, TreeKVError

MEMORY = "Memory"  # computed from sizes alone, the other figures from a simulation
CONTEXTS = [2**power for power in range(9, 21)]
BATCHES = [2**power for power in range(8)]
# Keys in the session, the first two also in the address.
LAYERS, PROMPT = "compare_layers", "compare_prompt"
LOSS_JOB, LAYERS_JOB = "loss-job", "layers-job"  # what each was asked for, and the job
HIDDEN_NUMBERS = (
    "Puts eight numbers into the text, reads it as a prompt with each setting, and asks for each of them: with the "
    "question in the prompt, and after the text was compressed without it."
)
LAYERS_SHOWN = "layers_shown"  # layers of this run were simulated once: what the address asked for was said

run = current_run()
captured = or_stop(lambda: open_capture(run))
current_settings(run)

st.title("Compare")
st.markdown(
    "The same text under several settings: the loss that each would cost, predicted by the model under what each would "
    "keep, simulated with the cache's own eviction rules on the queries and keys of the captured model."
)


def choose_layers_and_prompt(configs: dict[str, TreeKVConfig]) -> tuple[tuple[int, ...], int]:
    """The layers to simulate, and how many tokens of the text are the prompt."""
    left, right = st.columns(2)
    default = list(captured.layers)
    if not {*st.session_state.get(LAYERS, default)} <= set(captured.layers):  # of another run
        del st.session_state[LAYERS]
    if LAYERS not in st.session_state and LAYERS not in st.query_params:
        st.session_state[LAYERS] = default
    if st.session_state.get(PROMPT, 0) > captured.tokens:
        del st.session_state[PROMPT]
        st.session_state[PROMPT_GIVEN] = False
    st.session_state.setdefault(PROMPT_GIVEN, PROMPT in st.query_params)
    if not st.session_state[PROMPT_GIVEN]:
        st.session_state[PROMPT] = compare.default_prompt(configs, captured.tokens)
    with left:
        layers = st.multiselect(
            "Layers to simulate",
            captured.layers,
            key=LAYERS,
            bind="query-params",
            placeholder="all",
            help="Three of them are simulated at once, and the others in the background.",
        )
    with right:
        prompt = st.slider(
            "Prompt length (tokens of the text)",
            0,
            captured.tokens,
            key=PROMPT,
            bind="query-params",
            on_change=_mark_prompt_given,
            help="The rest of the text is read one token at a time, as in generation. At 0 the whole text is, or in "
            "blocks by settings that read a prompt in blocks.",
        )
    asked = st.query_params.get_all(LAYERS)
    if not layers and asked and not st.session_state.get(LAYERS_SHOWN):  # for layers that are not there
        st.warning(f"None of the layers in the address was captured; layers {wording.listed(default)} are simulated.")
    st.session_state[LAYERS_SHOWN] = True
    # Empty means all: a run of the page that another interrupts can leave the browser without a selection.
    layers = layers or default
    return tuple(sorted(layers)), int(prompt)


def _mark_prompt_given() -> None:
    st.session_state[PROMPT_GIVEN] = True


def choose_memory_context() -> tuple[int, int, str]:
    """The context length, batch size and dtype for which memory is computed."""
    columns = st.columns(3)
    with columns[0]:
        length = st.select_slider(
            "Context length (tokens)",
            CONTEXTS,
            32768,
            key="memory_tokens",
            bind="query-params",
            format_func=lambda n: f"{n:,}",
        )
    with columns[1]:
        batch = st.select_slider("Batch size", BATCHES, 1, key="memory_batch", bind="query-params")
    with columns[2]:
        dtype = st.segmented_control(
            "Data type of the cache",
            DTYPES,
            default="bfloat16",
            required=True,
            key="memory_dtype",
            bind="query-params",
        )
    return int(length), int(batch), str(dtype)


@st.fragment
def side_by_side() -> None:
    """The editor, the table and one figure; a change of any control redraws only these."""
    configs = compared_settings(run, captured.tokens)
    edit_settings(list(configs), captured.tokens)
    if st.session_state.pop(TAKEN, False):
        st.toast("It is the active configuration now: Generate and Export use it.")
    with st.expander("Simulated layers, prompt, and the context for memory"):
        layers, prompt = choose_layers_and_prompt(configs)
        length, batch, dtype = choose_memory_context()
    view = current_view()
    shown = layers_so_far(configs, layers, prompt)
    found = or_stop(lambda: compare.simulate(run, configs, shown, prompt))
    above = st.container()
    draw_table(found, prompt, length, batch, dtype)
    if shown != layers:
        with above:  # asked for after the losses, which decide
            simulate_others(configs, layers, shown, prompt)
    where_the_loss_rises(found, prompt)
    name = st.segmented_control(
        "Figure", [*PICTURES, MEMORY], default="Maps", required=True, key="picture", bind="query-params"
    )
    if name == MEMORY:
        draw_figure(
            lambda: compare.memory_figure(captured, configs, length, batch, dtype), captions.MEMORY, key="memory"
        )
        return
    picture = PICTURES[name]
    if picture.of_view and view.layer is not None and view.layer not in shown:
        # Simulated for this figure alone.
        found = or_stop(lambda: compare.simulate(run, configs, (int(view.layer or 0),), prompt))
        st.caption(f"Layer {view.layer}, which the sidebar selects, is drawn; the table does not count it.")
    draw_figure(
        lambda: picture.draw(found, view), f"{picture.caption} {picture.follows}".strip(), key=f"compare-{name}"
    )


def layers_so_far(configs: dict[str, TreeKVConfig], layers: tuple[int, ...], prompt: int) -> tuple[int, ...]:
    """The layers to show now: all that were asked for once they are simulated, which a job does, a few until then."""
    few = tuple(compare.few_of(layers))
    known = len(few) == len(layers) or or_stop(lambda: compare.is_known(run, configs, layers, prompt))
    return layers if known else few


def simulate_others(
    configs: dict[str, TreeKVConfig], layers: tuple[int, ...], few: tuple[int, ...], prompt: int
) -> None:
    """Start the job that simulates all layers, and show its progress."""
    key = (str(run.path), prompt, layers, *map(str, configs.values()))
    asked = st.session_state.get(LAYERS_JOB)
    # Results of a job that is done are no longer there if other sessions have simulated much since.
    if asked is None or asked[0] != key or asked[1].state == "done":
        if asked is not None:
            asked[1].stop()
        try:
            asked = st.session_state[LAYERS_JOB] = (key, compare.ask(run, configs, layers, prompt))
        except TreeKVError as error:  # too many jobs
            st.caption(str(error))
            return
    if not asked[1].ended:
        st.info(
            f"So far over layers {wording.listed(few)}; the table is replaced when all {len(layers)} are simulated.",
            icon=":material/hourglass_top:",
        )
    show_job(asked[1])


def where_the_loss_rises(found: Comparison, prompt: int) -> None:
    """The text by the loss that one of the settings adds, and its most costly evictions."""
    kinds: list[losses.Kind] = ["measured", "predicted"]
    for kind in kinds:
        known = losses.Question(run, prompt, kind).known(found.configs)
        if losses.FULL in known and len(known) > 1:
            break
    else:
        return
    with st.expander("Where the loss rises"):
        names = [name for name in known if name != losses.FULL]
        name = st.selectbox("Settings", names, key="hurting") or names[0]
        start, stop = selected_stretch(captured.tokens)
        joined = losses.joined(known)
        first, last = int(joined["position"].values[0]), int(joined["position"].values[-1]) + 1
        start = max(start or first, first)
        stop = min(stop or last, start + MOST_SHOWN)
        if start >= stop:
            st.caption("The selected stretch has no losses.")
            return
        draw_text(lambda: plot.text_loss(joined, policy=name, start=start, stop=stop), captions.TEXT_LOSS, "loss")
        sentences = compare.most_costly(run, captured, found, name, prompt)
        if sentences:
            st.markdown("**Most costly evictions**, by what they would have cost had nothing else been evicted:")
            for sentence in sentences:
                st.markdown(f"- {plain(sentence)}")


def current_view() -> View:
    """What the sidebar selects, for the figures that can show a part."""
    head = kv_head_of(selected_index("head"), captured.query_heads, captured.kv_heads)
    start, stop = selected_stretch(captured.tokens)
    return View(selected_index("layer"), head, start, stop)


def find_losses(configs: dict[str, TreeKVConfig], prompt: int) -> None:
    """Predict the losses that are not known yet, in the background; measure them when asked."""
    reason = losses.why_not(run, captured, prompt)
    if reason:
        st.caption(reason)
        return
    predicted, measured = (losses.Question(run, prompt, kind) for kind in ("predicted", "measured"))
    asked = st.session_state.get(LOSS_JOB)
    key = (str(run.path), prompt, *map(str, configs.values()))
    if (asked is None or asked[0] != key) and {losses.FULL, *configs} - {*predicted.known(configs)}:
        asked = losses.ask_anew(LOSS_JOB, key, predicted, configs)
        if asked is None:
            return
    others = losses.of_another_tab(run)
    running = others is not None or (asked is not None and not asked[1].ended)
    buttons = st.container(horizontal=True)
    if {losses.FULL, *configs} - {*measured.known(configs)} and buttons.button(
        "Measure the loss", disabled=running, help="Streams the text through a real cache of each setting."
    ):
        asked = st.session_state[LOSS_JOB] = (key, or_stop(lambda: losses.ask(measured, configs)))
    needles = losses.Question(run, prompt, "needles")
    missing = prompt >= LEAST_TOKENS and {losses.FULL, *configs} - {*needles.known(configs)}
    if missing and buttons.button("Hide numbers and ask", disabled=running, help=HIDDEN_NUMBERS):
        asked = st.session_state[LOSS_JOB] = (key, or_stop(lambda: losses.ask(needles, configs)))
    if asked is not None and asked[0] == key:
        show_job(asked[1])
    if others is not None:
        st.caption("Asked for in another tab, which may be closed:")
        show_job(others)


def draw_table(found: Comparison, prompt: int, length: int, batch: int, dtype: str) -> None:
    known = losses.by_kind(run, prompt, found.configs)
    every, taken = or_stop(lambda: compare.rows(captured, found, length, batch, dtype))
    every = table.with_losses(every, known)
    hidden = losses.Question(run, prompt, "needles").known(found.configs)
    if losses.FULL in hidden and len(hidden) > 1:
        every = table.with_needles(every, hidden)
    rows, equal = table.folded(every)
    table.draw(rows)
    context = f"{length:,} tokens, batch size {batch}, {dtype}"
    words = f"Marked: the best of each column. {equal} "
    if known:
        entry = next(iter(known.values()))[losses.FULL]
        words += (
            f"Loss in nats a token, computed in {entry.dtype}; the full cache has {entry.loss:.3f}. Choose by loss; "
            "attention and output error only describe what is kept. "
        )
    st.caption(
        f"{words}{compare.describe_means(captured, found)} Memory is that of the keys and values of "
        f"{len(captured.model_layers)} layers at {context}."
    )
    left, right = st.columns([4, 1], vertical_alignment="center")
    with left:
        find_losses(found.configs, prompt)
    right.download_button(
        "CSV", table.csv(every, taken), "settings.csv", "text/csv", key="table-csv", on_click="ignore", width="stretch"
    )
    for name in compare.without_eviction(found.configs, prompt):
        st.warning(f"{name} only reduces prompts, and {compare.describe_prompt(prompt)}: it keeps everything.")


side_by_side()
recommend.section(run, captured)
plan.section(run, captured)
st.fragment(budget_curve.section)(run, captured, compared_settings(run, captured.tokens))
compare.draw_reality_check()
