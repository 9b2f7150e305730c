"""treekv spectrum: wavelet bands of captured texts, and the paper's two claims tested on them."""

from __future__ import annotations

import dataclasses
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from app.cli.capture import check_output
from app.cli.console import check_files, one_sentence, out, print_json, stage
from app.cli.page import write_page
from app.cli.wavelet_options import (
    LevelOption,
    ModeOption,
    SinkCountOption,
    Sinks,
    SinksOption,
    Transform,
    TransformOption,
    WaveletOption,
    wavelet_options,
)
from app.text.json_values import without_nan
from app.text.wording import claim_words, number, protocol_words, verdict

if TYPE_CHECKING:
    import xarray as xr

    from analysis import WaveletOptions

# Attributes of `analysis.trends` in the output of --json, after which come the others with verdicts and numbers.
_REPORTED = [
    "protocol",
    "model",
    "wavelet",
    "mode",
    "transform",
    "sinks",
    "sink_count",
    "tokens",
    "texts",
    "claim_i",
    "claim_ii",
    "first_positions",
    "last_positions",
    "resamples",
    "rules",
]

_MORE = ("claim_", "absolute_", "ratio_", "middle_", "samples")


class Protocol(str, Enum):
    """Which comparison tests the claims."""

    paper = "paper"
    to_the_last_token = "to-the-last-token"


class Weight(str, Enum):
    """What contributions are weighed by, other than by nothing."""

    loss = "loss"


