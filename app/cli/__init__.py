"""The command `treekv`. Heavy packages are imported by the commands that need them, so `--help` is quick."""

from __future__ import annotations

import os

import typer

from app.cli import (
    capture,
    compare,
    dashboard,
    demo,
    evaluate,
    generate,
    lm_eval,
    models,
    plan,
    recommend,
    report,
    spectrum,
)

app = typer.Typer(
    name="treekv",
    help="Compress the key-value cache of a language model as a tree, and see what each setting keeps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
)
for command in (
    demo.demo,
    generate.generate,
    models.models,
    capture.capture,
    spectrum.spectrum,
    compare.compare,
    recommend.recommend,
    plan.plan,
    dashboard.dashboard,
):
    app.command()(command)
app.command("eval")(evaluate.evaluate)
app.command("lm-eval", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(lm_eval.lm_eval)
app.command()(report.report)


def main() -> None:
    """The console script."""
    # Set before torch is imported, so that its threads sleep while they wait. Where other programs need the cores too,
    # spinning threads block each other, and a stream of small steps takes many times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()
