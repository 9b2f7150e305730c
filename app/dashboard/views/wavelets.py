"""Wavelets: how the contributions of tokens change along the text, band by band."""

from __future__ import annotations

from functools import partial

import streamlit as st

from analysis import plot
from app.dashboard.actions import transform
from app.dashboard.session.messages import plain
from app.dashboard.session.run import current_run, open_spectrum
from app.dashboard.session.view import choose_head, follow, selected_index, selected_stretch
from app.dashboard.widgets.figure import draw_figure, show_stretch
from app.text import captions, wording

run = current_run()

st.title("Wavelets")
with st.expander("Wavelet, boundary and texts", icon=":material/tune:"):
    options = transform.choose_options()
    texts = transform.choose_texts(run)
data, found, beyond, reason = transform.spectrum_and_trends(texts, options)
layer, head = selected_index("layer"), selected_index("head")
tokens = int(data["position"].values[-1]) + 1
start, stop = selected_stretch(tokens)

if found is None:
    st.markdown(plain(reason))
else:
    which = "this text" if len(texts) == 1 else f"these {len(texts)} texts"
    first, second = wording.claim_words(found.attrs)
    st.markdown(
        f"On {which}, over all layers and heads: amplitude grows towards the end in every band: **{first}**; it "
        f"grows most in the highest bands: **{second}**."
    )
    st.caption(wording.verdict(found.attrs))
if found is not None and (layer is not None or head is not None):
    each = next((one for one in (found, beyond) if one is not None and "growth_by_head" in one), found)
    st.markdown(plain(transform.growth_words(each, layer, head)))
if beyond is not None:
    st.caption(wording.beyond_words(beyond.attrs))

draw_figure(
    lambda: plot.spectrum(data, layer=layer, head=head, start=start, stop=stop, spread=len(texts) > 1),
    captions.SPECTRUM,
    key="spectrum",
    zoomable=True,
)
show_stretch(data if len(texts) == 1 else open_spectrum(run))  # a mean has no text; this is the open run's
draw_figure(
    lambda: plot.coefficients(data, layer=layer, head=head, start=start, stop=stop),
    captions.COEFFICIENTS,
    key="coefficients",
    zoomable=True,
)
if data.sizes["sink"]:
    draw_figure(lambda: plot.sinks(data, layer=layer, head=head), captions.SINKS, key="sinks")


@st.fragment
def heads() -> None:
    """Growth of every head in one band; another band redraws only this figure."""
    follow()
    bands = [str(band) for band in data["band"].values][::-1]
    if st.session_state.get("band", bands[0]) not in bands:
        del st.session_state["band"]
    band = st.segmented_control(
        "Band, finest first",
        bands,
        default=bands[0],
        required=True,
        key="band",
        bind="query-params",
        persist_state="session",
    )
    st.caption(wording.band_in_words(band))
    draw_figure(
        lambda: plot.growth_grid(data, band=band), f"{captions.GROWTH} {captions.CLICK}", "growth", on_head=choose_head
    )


st.subheader("Head by head")
heads()
transform.show_need(run)
st.subheader("Evidence for the verdict")
tested = [one for one in (found, beyond) if one is not None]
for number, one in enumerate(tested):
    draw_figure(partial(plot.trends, one), captions.TRENDS, key=f"trends-{number}")
with st.expander("How it is tested"):
    for one in tested:
        st.caption(plain(one.attrs["rules"]))
