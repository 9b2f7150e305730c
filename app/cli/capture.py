"""treekv capture: record what each token contributes, in one file per text."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from app import DEFAULT_MODEL
from app.cli.console import check_files, one_sentence, out, print_json, stage
from app.cli.wavelet_options import (
    LevelOption,
    ModeOption,
    SinkCountOption,
    Sinks,
    SinksOption,
    Transform,
    TransformOption,
    WaveletOption,
    wavelet_options,
)
from app.text.wording import size

if TYPE_CHECKING:
    from analysis import WaveletOptions


class Keep(str, Enum):
    """What is stored of a text."""

    qkv = "qkv"
    spectrum = "spectrum"


@one_sentence
def capture(
    texts: Annotated[list[str], typer.Argument(metavar="FILE...", help="Text files; - reads standard input.")],
    output: Annotated[
        Path | None,
        typer.Option(
            show_default=False,
            help="The file to write, by default capture.nc (or spectrum.nc); for several texts a folder, captures (or "
            "spectra).",
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="An alias, a model folder, a .gguf file or a hub id.")] = DEFAULT_MODEL,
    tokens: Annotated[int, typer.Option(min=1, help="Use at most this many tokens of each text.")] = 2048,
    queries: Annotated[int, typer.Option(min=1, help="How many of the last queries are recorded.")] = 16,
    layers: Annotated[
        str | None, typer.Option(show_default=False, help="The layers to record, such as 0,5,10-12; all by default.")
    ] = None,
    keep: Annotated[
        Keep,
        typer.Option(
            help="Store queries, keys and values, or only the spectrum, for models that are too large for the rest."
        ),
    ] = Keep.qkv,
    sensitivity: Annotated[
        bool,
        typer.Option(
            "--sensitivity",
            help="Also record how the text's loss follows what each head attends to: one backward pass, about four "
            "times as long.",
        ),
    ] = False,
    wavelet: WaveletOption = "haar",
    level: LevelOption = None,
    mode: ModeOption = "symmetric",
    transform: TransformOption = Transform.dwt,
    sinks: SinksOption = Sinks.include,
    sink_count: SinkCountOption = 4,
    projected: Annotated[
        bool,
        typer.Option("--projected", help="Take contributions after the output projection.", rich_help_panel="Wavelets"),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the output file; in a folder, finished texts are kept.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was captured as JSON.")] = False,
) -> None:
    """Record the queries, keys and values of texts, from which everything else is computed.

    Several texts become one file each in a folder. If interrupted, the same command continues with the first missing
    one. The wavelet options are for --keep spectrum, which computes the spectrum while the model runs.

    Example: [bold]treekv capture novel.txt --tokens 4096 --output novel.nc[/]
    """
    check_files(*texts)
    from app.text.inputs import read_layers, read_text

    kept_layers = read_layers(layers)
    contents = {name: read_text(text) for name, text in _named(texts).items()}
    several = len(contents) > 1
    names = ("captures", "spectra") if several else ("capture.nc", "spectrum.nc")
    output = output or Path(names[keep is Keep.spectrum])
    if several:
        _check_folder(output)
    else:
        check_output(output, force)
    with stage(f"Loading {model}"):
        import analysis
        from treekv import load_model

        options = wavelet_options(wavelet, level, mode, transform, sinks, sink_count)
        if keep is Keep.qkv:
            _refuse_wavelets(options, projected)
        elif sensitivity:
            _refuse_sensitivity()
        network, tokenizer = load_model(model)
    common: dict[str, Any] = {"max_tokens": tokens, "queries": queries, "layers": kept_layers}
    stored = {**common, "sensitivity": sensitivity}
    spectral: dict[str, Any] = {**common, "wavelet": options, "projected": projected}
    with stage("Capturing what each token contributes") as progress:
        captured: Sequence[Any]
        if several and keep is Keep.spectrum:
            captured = analysis.capture_spectra(
                network, tokenizer, contents, **spectral, folder=output, progress=progress
            )
        elif several:
            captured = analysis.capture_many(network, tokenizer, contents, **stored, folder=output, progress=progress)
        elif keep is Keep.spectrum:
            (text,) = contents.values()
            captured = [analysis.capture_spectrum(network, tokenizer, text, **spectral, progress=progress)]
        else:
            (text,) = contents.values()
            captured = [analysis.capture(network, tokenizer, text, **stored, progress=progress)]
    if not several:
        with stage("Writing the file"):
            analysis.save(captured[0], output)
    files = [output / f"{name}.nc" for name in contents] if several else [output]
    results = []
    for one, file in zip(captured, files, strict=True):  # one at a time in memory
        found = _facts(one)
        results.append({"file": str(file), "bytes": file.stat().st_size, **found})
    if as_json:
        print_json({"captures": results} if several else results[0])
        return
    console = out()
    for result in results:
        heads = f"{result['query_heads']} query heads"
        if "kv_heads" in result:
            heads += f", {result['kv_heads']} KV heads"
        line = f"{result['tokens']:,} tokens, {len(result['layers'])} layers, {heads} of {result['model']}"
        console.print(escape(line), soft_wrap=True)
        console.print(escape(f"written to {result['file']} ({size(result['bytes'])})"), soft_wrap=True)


def _refuse_wavelets(options: WaveletOptions, projected: bool) -> None:
    """Refuse options of wavelets where no spectrum is computed."""
    from treekv import TreeKVError

    given = [*options.changed, *(["projected"] if projected else [])]
    if given:
        raise TreeKVError(f"--{given[0].replace('_', '-')} needs --keep spectrum; a capture can be split later")


def _refuse_sensitivity() -> None:
    from treekv import TreeKVError

    raise TreeKVError("--sensitivity is kept beside queries, keys and values; leave out --keep spectrum")


def check_output(output: Path, force: bool) -> None:
    """Refuse a file that must not be written, before any work."""
    from treekv import TreeKVError

    if output.is_dir():
        raise TreeKVError(f"the output {str(output)!r} is a folder; give the name of a file")
    if not output.absolute().parent.is_dir():
        raise TreeKVError(f"the output's folder {str(output.parent)!r} does not exist")
    if output.exists() and not force:
        raise TreeKVError(f"the output {str(output)!r} exists; give another name, or use --force to replace it")


def _check_folder(output: Path) -> None:
    from treekv import TreeKVError

    if output.exists() and not output.is_dir():
        raise TreeKVError(f"the output {str(output)!r} is a file; several texts need the name of a folder")


def _named(texts: list[str]) -> dict[str, str]:
    from treekv import TreeKVError

    named: dict[str, str] = {}
    for text in texts:
        name = "standard-input" if text == "-" else Path(text).stem
        if name in named:
            raise TreeKVError(f"two texts would be written to {name}.nc; give files with different names")
        named[name] = text
    return named


def _facts(captured: Any) -> dict[str, Any]:
    """What was captured; a spectrum has no number of KV heads."""
    if hasattr(captured, "kv_heads"):
        return {
            "model": captured.model,
            "tokens": captured.tokens,
            "queries": len(captured.query_positions),
            "layers": captured.layers,
            "query_heads": captured.query_heads,
            "kv_heads": captured.kv_heads,
            "sensitivity": captured.has_sensitivity,
        }
    return {
        "model": captured.attrs["model"],
        "tokens": captured.attrs["tokens"],
        "queries": captured.sizes["query"],
        "layers": captured["layer"].values.tolist(),
        "query_heads": captured.sizes["head"],
    }
