"""treekv eval: measure models, settings and budgets on tasks; an interrupted run continues where it stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from app import DEFAULT_RESULTS
from app.cli.console import err, one_sentence, out, print_json
from app.cli.named_values import named_values

if TYPE_CHECKING:
    from analysis.evaluation.sweep.grid import Grid
    from analysis.evaluation.sweep.records import Record
    from analysis.evaluation.sweep.run import Outcome, Workers

INTERRUPTED = 130  # the status of a command that Ctrl-C ended, as shells report it


@one_sentence
def evaluate(
    sweep: Annotated[
        Path | None,
        typer.Argument(metavar="[SWEEP.yaml]", show_default=False, help="A YAML file that says what to measure."),
    ] = None,
    output: Annotated[Path, typer.Option(help="The results folder; existing records are not measured again.")] = (
        DEFAULT_RESULTS
    ),
    task: Annotated[
        list[str] | None,
        typer.Option(help="A task, or '{task: needle, lengths: [1024]}'; repeatable. Options override the file."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model, or '{name: smollm2, dtype: bfloat16, device: cuda}'; default smollm2; repeatable."),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="A policy, or '{name: s2, policy: tree, stride: 2}'; default full, streaming, tree; repeatable."
        ),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(help="Tokens to keep, or a share of the text such as 6.25%; default 128; repeatable."),
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="A seed; default 0; repeatable.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting for every policy; repeatable.")
    ] = None,
    decode_block: Annotated[
        int | None,
        typer.Option(min=1, show_default=False, help="Tokens per step in the task ppl; default 1."),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, show_default=False, help="Documents per batch, for tasks that can; default 1."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, show_default=False, help="Worker processes on this machine, through Ray.")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Ray cluster: auto, HOST:PORT or ray://HOST:PORT.")
    ] = None,
    gpus: Annotated[
        float | None, typer.Option(min=0, show_default=False, help="GPUs per worker; by default 1 for models on cuda.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Measure every model with every policy at every budget on every task, one record per document.

    If interrupted or killed, the same command continues where it stopped. Exit status 0: everything was measured;
    1: something failed and is tried again next time; 130: stopped by Ctrl-C.

    Example: [bold]treekv eval --task needle --policy full --policy tree --budget 6.25% --output runs/needles[/]
    """
    given = {"tasks": task, "models": model, "policies": policy, "budgets": budget, "seeds": seed}
    with err().status("Loading"):
        from analysis.evaluation.sweep.records import Results
        from analysis.evaluation.sweep.run import run_sweep

        grid = _grid(sweep, given, setting or [], batch, decode_block)
    start = _workers(grid, workers, ray, gpus)
    # Standard output is for the outcome alone; what tasks, libraries or Ray print goes to standard error.
    with _progress() as (on_record, on_total, within), contextlib.redirect_stdout(sys.stderr):
        outcome = run_sweep(grid, Results(output), start, on_record=on_record, on_total=on_total, progress=within)
    _show(outcome, output, as_json)
    if outcome.interrupted:
        raise typer.Exit(INTERRUPTED)
    if not outcome.complete:
        raise typer.Exit(1)


def _grid(
    file: Path | None,
    given: dict[str, list[Any] | None],
    common: list[str],
    batch: int | None,
    decode_block: int | None,
) -> Grid:
    from analysis.evaluation.sweep.grid import parse_grid, read_grid, read_item
    from treekv import TreeKVError

    content = read_grid(file) if file is not None else {}
    for key, items in given.items():
        if items is not None:
            content[key] = [read_item(item) if isinstance(item, str) else item for item in items]
    if not content:
        raise TreeKVError("nothing to measure; give a sweep file or --task, such as --task needle")
    if common:
        given_there = content.get("settings") or {}
        if isinstance(given_there, dict):  # parse_grid says what is wrong with anything else
            content["settings"] = {**given_there, **named_values(common)}
    if batch is not None:
        content["batch"] = batch
    wanted = parse_grid(content)
    if decode_block is None:
        return wanted
    if all(spec.name != "ppl" for spec in wanted.tasks):
        raise TreeKVError("--decode-block is for the task ppl, which is not among the tasks")
    tasks = [
        dataclasses.replace(spec, options={**spec.options, "decode_block": decode_block})
        if spec.name == "ppl"
        else spec
        for spec in wanted.tasks
    ]
    return dataclasses.replace(wanted, tasks=tasks)


def _workers(grid: Grid, workers: int | None, address: str | None, gpus: float | None) -> Callable[[], Workers] | None:
    """What starts the workers; None for this process."""
    if address is None and (workers is None or workers == 1):
        return None
    from analysis.evaluation.sweep.ray_workers import RayWorkers

    if gpus is None:
        gpus = 1 if any(str(model.device).startswith("cuda") for model in grid.models) else 0
    return functools.partial(RayWorkers, workers, address, gpus)


@contextlib.contextmanager
def _progress() -> Iterator[tuple[Any, Any, Any]]:
    """Two progress bars on a terminal, for all records and for the current one; elsewhere only failures."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from analysis.evaluation.sweep.run import describe_failure

    console = err()

    def failure(record: Record) -> None:
        if record.error is not None:
            console.print(f"[yellow]failed:[/] {escape(describe_failure(record))}", soft_wrap=True)

    if not console.is_terminal:
        yield failure, lambda done, total: None, lambda done, total: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False) as bar:
        everything = bar.add_task("records", total=None)
        one = bar.add_task("this one", total=None)

        def on_record(record: Record) -> None:
            of = record.of
            where = f"at {of.budget}" if of.budget is not None else ""
            last = " ".join(filter(None, (of.task, of.document, of.name, where)))
            bar.update(everything, description=escape(f"records (last: {last})"))
            bar.reset(one, total=None)
            failure(record)

        yield (
            on_record,
            lambda done, total: bar.update(everything, completed=done, total=total),
            lambda done, total: bar.update(one, completed=done, total=total),
        )


def _show(outcome: Outcome, output: Path, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "results": str(output),
                "measured": outcome.measured,
                "skipped": outcome.skipped,
                "failed": outcome.failed,
                "unwritten": outcome.unwritten,
                "interrupted": outcome.interrupted,
            }
        )
    else:
        counts = f"{outcome.measured} measured, {outcome.skipped} already there, {len(outcome.failed)} failed"
        out().print(escape(f"{counts}; results in {output}"), soft_wrap=True)
    console = err()
    if outcome.unwritten:
        lost = f"{outcome.unwritten} records are lost: {outcome.reason}"
        console.print(f"[bold red]error:[/] {escape(lost)}", soft_wrap=True)
    if outcome.interrupted:
        console.print("Stopped; the same command continues from here.", soft_wrap=True)
