"""treekv dashboard: open the dashboard in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from app import DEFAULT_RUN
from app.cli.console import err, one_sentence


@one_sentence
def dashboard(
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RUN_FOLDER]",
            show_default=False,
            help=f"The run folder to show first, by default {DEFAULT_RUN}.",
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to serve on.")] = 8501,
    host: Annotated[
        str,
        typer.Option(
            help="The address to serve on. Any but a loopback address opens the dashboard to the network; 0.0.0.0 does "
            "so on all addresses of this machine."
        ),
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Another name or address under which browsers reach it, such as that of a proxy; repeatable.",
        ),
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
) -> None:
    """Open the dashboard in the browser: make runs, see what policies keep, compare, generate, export.

    It shows runs in the same folder as RUN_FOLDER (by default treekv-runs), and new ones are written there.

    Example: [bold]treekv dashboard treekv-runs/demo --port 8600[/]
    """
    from app.runs.folder import open_run

    if run is None and DEFAULT_RUN.exists():
        run = DEFAULT_RUN
    if run is not None:
        open_run(run)  # so that an error is shown here rather than on the page
    from app.dashboard.server.serve import LOOPBACK, is_wildcard, root_of, serve

    if host not in LOOPBACK:
        reached = "this machine" if is_wildcard(host) else host
        err().print(
            f"[yellow]Anyone who can reach {escape(reached)} can see all runs below {escape(str(root_of(run)))}, make "
            "runs and generate texts on it.[/]",
            soft_wrap=True,
        )
    serve(run, host=host, port=port, browser=browser, allow_hosts=allow_host or ())
