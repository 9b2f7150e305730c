"""Pages of the dashboard without a browser."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

from app.dashboard.pages import MAIN, ROOT_VARIABLE, RUN_VARIABLE

START, WAVELETS, EVICTION_MAP = "views/start.py", "views/wavelets.py", "views/eviction_map.py"


def opened(
    run: Path | None,
    monkeypatch: pytest.MonkeyPatch,
    page: str | None = None,
    /,
    root: Path | None = None,
    **query: str | list[str],
) -> AppTest:
    """A page (the first when None) of a dashboard that was started on `run`, or on no run and the folder `root`."""
    if run is None:
        monkeypatch.delenv(RUN_VARIABLE, raising=False)
        monkeypatch.setenv(ROOT_VARIABLE, str(root or "no-such-folder"))
    else:
        monkeypatch.setenv(RUN_VARIABLE, run.name)
        monkeypatch.setenv(ROOT_VARIABLE, str(run.parent))
    test = AppTest.from_file(str(MAIN), default_timeout=60)
    for name, value in query.items():
        test.query_params[name] = value
    if page is not None:
        # Straight to the page, by what Streamlit makes of its address: Start draws pictures of its own.
        test._page_hash = calc_hash(Path(page).stem.replace("_", "-"))
    return test.run()


def page(name: str, run: Path | None, monkeypatch: pytest.MonkeyPatch, **query: str) -> AppTest:
    """The page `views/name.py` on a run, or on none, with these parts of the address."""
    return opened(run, monkeypatch, f"views/{name}.py", **query)


def zoomed(run: Path, monkeypatch: pytest.MonkeyPatch, page: str, first: int, last: int, **query: str) -> AppTest:
    """A page with a stretch of positions selected."""
    test = opened(run, monkeypatch, **query)
    test.session_state["positions"] = (first, last)
    return test.switch_page(page).run()


def figures(test: AppTest) -> list[dict]:
    """The figures drawn, as plotly's JSON."""
    assert not test.exception
    return [json.loads(chart.proto.spec) for chart in test.get("plotly_chart")]


def alternatives(test: AppTest) -> list[str]:
    """The text alternatives of the figures drawn."""
    return [figure["layout"]["meta"]["alt"] for figure in figures(test)]


def ended(test: AppTest, key: str) -> AppTest:
    """The page after the job kept under `key`, alone or after what it was asked for, has ended."""
    kept = test.session_state[key]
    job = kept[-1] if isinstance(kept, tuple) else kept
    for _ in range(1200):
        if job.ended:
            return test.run()
        time.sleep(0.05)
    raise AssertionError(f"the job {job.title!r} is still {job.state}")


def said(test: AppTest, *kinds: str) -> str:
    """Every sentence of these kinds on the page, of errors if none is named, as a reader sees it."""
    return " ".join(one.value.replace("\\", "") for kind in kinds or ("error",) for one in test.get(kind))


def sheets(test) -> list[str]:
    assert not test.exception
    return [sheet.proto.body for sheet in test.get("html") if not sheet.proto.body.startswith("<style>")]


# 400 words that the tiny tokenizer has.
TEXT = " ".join(f"w{number % 90 + 2}" for number in range(400))
