"""treekv capture: record what each token contributes, into one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from app.cli.console import one_sentence, out, print_json, stage
from app.wording import size


@one_sentence
def capture(
    text: Annotated[str, typer.Argument(metavar="FILE", help="The text file; - reads standard input.")],
    output: Annotated[Path, typer.Option(help="The file to write.")] = Path("capture.nc"),
    model: Annotated[str, typer.Option(help="Alias, model folder, .gguf file or hub id.")] = "smollm2",
    tokens: Annotated[int, typer.Option(min=1, help="How many tokens of the text to use at most.")] = 2048,
    queries: Annotated[int, typer.Option(min=1, help="How many of the last tokens are observed.")] = 16,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was captured as JSON.")] = False,
) -> None:
    """Record queries, keys and values of a text, from which everything else is computed.

    Example: [bold]treekv capture novel.txt --tokens 4096 --output novel.nc[/]
    """
    from app.reading import read_text

    content = read_text(text)
    _check_output(output, force)
    with stage(f"Loading {model}"):
        import analysis
        from treekv import load_model

        network, tokenizer = load_model(model)
    with stage("Capturing what each token contributes") as progress:
        run = analysis.capture(network, tokenizer, content, max_tokens=tokens, queries=queries, progress=progress)
    with stage("Writing the file"):
        run.save(output)
    result = {
        "file": str(output),
        "bytes": output.stat().st_size,
        "model": run.model,
        "tokens": run.tokens,
        "queries": len(run.query_positions),
        "layers": run.layers,
        "query_heads": run.query_heads,
        "kv_heads": run.kv_heads,
    }
    if as_json:
        print_json(result)
        return
    console = out()
    console.print(
        escape(
            f"{run.tokens:,} tokens, {len(run.layers)} layers, {run.query_heads} query heads, "
            f"{run.kv_heads} KV heads of {run.model}"
        )
    )
    console.print(escape(f"written to {output} ({size(result['bytes'])})"), soft_wrap=True)


def _check_output(output: Path, force: bool) -> None:
    from treekv import TreeKVError

    if output.is_dir():
        raise TreeKVError(f"the output {str(output)!r} is a folder; give the name of a file")
    if not output.absolute().parent.is_dir():
        raise TreeKVError(f"the output's folder {str(output.parent)!r} does not exist")
    if output.exists() and not force:
        raise TreeKVError(f"the output {str(output)!r} exists; give another name, or --force to replace it")
