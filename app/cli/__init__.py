"""The command `treekv`. Heavy packages are imported by the commands that need them, so `--help` is quick."""

from __future__ import annotations

import typer

from app.cli.capture import capture
from app.cli.dashboard import dashboard
from app.cli.demo import demo
from app.cli.generate import generate

app = typer.Typer(
    name="treekv",
    help="Compress a language model's key-value cache as a tree, and see what each setting keeps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
)
for command in (demo, generate, capture, dashboard):
    app.command()(command)


def main() -> None:
    """The console script."""
    app()
