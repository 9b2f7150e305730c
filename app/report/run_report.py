"""The report of a run: one HTML file that works offline, and shows its tables even without scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import xarray as xr

from analysis import plot
from app.report.templates import picture, render
from app.text import captions, wording


def write_report(
    path: Path, contents: dict[str, Any], *, settings: str, spectrum: xr.Dataset, retention: xr.Dataset
) -> None:
    """Write the report of a run.

    Args:
        path: the HTML file.
        contents: what `app.demo.summary` returns.
        settings: the text of the settings file.
        spectrum, retention: what the figures show.
    """
    layers = retention["layer"].values
    retention = wording.titled(retention)
    tree, streaming = map(wording.policy_title, ("tree", "streaming"))
    layer, head = int(layers[len(layers) // 2]), int(retention["head"].values[0])
    pictures = {
        "spectrum": (plot.spectrum(spectrum), captions.SPECTRUM),
        "coefficients": (plot.coefficients(spectrum), captions.COEFFICIENTS),
        "tree": (plot.eviction_map(retention, policy=tree), captions.EVICTION_MAP),
        "head": (
            plot.eviction_map(retention, policy=tree, layer=layer, head=head),
            f"The same for a single head (layer {layer}, KV head {head}): every head keeps its own choice of tokens, "
            "fewer and fewer towards the left.",
        ),
        "streaming": (
            plot.eviction_map(retention, policy=streaming),
            "For comparison, a window of the same size: the first and the last tokens, and nothing between them.",
        ),
    }
    page = render(
        "report.html",
        run=contents,
        claims=wording.claim_words(contents["claims"]),
        compared=wording.protocol_words(contents["claims"]),
        beyond=wording.beyond_words(contents["claims"]["beyond"]),
        settings=settings,
        pictures={name: picture(name, *drawn) for name, drawn in pictures.items()},
    )
    path.write_text(page, encoding="utf-8")
