"""What the server and the pages both know: the pages, the theme, and where the runs are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from app import DEFAULT_RUN

MAIN: Final = Path(__file__).with_name("main.py")  # the script that Streamlit runs
# How the server's process tells its pages which runs there are and which one to show first.
ROOT_VARIABLE: Final = "TREEKV_RUNS"
RUN_VARIABLE: Final = "TREEKV_RUN"
UPLOAD_MB: Final = 5  # of text: more than a million tokens
# The browser's own preference decides between light and dark, or the reader in the menu.
THEME: Final = {
    "theme.light.primaryColor": "#0b5394",
    "theme.light.secondaryBackgroundColor": "#f5f6f8",
    "theme.light.textColor": "#1f2430",
    "theme.dark.primaryColor": "#3b7cc0",
    "theme.dark.backgroundColor": "#12161d",
    "theme.dark.secondaryBackgroundColor": "#1a202a",
    "theme.dark.textColor": "#e6e9f0",
}
# The pages in the order of the work: the name of the file in `views/` (with - for _ the address), and the title.
PAGES: Final = {
    "start": "Start",
    "wavelets": "Wavelets",
    "eviction_map": "Eviction map",
    "compare": "Compare",
    "generate": "Generate",
    "take_away": "Take away",
    "results": "Results",
}


def runs_root() -> Path:
    """The folder that all runs of this server lie in."""
    return Path(os.environ.get(ROOT_VARIABLE) or DEFAULT_RUN.parent)
