"""Output of all commands: results on standard output, progress on standard error, errors as one sentence."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

P = ParamSpec("P")
R = TypeVar("R")


def out() -> Console:
    """The console for results. Created on each call, since tests and pipes replace `sys.stdout`."""
    return Console(highlight=False, soft_wrap=False)


def err() -> Console:
    """The console for progress and errors. It keeps the stream it was created with, whatever is redirected later."""
    return Console(file=sys.stderr, highlight=False)


def one_sentence(command: Callable[P, R]) -> Callable[P, R]:
    """Report a TreeKVError as one sentence on standard error, with exit status 2."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except ValueError as error:
            from treekv.errors import TreeKVError  # late, since importing treekv imports torch

            if not isinstance(error, TreeKVError):
                raise
            message = " ".join(str(error).split())
            err().print(f"[bold red]error:[/] {_escaped(message)}", soft_wrap=True)
            raise typer.Exit(2) from error

    return wrapped


@contextlib.contextmanager
def stage(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show one stage of the work on standard error; yields progress(done, total).

    On a terminal this is a bar that ends as a line with the time it took, elsewhere only that line.
    """
    console = err()
    start = time.perf_counter()
    if not console.is_terminal:
        yield lambda done, total: None
        console.print(f"{title}: {time.perf_counter() - start:.1f} s", soft_wrap=True)
        return
    columns = (
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
        bar.update(task, completed=1, total=1)


def check_files(*paths: str | Path | None) -> None:
    """Refuse a file that is not there at once, before any library is loaded; - is standard input, None nothing."""
    for path in paths:
        if path is not None and str(path) != "-" and not os.path.lexists(path):
            err().print(f"[bold red]error:[/] {_escaped(f'there is no file {str(path)!r}')}", soft_wrap=True)
            raise typer.Exit(2)


def print_json(content: dict[str, Any]) -> None:
    """One JSON object on standard output, alone."""
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
