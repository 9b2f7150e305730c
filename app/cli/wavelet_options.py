"""The options of a wavelet transform, the same in every command that takes one."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer


class Sinks(str, Enum):
    """What becomes of the first tokens."""

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
        min=1, show_default=False, help="Depth; 8 (packet: 3) or as deep as possible.", rich_help_panel=_PANEL
    ),
]
ModeOption = Annotated[str, typer.Option(help="Boundary: symmetric, zero, periodization ...", rich_help_panel=_PANEL)]
TransformOption = Annotated[
    Transform, typer.Option(help="Decimated, stationary, or packets of equal width.", rich_help_panel=_PANEL)
]
SinksOption = Annotated[
    Sinks,
    typer.Option(help="Take the first tokens out before the transform, or leave them in.", rich_help_panel=_PANEL),
]
SinkCountOption = Annotated[int, typer.Option(min=0, help="How many first tokens are sinks.", rich_help_panel=_PANEL)]
