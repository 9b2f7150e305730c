"""Every page in a real browser at the widths of a tablet and of a desk: nothing is cut off or covered."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from app.dashboard.pages import PAGES
from tests.app.browsing import SECOND, Watched, cut_off


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
    watched.context.close()
    assert found == []
