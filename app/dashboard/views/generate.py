"""A real generation with the chosen settings, token by token, beside the full cache."""

from __future__ import annotations

from functools import partial

import streamlit as st

from app.dashboard.actions import generate
from app.dashboard.actions.generate import FULL, OURS, Outcome, Request
from app.dashboard.session import jobs
from app.dashboard.session.messages import or_stop, plain
from app.dashboard.session.run import end_of_text, find_run
from app.dashboard.session.settings import current_settings
from app.dashboard.widgets.job_progress import show_job
from app.generation import Generation
from app.text import wording

JOB = "generation-job"
TIMES, MOST_TOKENS = 3, 768  # the first prompt in cache sizes, and what a reader waits for

run = find_run()
st.title("Generate")
if st.session_state.get("run_error"):
    st.error(plain(st.session_state["run_error"]))
config = current_settings(run)
st.markdown(
    "A prompt, continued by the real model with the settings you chose, beside the same model with a full cache."
)
st.caption(f"Chosen: {plain(wording.settings_in_words(config))}. The page Compare changes this.")


def asked() -> Request | None:
    """The form; what was asked for when its button is pressed."""
    with st.form("prompt-form", border=True):
        prompt = st.text_area(
            "Prompt",
            value=_beginning(),
            height=180,
            max_chars=generate.MOST_PROMPT,
            key="generate-prompt",
            persist_state="session",
        )
        columns = st.columns(3)
        with columns[0]:
            named = (
                "smollm2"
                if run is None
                else generate.model_of(str(run.manifest.get("load") or run.manifest.get("model", "")))
            )
            model = st.text_input("Model", value=named, key="generate-model", persist_state="session",
                                  help="An alias such as smollm2, a local folder, or a hub id.")  # fmt: skip
        with columns[1]:
            tokens = st.slider("New tokens at most", 8, 512, 64, 8, key="generate-tokens", persist_state="session")
        with columns[2]:
            temperature = st.slider("Temperature", 0.0, 2.0, 0.0, 0.1, key="generate-temperature",
                                    persist_state="session", help="0 takes the likeliest token each time.")  # fmt: skip
        beside = st.toggle("Also with the full cache", value=True, key="generate-beside", persist_state="session")
        simulate = st.toggle(
            "Lay the simulation of this text over the run", value=True, key="generate-simulate", persist_state="session"
        )
        if not st.form_submit_button("Generate", type="primary"):
            return None
    return Request(model.strip(), prompt, config, int(tokens), float(temperature), beside, simulate)


def _beginning() -> str:
    """The end of the run's text as a prompt to begin with, where it can be longer than the cache: something has to
    go if there is to be something to see."""
    return "" if run is None else end_of_text(run, min(TIMES * config.cache_size, MOST_TOKENS))


def streaming(job: jobs.Job[Outcome]) -> None:
    """The texts as they come, how fast, and what the cache holds by then."""
    names = [OURS, FULL] if any(name == FULL for name, _ in job.events) else [OURS]
    for column, name in zip(st.columns(len(names)), names, strict=True):
        with column:
            st.markdown(f"**{name.capitalize()}**")
            text = "".join(piece for by, piece in list(job.events) if by == name and isinstance(piece, str))
            st.code(text or "…", language=None, wrap_lines=True)
            pace = next(
                (event for by, event in reversed(list(job.events)) if by == name and not isinstance(event, str)), None
            )
            if pace is not None:
                rate = wording.number(pace.tokens_per_second, ".1f")
                st.caption(
                    f"{pace.tokens:,} tokens, {rate} a second; {wording.size(pace.cache_bytes)} of keys and values"
                )


def side_by_side(results: dict[str, Generation]) -> None:
    """The texts and their figures."""
    for column, (name, result) in zip(st.columns(len(results)), results.items(), strict=True):
        with column:
            st.markdown(f"**{name.capitalize()}**")
            st.code(result.text or "…", language=None, wrap_lines=True)
    for column, result in zip(st.columns(len(results)), results.values(), strict=True):
        with column:  # a row of their own, so that they stand side by side whatever the texts' lengths
            numbers(result)


def finished(outcome: Outcome) -> None:
    """The texts, their figures, and where they part."""
    made = wording.settings_in_words(outcome.request.config)
    if outcome.request.config != config:
        st.warning(f"These texts were made with other settings than those chosen now: {plain(made)}.")
    if outcome.results:
        side_by_side(outcome.results)
    if len(outcome.results) == 2:
        parting(outcome)
    if outcome.real is not None:
        st.info(where_it_is(outcome))
    if outcome.note:
        st.caption(plain(outcome.note))


def where_it_is(outcome: Outcome) -> str:
    """Where the record of the run can be looked at."""
    if run is None:
        return "Open or make a run on the page Start: the record of this generation is then on the page Eviction map."
    words = "The record of this generation is on the page Eviction map, as one more policy"
    return f"{words}; Compare lays its simulation over it." if outcome.simulated is not None else f"{words}."


def numbers(result: Generation) -> None:
    """What one generation took."""
    cells = [
        ("Tokens a second", wording.number(result.tokens_per_second, ".1f")),
        ("Prompt", f"{wording.number(result.prompt_seconds, '.2f')} s"),
        ("Keys and values", wording.size(result.cache_bytes)),
        ("Tokens held", f"{result.kept_tokens:,}"),
    ]
    for start in (0, 2):
        for column, (label, value) in zip(st.columns(2), cells[start : start + 2], strict=True):
            column.metric(label, value)
    st.caption(
        f"{result.prompt_tokens:,} prompt tokens and {len(result.token_ids):,} new ones"
        + (", stopped" if result.stopped else "")
        + "."
    )


def parting(outcome: Outcome) -> None:
    """Where the two texts part, in words and in their own."""
    st.subheader("Where the texts part")
    ours = outcome.results[OURS]
    count = len(ours.token_ids)
    asked = outcome.request.config
    if asked.policy != "full" and generate.nothing_went(ours):
        st.info(
            f"They could not: of {ours.kept_tokens:,} tokens none had to go with a budget of {asked.cache_size:,}. A "
            "longer prompt shows what is lost."
        )
        return
    if outcome.equal is None:
        st.markdown(f"They do not: all {count:,} tokens are the same.")
        return
    st.markdown(f"The first {outcome.equal:,} tokens are the same; from there on:")
    for column, name in zip(st.columns(2), (OURS, FULL), strict=True):
        with column:
            st.caption(name.capitalize())
            st.code(outcome.parts[name] or "(ends here)", language=None, wrap_lines=True)


def submitted(request: Request) -> jobs.Job[Outcome]:
    return or_stop(lambda: jobs.submit(jobs.owner(), "Generation", lambda job: generate.work(job, request)))


request = asked()
if request is not None:
    st.session_state[JOB] = submitted(request)
job: jobs.Job[Outcome] | None = st.session_state.get(JOB)
if job is not None:
    show_job(job, partial(streaming, job))
    if job.ended and job.result is not None:
        outcome = job.result
        if outcome.real is not None:
            st.session_state["real_trace"] = outcome.real
            st.session_state["simulated_trace"] = outcome.simulated
        finished(outcome)
else:
    st.info("Nothing generated yet: press Generate, and the texts appear here as they come.")