@one_sentence
def spectrum(
    captures: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Files that treekv capture wrote, or folders of them.")
    ],
    output: Annotated[
        Path | None, typer.Option(show_default=False, help="Write the spectrum to this file (netCDF).")
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(show_default=False, help="Write the paper's figure and the trends to this page (HTML)."),
    ] = None,
    spread: Annotated[
        bool, typer.Option("--spread", help="Shade the spread over texts or queries in the figure.")
    ] = False,
    wavelet: WaveletOption = "haar",
    level: LevelOption = None,
    mode: ModeOption = "symmetric",
    transform: TransformOption = Transform.dwt,
    sinks: SinksOption = Sinks.include,
    sink_count: SinkCountOption = 4,
    weight: Annotated[
        Weight | None,
        typer.Option(
            show_default=False,
            help="loss: take contributions along the gradient of the loss, of captures made with --sensitivity.",
            rich_help_panel="Wavelets",
        ),
    ] = None,
    protocol: Annotated[
        Protocol,
        typer.Option(
            help="The paper's comparison: bands D1 to D5, without the ends that a cache protects; or the last 64 "
            "positions against the first quarter, in all bands."
        ),
    ] = Protocol.paper,
    margins: Annotated[
        tuple[int, int] | None,
        typer.Option(
            show_default="32 32", help="Of the paper's comparison: how many positions are left out at either end."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Split the contributions of tokens into frequency bands, and test whether they grow towards the end.

    Several captures with the same number of tokens count as texts of one kind. Spectra that capture --keep spectrum
    wrote are used as they are.

    Example: [bold]treekv spectrum captures --figure bands.html[/]
    """
    check_files(*captures)
    for file in (output, figure):
        if file is not None:
            check_output(file, force)
    files = _files(captures)
    with stage("Splitting into wavelet bands") as progress:
        import analysis

        options = wavelet_options(wavelet, level, mode, transform, sinks, sink_count)
        parts = []
        for done, file in enumerate(files):
            parts.append(_spectrum(file, options, None if weight is None else weight.value))
            progress(done + 1, len(files))
        found = analysis.mean_spectrum(parts)
    with stage("Testing the claims"):
        trends = analysis.trends(found, protocol=protocol.value.replace("-", " "), margins=margins)
    if output is not None:
        analysis.save(found, output)
    if figure is not None:
        from analysis import plot

        write_page(figure, "Wavelet bands", (plot.spectrum(found, spread=spread), plot.trends(trends)))
    if as_json:
        print_json(_summary(files, trends))
    else:
        _show(trends)


def _files(captures: list[Path]) -> list[Path]:
    from treekv import TreeKVError

    files: list[Path] = []
    for place in captures:
        inside = sorted(place.glob("*.nc")) if place.is_dir() else [place]
        if not inside:
            raise TreeKVError(f"the folder {str(place)!r} contains no capture (*.nc)")
        files += inside
    return files


def _spectrum(file: Path, options: WaveletOptions, weight: str | None) -> xr.Dataset:
    """The spectrum of a capture, or the one in the file if these options are its own."""
    import analysis
    from treekv import TreeKVError

    try:
        captured = analysis.open(file, "capture")
    except TreeKVError as error:
        if "is a spectrum" not in str(error):
            raise
        found = analysis.open(file, "spectrum")
        if found.attrs.get("weight") != weight:
            raise TreeKVError(
                f"{str(file)!r} is a spectrum {'of' if weight is None else 'without'} contributions along the "
                "gradient; only a capture of queries, keys and values can be split again"
            ) from None
        for name, wanted in dataclasses.asdict(options).items():
            there = int(found["level"].max()) if name == "level" else found.attrs[name]
            if wanted is not None and there != wanted:
                raise TreeKVError(
                    f"{str(file)!r} is a spectrum with {name} {there!r}, not {wanted!r}; only a capture of queries, "
                    "keys and values can be split again"
                ) from None
        return found
    return analysis.spectrum(captured, options, weight=weight)


def _summary(files: list[Path], trends: xr.Dataset) -> dict[str, Any]:
    bands = []
    for band in trends["band"].values:
        row = trends.sel(band=band)
        values = {str(name): row[name].item() for name in row.data_vars if row[name].ndim == 0}
        bands.append({"band": str(band), "level": int(row["level"]), **values})
    summary = {
        "files": [str(file) for file in files],
        **{name: trends.attrs[name] for name in _REPORTED if name in trends.attrs},
        **{name: value for name, value in trends.attrs.items() if name.startswith(_MORE)},
        "bands": bands,
    }
    return without_nan(summary)


def _show(trends: xr.Dataset) -> None:
    attrs = trends.attrs
    treated = "removed before" if attrs["sinks"] == "separate" else "left in"
    console = out()
    texts = "1 text" if attrs["texts"] == 1 else f"{attrs['texts']} texts"
    console.print(
        escape(
            f"{texts} of {attrs['tokens']:,} tokens, {attrs['model']}, {attrs['wavelet']} ({attrs['transform']}, "
            f"{attrs['mode']}), first {attrs['sink_count']} tokens {treated} the transform"
        ),
        soft_wrap=True,
    )
    table = Table(title=f"Growth: {protocol_words(attrs)}", title_justify="left")
    paper = attrs["protocol"] == "paper"
    for name in ("band", *(["rise (1e-4)", "95 %"] if paper else []), "growth", "95 %", *([] if paper else ["slope"]),
                 "order", "p", "grows"):  # fmt: skip
        table.add_column(name, justify="left" if name in ("band", "grows") else "right", no_wrap=True)
    for band in trends["band"].values:
        row = trends.sel(band=band)
        table.add_row(
            str(band),
            *([number(1e4 * row["rise"].item(), "+.2f"), _between(row, "rise", 1e4)] if paper else []),
            number(row["growth"].item(), ".2f" if paper else ".1f"),
            _between(row, "growth"),
            *([] if paper else [number(row["slope"].item(), "+.2f")]),
            number(row["rank_correlation"].item(), "+.2f"),
            number(row["p_value"].item(), ".3f"),
            str(row["claim_i"].item()),
        )
    console.print(table)
    slope = "" if paper else "slope: of log amplitude per 1,000 positions; "
    console.print(f"{slope}order: Spearman's correlation with the position")
    first, second = claim_words(attrs)
    console.print(f"Claim 1, amplitude grows towards the end in every band: [bold]{first}[/]")
    console.print(f"Claim 2, it grows most in the highest bands: [bold]{second}[/]", soft_wrap=True)
    if paper:
        console.print(verdict(attrs), soft_wrap=True)
    else:
        console.print(
            f"Most growth in {attrs['claim_ii_top_band']}, correlation of growth with the order of the bands "
            f"{number(attrs['claim_ii_correlation'], '+.2f')}",
            soft_wrap=True,
        )


def _between(row: xr.Dataset, name: str, scale: float = 1) -> str:
    low, high = (number(scale * row[f"{name}_{end}"].item(), ".2f" if scale > 1 else ".1f") for end in ("low", "high"))
    return f"{low} to {high}"
