"""Messages never become markdown and never show the server's paths."""

from __future__ import annotations

import pytest

from app.dashboard.pages import ROOT_VARIABLE
from app.dashboard.session.messages import below_root, plain
from tests.app.conftest import EVIL


def test_file_names_and_texts_are_never_markdown() -> None:
    escaped = plain(f"![x](http://example.invalid/a.png) {EVIL} *b* `c` $d$")
    assert escaped.count("\\") == sum(escaped.count(mark) for mark in "![]():/.<>-*`$") - escaped.count("/")
    assert "![" not in escaped
    assert "](" not in escaped
    assert "<b" not in escaped.replace("\\<", "")


@pytest.mark.parametrize(
    ("root", "text", "after"),
    [
        ("/srv/runs", "file '/srv/runs/demo/a.nc' is damaged", "file 'demo/a.nc' is damaged"),
        ("/srv/runs", "cannot write to '/srv/runs': full", "cannot write to 'runs': full"),
        ("/", "there is no model '/models/a'", "there is no model '/models/a'"),
    ],
)
def test_paths_begin_at_the_folder_of_runs(monkeypatch: pytest.MonkeyPatch, root: str, text: str, after: str) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, root)
    assert below_root(text) == after
