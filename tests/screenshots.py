"""Screenshots of every page of the dashboard, narrow and wide, light and dark.

    treekv demo --tokens 1024 --output treekv-runs/demo
    python -m tests.screenshots treekv-runs/demo --output artifacts/pages
    python -m tests.screenshots treekv-runs/demo --documentation          # those of docs/images

Each is also checked for what cannot be read: tables and text that are cut off.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import urllib.parse
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from app.dashboard.pages import PAGES
from tests.app.browsing import ROOT, SECOND, SETTLED, Watched, chromium, cut_off, served

WIDTHS = (1440, 800)
SCHEMES = ("light", "dark")
COLOURS = 256  # of an image; more are not seen, and take twice the bytes
SCALE = {1440: 0.6, 800: 0.8}  # of the images as they are kept, so that all of them stay small
TALLEST = 2400  # pixels of a page; what follows is like what is above it
# docs/images: the address of each, the height in pixels and whether it is dark; 1180 wide.
DOCUMENTED = {
    "start": ("?", 1000, False),
    "the-paper": ("the-paper?", 1024, False),
    "wavelets": ("wavelets?", 1450, False),
    "eviction-map": ("eviction-map?step=720&", 1350, False),
    "compare": ("compare?", 1420, False),
    "compare-dark": ("compare?", 1420, True),
    "generate": ("generate?", 1150, False),
    "export": ("take-away?", 1150, False),
}


def address(name: str) -> str:
    """The path of the page `views/name.py`."""
    return "" if name == "start" else name.replace("_", "-")


def settled(page: Page, tall: bool = True) -> None:
    """Wait until the page rests and its jobs have ended, and make the window as tall as the page."""
    page.wait_for_timeout(SECOND)
    page.wait_for_selector(SETTLED, timeout=240 * SECOND)
    stop = page.get_by_test_id("stMainBlockContainer").get_by_role("button", name="Stop", exact=True)
    stop.first.wait_for(state="detached", timeout=600 * SECOND)
    page.wait_for_selector(SETTLED, timeout=240 * SECOND)
    # What the browser has not loaded the code of yet.
    page.wait_for_function("!document.querySelector('[data-testid=stSkeleton]')", timeout=240 * SECOND)
    if tall:
        content = page.get_by_test_id("stMainBlockContainer").bounding_box()
        size = page.viewport_size
        assert content is not None and size is not None
        page.set_viewport_size({"width": size["width"], "height": min(max(900, round(content["height"])), TALLEST)})
    page.wait_for_timeout(1.5 * SECOND)


def shoot(page: Page, file: Path, scale: float = 1.0) -> None:
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    if scale != 1.0:
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    file.parent.mkdir(parents=True, exist_ok=True)
    image.quantize(COLOURS, Image.Quantize.MEDIANCUT, kmeans=3, dither=Image.Dither.NONE).save(file, optimize=True)


def every_page(run: Path, folder: Path, only: list[str]) -> list[str]:
    """Write all of them into `folder`; returns what is cut off, one line each."""
    found = []
    with tempfile.TemporaryDirectory() as place, chromium() as browser, served(run, Path(place)) as server:
        for scheme in SCHEMES:
            for width in WIDTHS:
                watched = Watched(browser, scheme=scheme)
                for name in only:
                    watched.page.set_viewport_size({"width": width, "height": 900})
                    watched.page.goto(f"{server}/{address(name)}?{urllib.parse.urlencode({'run': run.name})}")
                    settled(watched.page)
                    shoot(watched.page, folder / f"{name.replace('_', '-')}-{width}-{scheme}.png", SCALE[width])
                    found += [f"{name}, {width} px: {what}" for what in cut_off(watched.page)]
                    print(f"{name} {width} {scheme}", flush=True)
                watched.context.close()
    return list(dict.fromkeys(found))


def documentation(run: Path, folder: Path) -> None:
    """Write those that the documents show."""
    with tempfile.TemporaryDirectory() as place, chromium() as browser, served(run, Path(place)) as server:
        for name, (path, height, dark) in DOCUMENTED.items():
            watched = Watched(browser, scheme="dark" if dark else "light")
            watched.page.set_viewport_size({"width": 1180, "height": height})
            watched.page.goto(f"{server}/{path}{urllib.parse.urlencode({'run': run.name})}")
            settled(watched.page, tall=False)
            if name == "generate":
                watched.page.get_by_role("button", name="Generate", exact=True).click()
                settled(watched.page, tall=False)
            shoot(watched.page, folder / f"{name}.png")
            print(name, flush=True)
            watched.context.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder of the demo")
    parser.add_argument("--output", type=Path, default=ROOT / "artifacts" / "pages")
    parser.add_argument("--pages", nargs="*", default=list(PAGES), choices=list(PAGES))
    parser.add_argument("--documentation", action="store_true", help="write those of docs/images instead")
    given = parser.parse_args()
    if given.documentation:
        documentation(given.run, ROOT / "docs" / "images")
    else:
        for line in every_page(given.run, given.output, given.pages):
            print(line)
