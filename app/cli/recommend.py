"""treekv recommend: settings for a budget or a target, from captured texts, decided by the loss that they cost."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from app.cli.capture import check_output
from app.cli.console import check_files, one_sentence, out, print_json, stage
from app.cli.page import write_page
from app.text.wording import size


class Stage(str, Enum):
    """How the text will reach the cache."""

    stream = "stream"
    prompt = "prompt"


@one_sentence
def recommend(
    captures: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", help="Files that treekv capture --sensitivity wrote; two unlike texts are best."
        ),
    ],
    budget: Annotated[int | None, typer.Option(help="The budget in tokens, per layer and KV head, on average.")] = None,
    cache_bytes: Annotated[
        int | None,
        typer.Option(
            "--bytes", help="Or in bytes of keys and values, over all layers of the model, for a batch of one."
        ),
    ] = None,
    target_loss: Annotated[
        float | None,
        typer.Option(help="Or a target: the loss to allow above the full cache, in nats a token, such as 0.05."),
    ] = None,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Simulate nine capacities of every head, which takes minutes.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="The captured model, if the capture does not say where it is.")
    ] = None,
    loss: Annotated[
        bool,
        typer.Option("--loss/--no-loss", help="Run the model to predict the loss of these settings and of others."),
    ] = True,
    stage_name: Annotated[
        Stage,
        typer.Option(
            "--stage",
            help="stream for texts that are read block by block, prompt for prompts that are read in one go and then "
            "reduced.",
        ),
    ] = Stage.stream,
    itemsize: Annotated[int, typer.Option(min=1, help="Bytes per number in the cache, for --bytes.")] = 2,
    output: Annotated[Path, typer.Option(help="The settings file to write.")] = Path("settings.json"),
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a picture of each head's tokens to this page too.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print settings and reasons as JSON.")] = False,
) -> None:
    """Recommend settings for texts like the captured ones: tokens for each KV head, by what evictions would cost.

    Example: [bold]treekv recommend capture.nc --budget 256 --output settings.json[/]
    """
    wrong = _wrong_goal({"--budget": budget, "--bytes": cache_bytes, "--target-loss": target_loss}, loss, stage_name)
    if wrong:
        from treekv import TreeKVError

        raise TreeKVError(wrong)
    check_files(*captures)
    check_output(output, force)
    if figure is not None:
        check_output(figure, force)
    with stage("Reading the capture"):
        import analysis

        texts = [analysis.open(file, "capture") for file in captures]
        for text in texts:
            text.check_sensitivity()
    needed = target_loss is not None or stage_name is Stage.prompt
    network = _loaded(texts[0].model, model, needed) if loss else None
    with stage("Finding what every head needs") as progress:
        choice = analysis.recommend(
            texts,
            budget,
            max_bytes=cache_bytes,
            target=None if target_loss is None else {"loss": target_loss},
            model=network,
            thorough=thorough,
            stage=stage_name.value,
            itemsize=itemsize,
            progress=progress,
        )
    choice.config.save(output, choice.provenance)
    if figure is not None:
        write_page(figure, "Recommended settings", (choice.figure,))
    if as_json:
        losses = None
        if choice.losses is not None:
            losses = dict(zip(choice.losses["policy"].values.tolist(), choice.losses.values.tolist(), strict=True))
        print_json(
            {
                "file": str(output),
                "settings": choice.config.to_dict(),
                "bytes": choice.nbytes,
                "loss": losses,
                "reasons": list(choice.sentences),
            }
        )
        return
    console = out()
    for sentence in choice.sentences:
        console.print(escape(sentence))
    console.print(escape(f"written to {output} ({size(choice.nbytes)} of keys and values)"), soft_wrap=True)


def _wrong_goal(goals: dict[str, Any], loss: bool, reading: Stage) -> str:
    """What is wrong with the options, in one sentence, before any library is loaded; empty if nothing is."""
    given = [name for name, value in goals.items() if value is not None]
    if len(given) != 1:
        *others, last = goals
        return f"give one of {', '.join(others)} and {last}, got {' and '.join(given) or 'none'}"
    if given == ["--target-loss"] and not loss:
        return "--target-loss needs the model to predict the loss; leave out --no-loss"
    if reading is Stage.prompt and not loss:
        return "--stage prompt needs the model, which reads every text twice; leave out --no-loss"
    if goals["--budget"] is not None and goals["--budget"] < 16:
        return f"--budget must be at least 16 tokens, got {goals['--budget']}"
    if goals["--bytes"] is not None and goals["--bytes"] < 1:
        return f"--bytes must be at least 1, got {goals['--bytes']}"
    if goals["--target-loss"] is not None and not 0 < goals["--target-loss"] < float("inf"):
        return f"--target-loss must be more than 0 nats a token, got {goals['--target-loss']:g}"
    return ""


def _loaded(name: str, model: str | None, needed: bool) -> Any:
    """The captured model; None, with a line that says so, if it cannot be had and need not be."""
    from app.runs.captured_model import load_captured
    from treekv import TreeKVError

    try:
        with stage("Loading the model"):
            return load_captured(name, model)[0]
    except TreeKVError as error:
        if needed or model is not None:
            raise
        out().print(escape(f"There is no predicted loss: {error}."), soft_wrap=True)
        return None
