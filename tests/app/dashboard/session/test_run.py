"""Labels of the policies of a run."""

from __future__ import annotations

from app.dashboard.session.messages import plain
from app.dashboard.session.run import policy_label
from tests.app.conftest import EVIL


def test_labels_of_policies_are_plain_in_an_address_and_never_markdown() -> None:
    assert policy_label("tree (real run)") == "TreeKV (real run)"
    assert policy_label("streaming") == "StreamingLLM"
    for name in ("![x](http://example.invalid)", "- a", "*a*", ":red[a]", EVIL):
        assert policy_label(name) == plain(name)
