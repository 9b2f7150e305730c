"""Every page in a real browser at the widths of a tablet and of a desk: nothing is cut off or covered."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from app.dashboard.pages import PAGES
from tests.app.browsing import SECOND, Watched, cut_off, drawn


@pytest.mark.parametrize("width", [800, 1440])
def test_nothing_is_cut_off(width: int, dashboard: str, browser: Browser) -> None:
    watched, found = Watched(browser), []
    page = watched.page
    page.set_viewport_size({"width": width, "height": 1600})
    for name, title in PAGES.items():
        page.goto(f"{dashboard}/{'' if name == 'start' else name.replace('_', '-')}?run=small")
        page.get_by_role("heading", level=1).first.wait_for(timeout=120 * SECOND)
        watched.settle()
        page.wait_for_timeout(SECOND)
        found += [f"{title}: {what}" for what in cut_off(page)]
    for address, figures in (("compare?picture=Agreement", 1), ("eviction-map?view=All+heads&phrase=w1", 2)):
        page.goto(f"{dashboard}/{address}&run=small")
        drawn(page, figures)
        watched.settle()
        found += [f"{address}: {what}" for what in cut_off(page)]
    watched.context.close()
    assert found == []


def test_a_legend_stays_below_its_axis_when_the_window_is_widened(dashboard: str, watched: Watched) -> None:
    page = watched.page
    page.set_viewport_size({"width": 800, "height": 1600})
    page.goto(f"{dashboard}/wavelets?run=small")
    drawn(page, 7)
    figure = page.locator(".js-plotly-plot").first
    for width in (800, 1440, 1000):
        page.set_viewport_size({"width": width, "height": 1600})
        page.wait_for_timeout(2 * SECOND)
        axis, legend, whole = (
            figure.locator(part).first.bounding_box() for part in (".xtitle", ".legend", ".svg-container")
        )
        assert axis and legend and whole
        assert axis["y"] + axis["height"] <= legend["y"], width
        assert legend["y"] + legend["height"] <= whole["y"] + whole["height"], width
