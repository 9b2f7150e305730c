"""Start: what the open run keeps, other runs, and the form of a new one.

The picture comes first, from the run's own files; what loads torch and transformers is imported below it.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable

import streamlit as st

from app.dashboard.actions import first_picture
from app.dashboard.pages import FIRST_PICTURE, PAGES, load_libraries, runs_root
from app.dashboard.session.keys import RUN_ERROR
from app.dashboard.session.messages import plain, sentence
from app.dashboard.session.run import close_run, find_run, open_run, show_run_error
from app.runs import folder as run_folder
from app.runs.folder import RunFolder
from app.text import wording
from treekv import TreeKVError

REFUSED = "refused-change-of-runs"  # in the session: why a run was not renamed or deleted
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
    ("generate", "**Generate**: the real model with the active configuration beside the full cache, token by token."),
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


def form() -> None:
    """The form of a new run, whose libraries take seconds to load the first time."""
    st.subheader("New run")
    if not runs and run is None:
        st.info("There is no run yet. Make one here: the sample text takes about half a minute.")
    with st.spinner("Loading the model libraries"):
        load_libraries()
        from app.dashboard.actions import new_run
        from app.dashboard.widgets import active
    with st.sidebar:
        active.show(run)
    new_run.make()


st.title("TreeKV")
show_run_error()
run = find_run()
made = st.session_state.get("made")
if run is not None and made and run.path.name in made:  # kept: another run of the page must not hide it
    several = f"{len(made)} runs were made. One is open; Wavelets shows the mean of those of one length."
    st.success("The run was made and is open." if len(made) == 1 else several)
st.page_link("views/the_paper.py", label="How TreeKV works, in a minute", icon=":material/school:")
runs = run_folder.recent(runs_root())
# Side by side on a wide page; on a narrow one the form comes below the picture.
half = "[data-testid=stLayoutWrapper]:has(> [class*=st-key-home-])"
st.html(f"<style>{half}{{min-width: min(21rem, 100%)}}</style>")
row = st.container(horizontal=True, gap="large")
picture, new = (row.container(key=f"home-{name}", width="stretch") for name in ("picture", "new"))
with picture:
    if not st.session_state[RUN_ERROR]:  # a run that cannot be opened is no reason for the example
        first_picture.draw(run)
    if run is not None:
        opened(run)
FIRST_PICTURE.set()
if runs:
    st.subheader("Recent runs")
    recent(runs)
tour()
with new:  # last, for what it needs takes longest to load, and the page ends where the form is refused
    form()
