"""treekv recommend: settings for a budget or a target, from a captured text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from app.cli.capture import check_output
from app.cli.console import one_sentence, out, print_json, stage
from app.cli.page import write_page
from app.text.wording import size


@one_sentence
def recommend(
    capture: Annotated[Path, typer.Argument(metavar="FILE", help="A file that treekv capture wrote.")],
    budget: Annotated[int | None, typer.Option(help="The budget in tokens, per layer and KV head.")] = None,
    cache_bytes: Annotated[
        int | None,
        typer.Option(
            "--bytes", help="Or in bytes of keys and values, over all layers of the model, for one text at a time."
        ),
    ] = None,
    mass: Annotated[
        float | None, typer.Option(help="Or a target: the share of attention to retain, such as 0.9.")
    ] = None,
    error: Annotated[
        float | None, typer.Option(help="Or a target: the relative output error to allow, such as 0.1.")
    ] = None,
    ask: Annotated[
        list[str] | None,
        typer.Option(help="What may differ from the defaults: sinks, scope, recent, layers, block; repeatable."),
    ] = None,
    prefill: Annotated[str, typer.Option(help="When prompts are reduced: once or stream.")] = "once",
    itemsize: Annotated[int, typer.Option(min=1, help="Bytes per number in the cache, for --bytes.")] = 2,
    projected: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Measure errors after the output projection of the captured model, which is loaded by this name.",
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="The settings file to write.")] = Path("settings.json"),
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write the figure of all candidates to this page too.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print settings and reasons as JSON.")] = False,
) -> None:
    """Recommend settings for texts like the captured one, with the numbers behind each choice.

    Example: [bold]treekv recommend capture.nc --budget 256 --output settings.json[/]
    """
    check_output(output, force)
    if figure is not None:
        check_output(figure, force)
    from treekv import TreeKVError

    if mass is not None and error is not None:
        raise TreeKVError("give one target, either --mass or --error")
    target = {"mass": mass} if mass is not None else {"error": error} if error is not None else None
    with stage("Reading the capture"):
        import analysis
        from analysis.recommendation.decisions import DEFAULT_QUESTIONS

        captured = analysis.open(capture, "capture")
    network = None
    if projected is not None:
        with stage(f"Loading {projected}"):
            from treekv import load_model

            network, _ = load_model(projected)
    with stage("Simulating candidates") as progress:
        choice = analysis.recommend(
            captured,
            budget,
            max_bytes=cache_bytes,
            target=target,
            questions=ask or DEFAULT_QUESTIONS,
            prefill=prefill,
            itemsize=itemsize,
            model=network,
            progress=progress,
        )
    choice.config.save(output)
    if figure is not None:
        write_page(figure, "Settings tried", (choice.figure,))
    held = int(choice.reasons.attrs["bytes"])
    if as_json:
        names = ("question", "setting", "cache_size", "error", "mass", "chosen")
        tried = [
            {name: choice.reasons[name].values[i].item() for name in names}
            for i in range(choice.reasons.sizes["candidate"])
        ]
        print_json(
            {
                "file": str(output),
                "settings": choice.config.to_dict(),
                "bytes": held,
                "reasons": list(choice.sentences),
                "tried": tried,
            }
        )
        return
    console = out()
    for sentence in choice.sentences:
        console.print(escape(sentence))
    console.print(escape(f"written to {output} ({size(held)} of keys and values)"), soft_wrap=True)
