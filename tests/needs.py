"""What a test needs from the machine: without it the test is skipped, but on CI it fails, for there it must be had."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def lacking(sentence: str) -> NoReturn:
    """End the running test: what it needs is not here, as `sentence` says."""
    if os.environ.get("CI"):
        pytest.fail(f"{sentence} (with CI set, this is a failure)", pytrace=False)
    pytest.skip(sentence)
