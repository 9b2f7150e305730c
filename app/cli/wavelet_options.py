"""The options of a wavelet transform for every command that takes one: `analysis.WaveletOptions` as typer needs it."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from analysis import WaveletOptions


class Sinks(str, Enum):
    """What happens to the first tokens."""

    separate = "separate"
    include = "include"


class Transform(str, Enum):
    """Which wavelet transform."""

    dwt = "dwt"
    swt = "swt"
    packet = "packet"


_PANEL = "Wavelets"

WaveletOption = Annotated[
    str, typer.Option(help="Any discrete wavelet of PyWavelets: haar, db2, sym4 ...", rich_help_panel=_PANEL)
]
LevelOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        show_default=False,
        help="Depth; by default 5, as in the paper (packet: 3), or less for a short text.",
        rich_help_panel=_PANEL,
    ),
]
ModeOption = Annotated[
    str,
    typer.Option(help="Extension at both ends of the text: symmetric, zero, periodization ...", rich_help_panel=_PANEL),
]
TransformOption = Annotated[
    Transform,
    typer.Option(help="Decimated (dwt), stationary (swt), or packets of equal width.", rich_help_panel=_PANEL),
]
SinksOption = Annotated[
    Sinks,
    typer.Option(
        help="Include the first tokens in the transform, as the paper does, or separate them.", rich_help_panel=_PANEL
    ),
]
SinkCountOption = Annotated[
    int, typer.Option(min=0, help="How many first tokens count as sinks.", rich_help_panel=_PANEL)
]


def wavelet_options(
    wavelet: str, level: int | None, mode: str, transform: Transform, sinks: Sinks, sink_count: int
) -> WaveletOptions:
    """The options that a command was given."""
    from analysis import WaveletOptions

    return WaveletOptions(wavelet, level, mode, transform.value, sinks.value, sink_count)
