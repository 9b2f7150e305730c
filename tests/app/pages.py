"""Pages of the dashboard without a browser."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.dashboard.pages import MAIN, ROOT_VARIABLE, RUN_VARIABLE


def page(name: str, run: Path | None, monkeypatch: pytest.MonkeyPatch, **query: str) -> AppTest:
    """The page `views/name.py` on a run, or on none, with an address' parts."""
    if run is None:
        monkeypatch.delenv(RUN_VARIABLE, raising=False)
        monkeypatch.setenv(ROOT_VARIABLE, "no-such-folder")
    else:
        monkeypatch.setenv(RUN_VARIABLE, run.name)
        monkeypatch.setenv(ROOT_VARIABLE, str(run.parent))
    test = AppTest.from_file(str(MAIN), default_timeout=60)
    for key, value in query.items():
        test.query_params[key] = value
    test.run()
    return test.switch_page(f"views/{name}.py").run()


def alternatives(test: AppTest) -> list[str]:
    """The text alternatives of the pictures drawn."""
    assert not test.exception
    return [json.loads(chart.proto.spec)["layout"]["meta"]["alt"] for chart in test.get("plotly_chart")]


def ended(test: AppTest, key: str) -> AppTest:
    """The page after the job kept under `key` has ended."""
    job = test.session_state[key]
    for _ in range(1200):
        if job.ended:
            return test.run()
        time.sleep(0.05)
    raise AssertionError(f"the job {job.title!r} is still {job.state}")


def said(test: AppTest, *kinds: str) -> str:
    """Every sentence of these kinds on the page, of errors if none is named, as a reader sees it."""
    return " ".join(one.value.replace("\\", "") for kind in kinds or ("error",) for one in test.get(kind))
