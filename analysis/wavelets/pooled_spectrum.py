"""The mean spectrum of several texts of one kind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from analysis.wavelets.finite import check_finite
from analysis.wavelets.spectrum import UNITS
from treekv.errors import TreeKVError


def mean_spectrum(spectra: Sequence[xr.Dataset]) -> xr.Dataset:
    """One spectrum of several texts: means over the texts, and their spread.

    `amplitude`, `coefficient`, `energy`, `sink_amplitude` and `query_std` become means over the texts, `text_std`
    (layer, head, band, position) is the standard deviation of amplitude between them, and `query_amplitude`
    has the queries of all texts, with the text of each in coordinate `text`. The texts have different tokens, so the
    token coordinate is dropped. Raises TreeKVError for no spectrum, numbers that are not finite, or spectra of another
    shape or other settings: positions must be the same, so capture all texts with one `max_tokens`.
    """
    if not spectra:
        raise TreeKVError("there is no spectrum to average; give at least one")
    first = spectra[0]
    for number, other in enumerate(spectra):
        check_finite(other, f"spectrum {number}")
        for name in ("model", "wavelet", "mode", "transform", "sinks", "sink_count", "projected", "weight"):
            if other.attrs.get(name) != first.attrs.get(name):
                raise TreeKVError(
                    f"spectrum {number} has {name} {other.attrs.get(name)!r}, the first {first.attrs.get(name)!r}; "
                    "only spectra with the same settings can be averaged"
                )
        for name in ("layer", "head", "band", "position"):
            if not np.array_equal(other[name].values, first[name].values):
                raise TreeKVError(
                    f"spectrum {number} has other {name}s than the first ({_span(other, name)}, not "
                    f"{_span(first, name)}); capture all texts with the same layers and number of tokens"
                )
    parts = [item.drop_vars("token", errors="ignore").drop_vars("text_std", errors="ignore") for item in spectra]
    counts = [int(part["text"].max()) + 1 for part in parts]
    if len(parts) == 1 or any(count > 1 for count in counts):
        if len(parts) == 1:
            return first
        raise TreeKVError("one of the spectra is a mean already; average all single texts at once")
    stacked = xr.concat(
        [part.drop_dims("query") for part in parts], "each_text", data_vars="all", coords="minimal", compat="override",
        combine_attrs="override",
    )  # fmt: skip
    pooled = stacked.mean("each_text", keep_attrs=True)
    pooled["text_std"] = stacked["amplitude"].std("each_text")
    pooled["text_std"].attrs = {"long_name": "spread over texts", "units": first["amplitude"].attrs.get("units", UNITS)}
    by_query = xr.concat([part["query_amplitude"] for part in parts], "query", coords="minimal", compat="override")
    owner = np.repeat(np.arange(len(parts)), [part.sizes["query"] for part in parts]).astype(np.int32)
    pooled["query_amplitude"] = by_query.assign_coords(text=("query", owner))
    return pooled.assign_attrs(texts=len(parts))


def _span(dataset: xr.Dataset, name: str) -> str:
    values = dataset[name].values
    return f"{values[0]} to {values[-1]}" if len(values) else "none"
