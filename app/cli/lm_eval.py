"""treekv lm-eval: lm-evaluation-harness, with the model "treekv" that scores through a compressed cache."""

from __future__ import annotations

import sys

import typer

from app.cli.console import one_sentence


@one_sentence
def lm_eval(context: typer.Context) -> None:
    """Run lm-evaluation-harness with a model "treekv", whose scores and texts go through a compressed cache.

    All arguments are the harness's own. Those of the model: pretrained, settings, any field of the settings, and chunk,
    the tokens that are scored in a forward pass (1: as in generation).

    Example: [bold]treekv lm-eval run --model treekv --tasks T --model_args pretrained=smollm2,settings=smollm2-128[/]
    """
    from analysis.evaluation import lm_harness

    lm_harness.register()
    from lm_eval.__main__ import cli_evaluate

    sys.argv = ["treekv lm-eval", *context.args]
    cli_evaluate()
