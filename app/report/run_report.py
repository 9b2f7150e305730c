"""The report of a run: one HTML file that works offline, and shows its tables even without scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import xarray as xr

from analysis import plot
from app.report.templates import picture, render
from app.text import captions, wording

MOST_OTHERS: Final = 3  # maps for comparison
_TREE: Final = wording.policy_title("tree")
_OTHERS: Final = {
    wording.policy_title(
        "streaming"
    ): "For comparison, a window of the same size: the first and the last tokens, and nothing between them."
}


def write_report(
    path: Path, contents: dict[str, Any], *, settings: str, spectrum: xr.Dataset, retention: xr.Dataset
) -> None:
    """Write the report of a run.

    Args:
        path: the HTML file.
        contents: what `app.demo.summary` returns, or the entries of a manifest alone, without streaming and
            generation, which are then left out.
        settings: the text of the settings file.
        spectrum, retention: what the figures show.
    """
    layers = retention["layer"].values
    retention = wording.titled(retention)
    # The tree first; the others for comparison.
    first, *others = sorted((str(name) for name in retention["policy"].values), key=lambda name: name != _TREE)
    layer, head = int(layers[len(layers) // 2]), int(retention["head"].values[0])
    pictures = {
        "spectrum": (plot.spectrum(spectrum), captions.SPECTRUM),
        "coefficients": (plot.coefficients(spectrum), captions.COEFFICIENTS),
    }
    maps = [
        (plot.eviction_map(retention, policy=first), captions.EVICTION_MAP),
        (
            plot.eviction_map(retention, policy=first, layer=layer, head=head),
            f"The same for a single head (layer {layer}, KV head {head}), which keeps its own choice of tokens.",
        ),
        *(
            (plot.eviction_map(retention, policy=name), _OTHERS.get(name, f"For comparison, {name}."))
            for name in others[:MOST_OTHERS]
        ),
    ]
    page = render(
        "report.html",
        run=contents,
        claims=wording.claim_words(contents["claims"]),
        compared=wording.protocol_words(contents["claims"]),
        beyond=wording.beyond_words(contents["claims"]["beyond"]),
        settings=settings,
        pictures={name: picture(name, *drawn) for name, drawn in pictures.items()},
        maps=[picture(f"map-{number}", *drawn) for number, drawn in enumerate(maps)],
    )
    path.write_text(page, encoding="utf-8")
