"""Measure what the docs' tables show: the sweeps in `benchmarks/grids`, one after another, as far as the time reaches.

    python benchmarks/results.py --hours 2
    python benchmarks/results.py --hours 2 --only paper-table-1 streams
    python benchmarks/results.py --list

What `benchmarks/summaries` has is not measured again, so that the work of several machines and days adds up; after
each sweep its summary there is written. Then `python benchmarks/tables.py` makes the tables. A sweep reads its texts
from the folder `texts`: `novels`, `public-novels` (by authors that no setting was chosen on), `articles`, `wikitext`
`longbench` and `all` (every text) are yours to fill (docs/results.md says with what), `python benchmarks/code_texts.py
texts/code` fills `code`, and paper-figure-5-heads needs what benchmarks/ungrouped_model.py writes, and `make gemma`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from analysis.evaluation.sweep import (
    Grid,
    Record,
    Results,
    parse_grid,
    read_grid,
    read_summary,
    run_sweep,
    write_summary,
)
from analysis.evaluation.sweep.run import tasks_of
from analysis.evaluation.sweep.runner import task_definition
from analysis.evaluation.sweep.summary import restore
from treekv.errors import TreeKVError

FOLDER = Path(__file__).resolve().parent
GRIDS, SUMMARIES = FOLDER / "grids", FOLDER / "summaries"
#: In this order; what is not among them needs the hub, or stands behind no table. "cost" wants an idle machine.
STUDY = (
    "paper-table-1",
    "paper-table-2",
    "paper-table-2-16k",
    "paper-figure-5",
    "paper-figure-5-heads",
    "paper-figure-4",
    "tree-height-long",
    "paper-table-3",
    "streams",
    "gemma",
    "options",
    "next-line",
    "prompts",
    "needles",
    "ruler-prompts",
    "cost",
    "no-cliff-first",
    "no-cliff-stream",
    "no-cliff-prompt",
    "no-cliff-turns",
    "no-cliff-writing",
    "streams-8k",
    "streams-token",
    "multi-news-prompts",
    "same-budgets",
    "streams-8k-large",
    "paper-figure-4-million",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=1.0, help="when to stop; what is measured until then is kept")
    parser.add_argument("--only", nargs="+", choices=STUDY, default=list(STUDY))
    parser.add_argument("--output", type=Path, default=Path("results"), help="the folder of the records")
    parser.add_argument("--list", action="store_true", help="say what there is, and measure nothing")
    arguments = parser.parse_args()
    if arguments.list:
        for name in STUDY:
            file = SUMMARIES / f"{name}.json"
            print(f"{name:22}{len(read_summary(file)) if file.is_file() else 0:6} records")
        return
    end = time.monotonic() + 3600 * arguments.hours
    missing = [name for name in arguments.only if time.monotonic() >= end or not measure(name, arguments.output, end)]
    sys.exit(f"not complete: {', '.join(missing)}; the same command goes on" if missing else None)


def measure(name: str, output: Path, end: float) -> bool:
    """Measure what a sweep lacks until `end`, write its summary, and say whether nothing is missing.

    Ends the program if the user interrupts it.
    """

    def stop_at_the_end(done: int = 0, total: int | None = 1) -> None:
        if time.monotonic() > end and (total is None or done < total):  # what is finished is kept first
            raise KeyboardInterrupt  # the sweep keeps what it has, as when the user stops it

    def show(record: Record) -> None:
        of = record.of
        words = [name, of.document, of.name, of.budget, record.error or f"{next(iter(record.scores.values())):.5g}"]
        print(*(word for word in words if word is not None), flush=True)
        stop_at_the_end()

    results, summary = Results(output / name), SUMMARIES / f"{name}.json"
    try:
        grid = parse_grid(read_grid(GRIDS / f"{name}.yaml"))
        if summary.is_file():
            restore(summary, results)
        outcome = run_sweep(grid, results, on_record=show, progress=stop_at_the_end)
        SUMMARIES.mkdir(exist_ok=True)
        write_summary(summary, [record for record in results.read() if belongs(record, grid)])
    except (TreeKVError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return False
    if outcome.interrupted and time.monotonic() < end:
        sys.exit(130)
    return outcome.complete


def belongs(record: Record, grid: Grid) -> bool:
    """Whether a record is of this grid, and not of what its file said before."""
    of = record.of
    tasks = [task_definition(model, task, seed) for model in grid.models for seed, task in tasks_of(grid)]
    same = any(
        (of.model, of.dtype, of.device, of.task, of.options) == (t.model, t.dtype, t.device, t.task, t.options)
        for t in tasks
    )
    return same and any(of.name == one.name and of.budget in one.budgets(grid.budgets) for one in grid.settings)


if __name__ == "__main__":
    main()
