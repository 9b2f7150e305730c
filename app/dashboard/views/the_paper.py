"""The paper: its first three figures, the third first, since it explains the method without a model."""

from __future__ import annotations

import streamlit as st

from app.dashboard.actions import worked_example
from app.dashboard.session.messages import sentence
from treekv import TreeKVError

st.title("The paper")
st.subheader("How TreeKV works (figure 3)")
st.markdown(worked_example.METHOD)
worked_example.check_link()
try:
    steps = worked_example.choose()
except TreeKVError as error:
    st.error(sentence(error))
else:
    worked_example.show(steps, "word")
st.caption(
    "The evictions are those of the real cache, which does the same with tokens, in every head of every layer. The "
    "paper's figure has 17 tokens and a cache of 4, too; its cursor is back at the oldest token at steps 9, 13 and 17. "
    "Here no word is protected; in practice the first and the last tokens are never compared."
)
st.caption(
    "He, Yuan, Bai, Leng, Jiang: TreeKV: Smooth Key-Value Cache Compression with Tree Structures, IJCAI 2025, "
    "arXiv 2501.04987."
)
