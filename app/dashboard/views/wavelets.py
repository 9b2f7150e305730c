"""How the tokens' contributions change along the text, band by band."""

from __future__ import annotations

import streamlit as st

from analysis import plot
from app.dashboard.actions import transform
from app.dashboard.session import run as run_state
from app.text import wording

run = run_state.current_run()

st.title("Wavelets")
with st.expander("Wavelet and boundary", icon=":material/tune:"):
    chosen = transform.choose()
data, found = transform.spectrum_and_trends(run, chosen)
layer, head = run_state.chosen("layer"), run_state.chosen("head")
tokens = int(data["position"].values[-1]) + 1
start, stop = run_state.stretch(tokens)

st.markdown(
    f"On this text, over all layers and heads: amplitude grows towards the end in every band: "
    f"**{found.attrs['claim_i']}**; it grows most in the highest bands: **{found.attrs['claim_ii']}**."
)
st.caption(wording.verdict(found.attrs))

run_state.draw(
    lambda: plot.spectrum(data, layer, head, start, stop), wording.READ_SPECTRUM, key="spectrum", zoomable=True
)
run_state.show_stretch(data)
run_state.draw(
    lambda: plot.coefficients(data, layer, head, start, stop),
    wording.READ_COEFFICIENTS,
    key="coefficients",
    zoomable=True,
)
if data.sizes["sink"]:
    run_state.draw(lambda: plot.sinks(data, layer, head), wording.READ_SINKS, key="sinks")


@st.fragment
def heads() -> None:
    """Another band draws this picture alone."""
    bands = [str(band) for band in data["band"].values][::-1]
    if st.session_state.get("band", bands[0]) not in bands:
        del st.session_state["band"]
    band = st.segmented_control(
        "Band, fine first",
        bands,
        default=bands[0],
        required=True,
        key="band",
        bind="query-params",
        persist_state="session",
    )
    run_state.draw(lambda: plot.growth_grid(data, band), wording.READ_GROWTH, key="growth")


st.subheader("Head by head")
heads()
st.subheader("What the verdict rests on")
run_state.draw(lambda: plot.trends(found), wording.READ_TRENDS, key="trends")
with st.expander("How it is tested"):
    st.caption(run_state.plain(found.attrs["rules"]))
