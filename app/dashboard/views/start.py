"""Start: open a run, or make one from a text and a model."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import streamlit as st

from analysis import plot
from app.dashboard.actions import make_run, worked_example
from app.dashboard.actions.make_run import RunRequest
from app.dashboard.pages import PAGES, UPLOAD_MB, runs_root
from app.dashboard.session import jobs, loaded_model
from app.dashboard.session.keys import RUN_ERROR
from app.dashboard.session.messages import or_stop, plain, sentence
from app.dashboard.session.run import close_run, find_run, open_retention, open_run, policies_of, show_run_error
from app.dashboard.widgets.figure import draw_figure, draw_text
from app.dashboard.widgets.job_progress import show_job
from app.runs import folder as run_folder
from app.runs.folder import RunFolder
from app.runs.sample_text import sample_text
from app.text import captions, wording
from app.text.inputs import uploaded_text
from treekv import TreeKVError

SAMPLE, PASTE, UPLOAD = "Sample", "Paste", "Upload"
SAMPLE_TITLE = "Python's own language reference"
SHOWN_TOKENS = 160  # of the end of the open run's text
AUTOMATIC = "Automatic"
REFUSED = "refused-change-of-runs"  # in the session: why a run was not renamed or deleted
GRADIENTS = {AUTOMATIC: None, "Capture": True, "Leave out": False}
NEEDED = {
    run_folder.SPECTRUM: "Wavelets",
    run_folder.TRENDS: "the verdict on Wavelets",
    run_folder.RETENTION: "Eviction map",
    run_folder.CAPTURE: "Compare and other wavelets",
}
TOUR = (
    ("the_paper", "**The paper**: how TreeKV decides what goes, on one sentence, and the paper's figures."),
    (
        "wavelets",
        "**Wavelets**: how much each stretch of the text contributes, and at which scale. Where fine bands grow "
        "towards the end, the distant past can be kept coarsely.",
    ),
    (
        "eviction_map",
        "**Eviction map**: which tokens a policy keeps at each step. Press Play to watch the past thin out.",
    ),
    ("compare", "**Compare**: several settings side by side on the same text, and a recommendation."),
    ("generate", "**Generate**: the real model with the chosen settings beside the full cache, token by token."),
    ("take_away", "**Export**: the settings as a file, a script and a command, with figures and a report."),
)


def tour() -> None:
    with st.expander("A two-minute tour", expanded=find_run() is None, icon=":material/tour:"):
        st.markdown(
            "A language model stores keys and values of every token it has read, and this key-value cache fills the "
            "memory of the machine. An eviction policy drops some tokens to keep it small. Here you see which ones, "
            "before you deploy it."
        )
        for number, (page, words) in enumerate(TOUR, start=1):
            text, link = st.columns([4, 1.8], vertical_alignment="center")  # wide enough for the names on a narrow page
            text.markdown(f"{number}. {words}")
            link.page_link(f"views/{page}.py", label=PAGES[page], icon=":material/arrow_forward:")


def opened(run: RunFolder) -> None:
    text, claims = run.manifest.get("text", {}), run.manifest.get("claims", {})
    with st.container(border=True):
        st.markdown(
            f"**Open: {plain(run.path.name)}**  \n{plain(str(run.manifest.get('model', 'unknown')))} · "
            f"{plain(str(text.get('title', 'unknown')))} · {text.get('tokens', 0):,} tokens"
        )
        if claims:
            st.caption(
                f"Contributions grow towards the end in every band: {plain(str(claims.get('i')))}; "
                f"most in the highest bands: {plain(str(claims.get('ii')))}."
            )
        missing = [f"{name} (for {what})" for name, what in NEEDED.items() if not run.has(name)]
        if missing:
            st.warning(f"This run lacks {plain(', '.join(missing))}; the other pages work.")


def visit() -> None:
    """What there is without any run: the form to make one, figure 3 of the paper, and the tour."""
    # Side by side on a wide page; on a narrow one the figure comes below the form.
    half = "[data-testid=stLayoutWrapper]:has(> [class*=st-key-visit-])"
    st.html(f"<style>{half}{{min-width: min(26rem, 100%)}}</style>")
    row = st.container(horizontal=True, gap="large")
    form, method = (row.container(key=f"visit-{name}", width="stretch") for name in ("form", "method"))
    tour()
    with method:
        st.subheader("How TreeKV works")
        st.markdown(worked_example.METHOD)
        worked_example.show(worked_example.example(), "example", linked=False)
        st.page_link("views/the_paper.py", label="With your own sentence", icon=":material/arrow_forward:")
    with form:  # last, for the page ends where the form is refused
        st.subheader("New run")
        st.info("There is no run yet. Make one here: the sample text takes about half a minute.")
        make()


def recent(runs: list[RunFolder]) -> None:
    refused = st.session_state.pop(REFUSED, None)
    if refused is not None:
        st.error(refused)
    for run in runs:
        text = run.manifest.get("text", {})
        when = datetime.datetime.fromtimestamp((run.path / run_folder.MANIFEST).stat().st_mtime)
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(
                f"**{plain(run.path.name)}**  \n{plain(str(run.manifest.get('model', 'unknown')))} "
                f"· {plain(str(text.get('title', 'unknown text')))} · {text.get('tokens', 0):,} tokens · "
                f"{when:%d %b %Y, %H:%M} · {wording.size(run_folder.size(run))}",
                width="stretch",
            )
            st.button(
                "Open",
                key=f"open-{run.path.name}",
                on_click=open_run,
                args=(run.path.name,),
                width="content",
                help=f"Open {plain(run.path.name)}",
            )
            with st.popover("", icon=":material/more_vert:", help=f"Rename or delete {plain(run.path.name)}"):
                manage(run.path.name)


def manage(name: str) -> None:
    """A new name for a run, and a button that deletes it."""
    st.text_input("New name", name, key=f"name-{name}")
    st.button("Rename", key=f"rename-{name}", on_click=rename, args=(name,), width="stretch")
    st.button(
        "Delete for good",
        key=f"delete-{name}",
        on_click=delete,
        args=(name,),
        icon=":material/delete:",
        width="stretch",
    )


def rename(name: str) -> None:
    new = str(st.session_state[f"name-{name}"]).strip()
    if new == name:
        return
    refused = changed(lambda: run_folder.rename(runs_root(), name, new))
    if not refused and st.session_state.get("run") == name:
        st.session_state["run"] = st.query_params["run"] = new


def delete(name: str) -> None:
    refused = changed(lambda: run_folder.delete(runs_root(), name))
    if not refused and st.session_state.get("run") == name:
        close_run()


def changed(work: Callable[[], None]) -> bool:
    """Do it, and keep why it is refused for the page to say; returns whether it was."""
    try:
        work()
    except TreeKVError as error:
        st.session_state[REFUSED] = sentence(error)
        return True
    return False


def chosen_text() -> tuple[str, str, str]:
    """Title, text, and what is wrong with an uploaded file, in one sentence; empty if nothing is."""
    source = st.segmented_control(
        "Text", [SAMPLE, PASTE, UPLOAD], default=SAMPLE, required=True, key="source", persist_state="session"
    )
    if source == SAMPLE:
        st.caption("English prose that comes with every Python: its language reference.")
        return SAMPLE_TITLE, sample_text(), ""
    if source == PASTE:
        return "Pasted text", st.text_area("Your text", key="pasted", height=180, persist_state="session") or "", ""
    # Of any kind, so that the page says what is wrong with the others; a browser's own list would hide them.
    file = st.file_uploader(f"A text file, at most {UPLOAD_MB} MB", key="uploaded", max_upload_size=UPLOAD_MB)
    if file is None:
        return "", "", ""
    try:
        return file.name, uploaded_text(file.getvalue(), repr(file.name)), ""
    except TreeKVError as error:
        return file.name, "", str(error)


def request_form() -> tuple[RunRequest, str]:
    """What the form asks for, and what is wrong with its text, in one sentence; empty if nothing is."""
    model = st.selectbox(
        "Model",
        make_run.model_names(),
        format_func=make_run.model_title,
        accept_new_options=True,
        key="model",
        persist_state="session",
        help="An installed model; or enter a local folder, a GGUF file or a hub id such as owner/model. Code from "
        "model repositories is never run.",
    )
    title, text, wrong = chosen_text()
    if wrong:
        st.error(sentence(wrong))
    left, right = st.columns(2)
    tokens = left.number_input(
        "Tokens",
        value=1024,
        step=256,
        key="tokens",
        persist_state="session",
        help="Use at most this many tokens of the text.",
    )
    cache_size = right.number_input(
        "Budget",
        value=64,
        step=16,
        key="budget",
        persist_state="session",
        help="How many tokens each policy keeps, per layer and KV head.",
    )
    policies = st.multiselect(
        "Policies",
        make_run.policy_names(),
        default=["tree", "streaming"],
        format_func=wording.policy_title,
        key="simulated",
        persist_state="session",
    )
    choice = st.segmented_control(
        "Gradients of the loss",
        list(GRADIENTS),
        default=AUTOMATIC,
        required=True,
        key="sensitivity",
        persist_state="session",
        help="One backward pass says what each head and token is worth; the recommendation needs it. It takes a few "
        "times as long as reading the text. Automatic: for models of at most a billion parameters.",
    )
    with st.expander("More"):
        layers = st.text_input("Layers", key="layers", placeholder="all; or 0,5,10-12", persist_state="session")
        short = "sample" if title == SAMPLE_TITLE else Path(title).stem or "text"
        suggested = make_run.free_name(runs_root(), model or "", short, int(tokens))
        name = st.text_input("Name of the run", key="run_name", placeholder=suggested, persist_state="session")
    request = RunRequest(
        name or suggested,
        model or "",
        title,
        text,
        int(tokens),
        layers or "",
        int(cache_size),
        tuple(policies),
        GRADIENTS[str(choice)],
    )
    return request, wrong


def forget_failed() -> None:
    """Drop a job that has failed or was stopped when another run is asked for, with its message."""
    job = st.session_state.get("making")
    if job is not None and job.ended:
        del st.session_state["making"]


def make() -> None:
    job = st.session_state.get("making")
    if job is not None and job.state == "done":
        del st.session_state["making"]
        st.session_state["made"] = job.result
        open_run(job.result)
        st.rerun()
    if job is not None:
        show_job(job)
        if not job.ended:
            st.caption("You can use other pages meanwhile; closing the tab stops the job.")
            return
    request, wrong = request_form()
    expected = make_run.estimate(request, run_folder.recent(runs_root()))
    if expected:
        st.caption(plain(expected))
    if st.button("Make the run", type="primary", width="stretch", on_click=forget_failed, disabled=bool(wrong)):
        or_stop(lambda: make_run.check(request, runs_root()))
        root = runs_root()
        st.session_state.pop("made", None)
        st.session_state["making"] = or_stop(
            lambda: jobs.submit(
                jobs.owner(), f"Making {request.name}", lambda job: make_run.make(request, root, loaded_model.get, job)
            )
        )
        st.rerun()


def home(run: RunFolder | None, runs: list[RunFolder]) -> None:
    """What the open run keeps, as a picture and as text, with the form for another run beside it; then the runs."""
    # Side by side on a wide page; on a narrow one the form comes below the picture.
    half = "[data-testid=stLayoutWrapper]:has(> [class*=st-key-home-])"
    st.html(f"<style>{half}{{min-width: min(24rem, 100%)}}</style>")
    row = st.container(horizontal=True, gap="large")
    picture, new = (row.container(key=f"home-{name}", width="stretch") for name in ("picture", "new"))
    st.subheader("Recent runs")
    recent(runs)
    tour()
    with picture:
        if run is not None:
            opened(run)
        if not st.session_state[RUN_ERROR]:  # a run that cannot be opened is no reason for the example
            draw_run(run)
    with new:  # last, for the page ends where the form is refused
        st.subheader("New run")
        make()


def draw_run(run: RunFolder | None) -> None:
    """The eviction map of the run's first policy and the end of its text; without a run, the example."""
    try:
        if run is None:
            raise TreeKVError("no run is open")
        record = open_retention(run, stop=False)
    except TreeKVError:
        worked_example.show(worked_example.example(), "example", linked=False)
        return
    retention, name = wording.titled(record), wording.policy_title(policies_of(record)[0])
    tokens = int(record.attrs["steps"])
    draw_figure(
        lambda: plot.eviction_map(retention, policy=name).update_layout(height=460, yaxis_title_text="step, downwards"),
        captions.EVICTION_MAP,
        "start-map",
    )
    if "token" in retention.coords:
        first = max(tokens - SHOWN_TOKENS, 0)
        draw_text(lambda: plot.text_retention(retention, policy=name, start=first), captions.TEXT)
    st.page_link("views/eviction_map.py", label="Step by step", icon=":material/arrow_forward:")


st.title("TreeKV")
show_run_error()
run = find_run()
if run is not None and st.session_state.get("made") == run.path.name:  # kept: another run of the page must not hide it
    st.success("The run was made and is open.")
st.page_link("views/the_paper.py", label="How TreeKV works, in a minute", icon=":material/school:")
runs = run_folder.recent(runs_root())
if runs or run is not None:
    home(run, runs)
else:
    visit()
