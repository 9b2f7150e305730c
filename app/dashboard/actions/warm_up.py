"""Imports what the pages need, and makes a first figure, which loads the parts of plotly."""

from __future__ import annotations

from analysis import plot
from app.dashboard.actions import compare, new_run, recommend, take_away, transform, worked_example

__all__ = ["compare", "new_run", "recommend", "take_away", "transform"]

plot.worked_example(worked_example.example(), step=worked_example.FIRST).to_json()
