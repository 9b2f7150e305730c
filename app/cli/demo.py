"""treekv demo: the whole chain on one text."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from app import DEFAULT_MODEL, DEFAULT_RUN
from app.cli.console import check_files, one_sentence, out, print_json, stage
from app.text.wording import band_width, beyond_words, claim_words, number, protocol_words, size

if TYPE_CHECKING:
    import xarray as xr

SAMPLE_TITLE = "Python's own language reference (pydoc_data.topics)"


@one_sentence
def demo(
    text: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A text file instead of the sample text; - reads standard input."),
    ] = None,
    output: Annotated[Path, typer.Option(help="The run folder to write.")] = DEFAULT_RUN,
    tokens: Annotated[int, typer.Option(min=256, help="How many tokens of the text to use.")] = 2048,
    model: Annotated[str, typer.Option(help="An alias, a model folder, a .gguf file or a hub id.")] = DEFAULT_MODEL,
    force: Annotated[bool, typer.Option("--force", help="Replace the output folder, whatever it contains.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Run the whole chain on one text: capture, wavelets, simulation, streaming, generation, report.

    Example: [bold]treekv demo --text novel.txt --tokens 4096 --output runs/novel[/]
    """
    check_files(text)
    from app.runs import folder as run_folder

    run_folder.check_output(output, force)
    title = SAMPLE_TITLE if text is None else ("standard input" if text == "-" else Path(text).name)
    content = _text(text)
    start = time.monotonic()
    with stage(f"Loading {model}"):
        from app import demo as chain
        from app.runs import pipeline
        from treekv import load_model

        network, tokenizer = load_model(model)
    more = pipeline.token_ids(tokenizer, content, max(tokens, pipeline.SAMPLES * pipeline.WINDOW))
    ids = more[:tokens]
    configs = chain.settings(len(ids))
    quiet = as_json
    if not quiet:
        _introduce(network.config._name_or_path, title, len(ids), tokens)

    artifacts = pipeline.analyse(network, tokenizer, ids, configs, stage, more=more)
    seconds = round(time.monotonic() - start, 1)  # what the same in the browser takes, which estimates by it
    if not quiet:
        _show_claims(artifacts.trends, artifacts.beyond)
    configs |= chain.recommended(model, len(ids))
    streamed = chain.stream(network, ids, configs, stage)
    generated = chain.generate(network, tokenizer, ids, configs, stage)
    dtype = str(network.dtype).removeprefix("torch.")
    results = chain.summary(title, artifacts, configs, streamed, generated, dtype)
    results |= {"load": str(Path(model).resolve()) if Path(model).exists() else model, "seconds": seconds}
    if not quiet:
        _show_streaming(results["streaming"], len(ids))
        _show_continuations(results)
    with stage("Writing the run folder"), run_folder.new_run(output, force) as folder:
        chain.write(folder, artifacts, configs["tree"], results)
    if quiet:
        print_json({"run_folder": str(output), **results})
    else:
        _show_next(output)


def _text(path: str | None) -> str:
    if path is not None:
        from app.text.inputs import read_text

        return read_text(path)
    from app.runs.sample_text import sample_text

    return sample_text()


def _introduce(model: str, title: str, tokens: int, wanted: int) -> None:
    short = "" if tokens == wanted else f" (all it has; {wanted:,} were requested)"
    grid = Table.grid(padding=(0, 2))
    grid.add_row("[bold]Model[/]", escape(Path(model).name if Path(model).is_absolute() else model))
    grid.add_row("[bold]Text[/]", escape(f"{title}, {tokens:,} tokens{short}"))
    out().print(grid)


def _show_claims(trends: xr.Dataset, beyond: xr.Dataset) -> None:
    table = Table(
        title=f"Growth of the contributions: {protocol_words(trends.attrs)}",
        title_justify="left",
    )
    for name in ("band", "tokens per half wave", "rise (1e-4)", "growth", "rank correlation", "grows"):
        table.add_column(name, justify="left" if name in ("band", "grows") else "right")
    for band in trends["band"].values:
        row = trends.sel(band=band)
        table.add_row(
            str(band),
            band_width(str(band), int(row["level"])),
            number(1e4 * row["rise"].item(), "+.2f"),
            number(row["growth"].item(), ".2f"),
            number(row["rank_correlation"].item(), "+.2f"),
            str(row["claim_i"].item()),
        )
    console = out()
    console.print()
    console.print(table)
    first, second = claim_words(trends.attrs)
    console.print("In the paper's comparison, without the ends of the text that a cache protects:")
    console.print(f"Claim 1, amplitude grows towards the end in every band: [bold]{first}[/]")
    console.print(f"Claim 2, it grows most in the highest bands: [bold]{second}[/]")
    console.print(f"[dim]{escape(beyond_words(beyond.attrs))}[/]")
    console.print()


def _show_streaming(streaming: dict[str, Any], tokens: int) -> None:
    once_full = streaming["full_from"]
    table = Table(title=f"The text streamed {streaming['chunk']} tokens at a time", title_justify="left")
    table.add_column("cache")
    for name in ("tokens kept", "perplexity", f"from token {once_full} on", "cache", "tokens/s"):
        table.add_column(name, justify="right")
    for cache in streaming["caches"]:
        table.add_row(
            cache["title"],
            f"{cache['cache_size'] or tokens:,}",
            f"{cache['perplexity']:.2f}",
            f"{cache['perplexity_once_full']:.2f}",
            size(cache["cache_bytes"]),
            f"{cache['tokens_per_second']:.0f}",
        )
    console = out()
    console.print()
    console.print(table)


def _show_continuations(results: dict[str, Any]) -> None:
    console = out()
    console.print()
    console.print(f"[bold]End of the text[/] … {escape(_line(results['text']['end']))}")
    for made in results["generation"]["continuations"]:
        console.print(f"[bold]{made['title']}[/] ({size(made['cache_bytes'])}) … {escape(_line(made['text']))}")
    console.print()


def _line(text: str) -> str:
    return " ".join(text.split())


def _show_next(output: Path) -> None:
    from app.export.snippets import own_command

    console = out()
    console.print(f"Run folder: {escape(str(output))}", soft_wrap=True)
    console.print(f"Report:     {escape(str(output / 'report.html'))} (open it in a browser)", soft_wrap=True)
    console.print(f"Dashboard:  {escape(own_command())} dashboard {escape(str(output))}", soft_wrap=True)
