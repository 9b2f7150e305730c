"""The paper's two claims about the spectrum, tested in numbers.

    result = trends(spectrum(captured))       # or trends(mean_spectrum([spectrum(captured) for captured in captures]))
    result.attrs["claim_i"]                   # "holds", "fails" or "not decided"
    result["growth"].sel(band="D1")           # amplitude at the end of the middle over amplitude at its start
    trends(spectrum(captured, level=8, sinks="separate"), protocol="to the last token")

Source: He et al., TreeKV, arXiv 2501.04987; the decision rules are ours and stated with each result.
"""

from __future__ import annotations

import xarray as xr

from analysis import netcdf
from analysis.wavelets.finite import check_finite
from analysis.wavelets.last_token import last_token_trends
from analysis.wavelets.paper_protocol import paper_trends
from treekv.errors import TreeKVError

FORMAT = "treekv-trends"
PAPER = "paper"
TO_THE_LAST_TOKEN = "to the last token"
PROTOCOLS = (PAPER, TO_THE_LAST_TOKEN)

_KEPT = ("model", "wavelet", "mode", "transform", "sinks", "sink_count", "projected", "tokens", "texts")


def trends(
    spectrum: xr.Dataset,
    resamples: int = 299,
    seed: int = 0,
    *,
    protocol: str = PAPER,
    margins: tuple[int, int] | None = None,
) -> xr.Dataset:
    """Test whether amplitude (i) grows towards the end in every band and (ii) most in the highest bands.

    Args:
        spectrum: of one text or of several (`mean_spectrum`), or the samples of `analysis.paper.figure2`.
        resamples: number of bootstrap samples and of draws of chance, at least 99.
        seed: of both.
        protocol: "paper" compares the two ends of the middle of the text, as the paper's figure does: bands D1 ... D5
            as the last query sees them, without the positions that a cache protects anyway. "to the last token"
            compares the last 64 positions, those just read among them, with the first quarter, in every band.
        margins: of "paper", the positions left out at the beginning and at the end; None for the paper's 32 and 32.
            For a cache these are its settings: (config.sink_size, config.recent_size).

    Returns:
        Dataset over band, lowest first:
          growth            the end divided by the start
          rank_correlation  Spearman's, amplitude against position
          *_low, *_high     95 % interval of each, NaN where there is none
          *_null            the 95th percentile of what chance gives
          growth_p_value, p_value   one-sided, of growth and of rank_correlation
          claim_i           "holds", "fails", "not decided"
          growth_by_head    (layer, head, band)  the same growth without averaging, if the spectrum has heads
          share_growing     share of heads whose growth exceeds 1.1
        "paper" has as well
          first, last       mean amplitude over the two windows, and rise, last less first, with *_low, *_high,
                            *_null and rise_p_value
          curve             (band, run)  mean amplitude over runs of positions; coordinate run is their first position
        and "to the last token"
          slope             Theil-Sen slope of log amplitude per 1,000 positions, with *_low, *_high, *_null and
                            slope_p_value
          runs              number of runs of positions behind slope and correlation
        attrs: protocol, claim_i, claim_ii, first_positions and last_positions (the lengths of the two windows), rules
        (the exact decision rules in words), and how the sinks were treated: sinks, sink_count. "paper" has the two
        readings of claim (ii) as claim_ii_absolute (the rise is largest) and claim_ii_ratio (the growth is), claim_ii
        being "depends on the reading" if one of them holds; absolute_step and ratio_step, by how much rise grows and
        by which factor growth does from one band to the next higher, each with _low, _high, _null and _p_value;
        samples, middle_start, middle_stop (true positions) and run_positions. "to the last token" has
        claim_ii_correlation, the rank correlation of growth and frequency, with _low, _high and claim_ii_p_value, and
        claim_ii_top_band.

    Whether the sinks were in the transform makes no difference to the paper's middle, which their coefficients do not
    reach; it changes which positions a coefficient of D3 ... D5 compares. It can change the other protocol's claim
    (ii). With one text, intervals say how far this text's numbers could be chance; only several texts, at least 5,
    show how far they generalise.

    Raises:
        TreeKVError: an unknown protocol, impossible margins, margins for "to the last token", a text too short for
            the protocol, a spectrum without its queries or with numbers that are not finite, or fewer than 99
            resamples.
    """
    if protocol not in PROTOCOLS:
        raise TreeKVError(f"protocol is {protocol!r}; give one of {', '.join(map(repr, PROTOCOLS))}")
    if resamples < 99:
        raise TreeKVError(f"resamples is {resamples}; fewer than 99 give no 95 % interval")
    if "query_amplitude" not in spectrum:
        raise TreeKVError(
            "the spectrum lacks 'query_amplitude', the amplitude of each query; compute the spectrum again"
        )
    check_finite(spectrum)
    if protocol == PAPER:
        found = paper_trends(spectrum, margins, resamples, seed)
    elif margins is not None:
        raise TreeKVError(f"margins is {margins!r}, but protocol='{TO_THE_LAST_TOKEN}' leaves no positions out")
    else:
        found = last_token_trends(spectrum, resamples, seed)
    return found.assign_attrs(
        {
            **{name: spectrum.attrs[name] for name in _KEPT if name in spectrum.attrs},
            "format": FORMAT,
            "format_version": netcdf.FORMAT_VERSION,
            "protocol": protocol,
            "resamples": resamples,
            "seed": seed,
            **netcdf.versions(),
        }
    )


def protocol_of(found: xr.Dataset) -> str:
    """The protocol of a result, also of one from before there were two."""
    return str(found.attrs.get("protocol", TO_THE_LAST_TOKEN))
