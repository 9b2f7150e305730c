"""The record of the example on Start, from a run of the demo: `treekv demo --tokens 512 --output RUN`, then
`python -m tests.example_record RUN` writes it."""

from __future__ import annotations

import sys
from pathlib import Path

import analysis
from app.dashboard.actions.first_picture import EXAMPLE
from app.runs import folder as run_folder

EVERY = 3  # layers; the picture of ten of thirty looks the same, and takes a third of the bytes


def write(run: Path) -> None:
    record = analysis.open(run / run_folder.RETENTION, "retention")
    record = record.sel(policy=["tree"]).isel(layer=slice(1, None, EVERY))
    analysis.save(record, EXAMPLE)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
