"""The two front ends: the command `treekv` and the dashboard. Numbers and figures come from `analysis`."""

from pathlib import Path
from typing import Final

DEFAULT_MODEL: Final = "smollm2"
DEFAULT_RUN: Final = Path("treekv-runs") / "demo"
DEFAULT_RESULTS: Final = Path("treekv-runs") / "results"
