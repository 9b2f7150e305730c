"""The two fronts: the command `treekv` and the dashboard. No maths here: pictures are `analysis.plot`'s."""

from pathlib import Path
from typing import Final

DEFAULT_RUN: Final = Path("treekv-runs") / "demo"
DEFAULT_RESULTS: Final = Path("treekv-runs") / "results"
