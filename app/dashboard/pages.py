"""What the server and the pages share: the list of pages, the theme, and the folder of runs."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final

from app import DEFAULT_RUN

MAIN: Final = Path(__file__).with_name("main.py")  # the script that Streamlit runs
LIGHT: Final = "app.dashboard.actions.first_picture"  # the module that draws the first picture
WARM: Final = "app.dashboard.actions.warm_up"  # the module that imports what all pages need, torch among it
# Set when a page has drawn its first picture: until then nothing is imported in the background.
FIRST_PICTURE: Final = threading.Event()
# Environment variables by which the server passes to its pages the folder of runs and the run to show first.
ROOT_VARIABLE: Final = "TREEKV_RUNS"
RUN_VARIABLE: Final = "TREEKV_RUN"
UPLOAD_MB: Final = 5  # of text: more than a million tokens
# Light or dark follows the browser's preference, unless the user selects one in the menu.
THEME: Final = {
    "theme.light.primaryColor": "#0b5394",
    "theme.light.secondaryBackgroundColor": "#f5f6f8",
    "theme.light.textColor": "#1f2430",
    "theme.dark.primaryColor": "#3b7cc0",
    "theme.dark.backgroundColor": "#12161d",
    "theme.dark.secondaryBackgroundColor": "#1a202a",
    "theme.dark.textColor": "#e6e9f0",
}
# The pages in the order of the work: the file in `views/` (its address has - for _), and the title.
PAGES: Final = {
    "start": "Start",
    "the_paper": "The paper",
    "wavelets": "Wavelets",
    "eviction_map": "Eviction map",
    "compare": "Compare",
    "generate": "Generate",
    "take_away": "Export",
    "results": "Results",
}


_LOADING = threading.Lock()


def load_libraries() -> None:
    """Import transformers, in one thread at a time; called before anything that imports it.

    It puts another module in its place while it is imported. A thread that imports names from it meanwhile is left with
    the first one, which lacks most of them.
    """
    with _LOADING:
        import transformers  # noqa: F401


def runs_root() -> Path:
    """The folder that contains all runs of this server."""
    return Path(os.environ.get(ROOT_VARIABLE) or DEFAULT_RUN.parent)
