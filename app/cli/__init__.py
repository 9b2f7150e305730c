"""The command `treekv`. Heavy packages are imported by the commands that need them, so `--help` is quick."""

from __future__ import annotations

import os

import typer

from app.cli.capture import capture
from app.cli.compare import compare
from app.cli.dashboard import dashboard
from app.cli.demo import demo
from app.cli.evaluate import evaluate
from app.cli.generate import generate
from app.cli.models import models
from app.cli.recommend import recommend
from app.cli.report import report
from app.cli.spectrum import spectrum

app = typer.Typer(
    name="treekv",
    help="Compress the key-value cache of a language model as a tree, and see what each setting keeps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
)
for command in (demo, generate, models, capture, spectrum, compare, recommend, dashboard):
    app.command()(command)
app.command("eval")(evaluate)
app.command()(report)


def main() -> None:
    """The console script."""
    # Set before torch is imported, so that its threads sleep while they wait. Where other programs need the cores too,
    # spinning threads block each other, and a stream of small steps takes many times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()
