"""How the tokens' contributions change along the text, band by band."""

from __future__ import annotations

import streamlit as st

from analysis import plot
from app import wording
from app.dashboard import run_state

run = run_state.current_run()
data = run_state.spectrum(run)
claims = run_state.trends(run).attrs
layer, head = run_state.chosen("layer"), run_state.chosen("head")

st.title("Wavelets")
st.markdown(
    f"On this text, over all layers and heads: amplitude grows towards the end in every band: "
    f"**{claims['claim_i']}**; it grows most in the highest bands: **{claims['claim_ii']}**."
)
run_state.draw(lambda: plot.spectrum(data, layer, head), wording.READ_SPECTRUM, key="spectrum")
run_state.draw(lambda: plot.coefficients(data, layer, head), wording.READ_COEFFICIENTS, key="coefficients")
