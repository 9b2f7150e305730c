"""Generate: a real generation with the active configuration, token by token, beside the full cache."""

from __future__ import annotations

from functools import partial

import streamlit as st

from app.dashboard.actions import generate
from app.dashboard.actions.generate import FULL, OURS, Outcome, Request
from app.dashboard.session import jobs
from app.dashboard.session.keys import REAL_TRACE, SIMULATED_TRACE
from app.dashboard.session.messages import or_stop, plain
from app.dashboard.session.run import default_model, end_of_text, find_run, show_run_error
from app.dashboard.session.settings import current_settings
from app.dashboard.widgets.job_progress import show_job
from app.generation import Generation
from app.text import wording

JOB = "generation-job"

run = find_run()
st.title("Generate")
show_run_error()
config = current_settings(run)
st.markdown("The real model continues a prompt with the active configuration, beside the same model with a full cache.")
st.caption(f"Active configuration: {plain(wording.settings_in_words(config))}. Change it on the page Compare.")


def request_form() -> Request | None:
    """The form, and what it asks for once its button is pressed."""
    with st.form("prompt-form", border=True):
        prompt = st.text_area(
            "Prompt",
            value=_first_prompt(),
            height=180,
            max_chars=generate.MOST_PROMPT,
            key="generate-prompt",
            persist_state="session",
        )
        columns = st.columns(3)
        with columns[0]:
            model = st.text_input(
                "Model",
                value=default_model(run),
                key="generate-model",
                persist_state="session",
                help=wording.MODEL_HELP,
            )
        with columns[1]:
            tokens = st.slider("New tokens, at most", 8, 512, 64, 8, key="generate-tokens", persist_state="session")
        with columns[2]:
            temperature = st.slider(
                "Temperature",
                0.0,
                2.0,
                0.0,
                0.1,
                key="generate-temperature",
                persist_state="session",
                help="At 0 the most likely token is taken each time.",
            )
        beside = st.toggle("Run the full cache too", value=True, key="generate-beside", persist_state="session")
        simulate = st.toggle(
            "Simulate the same text, to compare with the real run",
            value=True,
            key="generate-simulate",
            persist_state="session",
        )
        if not st.form_submit_button("Generate", type="primary"):
            return None
    return Request(model.strip(), prompt, config, int(tokens), float(temperature), beside, simulate)


def _first_prompt() -> str:
    """The end of the run's text, as a prompt to start with."""
    return "" if run is None else end_of_text(run, generate.first_prompt_tokens(config))


def streaming(job: jobs.Job[Outcome]) -> None:
    """The texts as they are generated, how fast, and the size of the cache so far."""
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
                    f"{pace.tokens:,} tokens, {rate} per second; {wording.size(pace.cache_bytes)} of keys and values"
                )


def side_by_side(results: dict[str, Generation]) -> None:
    """The texts with their numbers below them."""
    for column, (name, result) in zip(st.columns(len(results)), results.items(), strict=True):
        with column:
            st.markdown(f"**{name.capitalize()}**")
            st.code(result.text or "…", language=None, wrap_lines=True)
    for column, result in zip(st.columns(len(results)), results.values(), strict=True):
        with column:  # in a row of their own, so that they line up whatever the lengths of the texts
            numbers(result)


def finished(outcome: Outcome) -> None:
    """The texts, their numbers, and where they diverge."""
    made = wording.settings_in_words(outcome.request.config)
    if outcome.request.config != config:
        st.warning(f"These texts were generated with other settings than those chosen now: {plain(made)}.")
    if outcome.results:
        side_by_side(outcome.results)
    if outcome.positions:
        st.caption(f"Positions of kept tokens: {plain(outcome.positions)}.")
    if len(outcome.results) == 2:
        divergence(outcome)
    if outcome.real is not None:
        st.info(where_the_record_is(outcome))
    if outcome.note:
        st.caption(plain(outcome.note))


def where_the_record_is(outcome: Outcome) -> str:
    """Where to look at the record of the generation."""
    if run is None:
        return "Open or make a run on the page Start; the page Eviction map then shows this generation too."
    words = "The page Eviction map shows this generation as one more policy"
    return f"{words}; Compare shows how its simulation differs." if outcome.simulated is not None else f"{words}."


def numbers(result: Generation) -> None:
    """What one generation took."""
    cells = [
        ("Tokens per second", wording.number(result.tokens_per_second, ".1f")),
        ("Prompt", f"{wording.number(result.prompt_seconds, '.2f')} s"),
        (f"Keys and values, {result.dtype}", wording.size(result.cache_bytes)),
        ("Tokens kept", f"{result.kept_tokens:,}"),
    ]
    for start in (0, 2):
        for column, (label, value) in zip(st.columns(2), cells[start : start + 2], strict=True):
            column.metric(label, value)
    st.caption(
        f"{result.prompt_tokens:,} prompt tokens and {len(result.token_ids):,} new ones"
        + (", stopped" if result.stopped else "")
        + "."
    )


def divergence(outcome: Outcome) -> None:
    """The first token at which the two texts differ, and both continuations from there."""
    st.subheader("First difference")
    ours = outcome.results[OURS]
    count = len(ours.token_ids)
    asked = outcome.request.config
    if asked.policy != "full" and generate.evicted_nothing(ours):
        st.info(
            f"None is possible: all {ours.kept_tokens:,} tokens fit the budget of {asked.cache_size:,}, so none was "
            "evicted. Use a longer prompt to see a difference."
        )
        return
    if outcome.equal is None:
        st.markdown(f"None: all {count:,} tokens are equal.")
        return
    st.markdown(f"The first {outcome.equal:,} tokens are equal; from there on:")
    for column, name in zip(st.columns(2), (OURS, FULL), strict=True):
        with column:
            st.caption(name.capitalize())
            st.code(outcome.continuations[name] or "(ends here)", language=None, wrap_lines=True)


def submitted(request: Request) -> jobs.Job[Outcome]:
    return or_stop(lambda: jobs.submit(jobs.owner(), "Generation", lambda job: generate.work(job, request)))


request = request_form()
if request is not None:
    st.session_state[JOB] = submitted(request)
job: jobs.Job[Outcome] | None = st.session_state.get(JOB)
if job is not None:
    show_job(job, partial(streaming, job))
    if job.ended and job.result is not None:
        outcome = job.result
        if outcome.real is not None:
            st.session_state[REAL_TRACE] = outcome.real
            st.session_state[SIMULATED_TRACE] = outcome.simulated
        finished(outcome)
else:
    st.info("Nothing generated yet. Press Generate, and the texts appear here token by token.")
