"""treekv compare: what several settings would keep of a captured text, and what they would lose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from app.cli.capture import check_output
from app.cli.console import one_sentence, out, print_json, stage
from app.cli.page import write_page
from app.text.wording import number

if TYPE_CHECKING:
    from analysis import Capture
    from treekv import TreeKVConfig

POLICIES = ("tree", "streaming", "h2o", "tova")


@one_sentence
def compare(
    capture: Annotated[Path, typer.Argument(metavar="FILE", help="What treekv capture wrote.")],
    settings: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A settings file; may be given several times. Named by the file."),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help=f"A policy with its default settings; may be given several times. Default: {', '.join(POLICIES)}, or "
            "none with --settings."
        ),
    ] = None,
    cache_size: Annotated[
        int | None, typer.Option(help="Tokens to hold, for --policy; by default an eighth of the text.")
    ] = None,
    prompt: Annotated[int, typer.Option(min=0, help="Treat so many tokens as a prompt; 0 streams everything.")] = 0,
    output: Annotated[Path | None, typer.Option(help="Write the retention record to this file.")] = None,
    figure: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Also write maps, density, losses by layer and bias as one page."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Simulate several settings on a captured text: tokens kept, attention retained, output error, bias.

    Example: [bold]treekv compare capture.nc --policy tree --policy h2o --cache-size 128[/]
    """
    for file in (output, figure):
        if file is not None:
            check_output(file, force)
    with stage("Reading the capture"):
        import analysis

        run = analysis.open(capture, "capture")
    configs = _configs(run, settings or [], policy or [], cache_size, prompt)
    with stage("Simulating what each setting keeps") as progress:
        retention = analysis.simulate(run, configs, prompt=prompt, progress=progress)
    with stage("Measuring what each setting loses") as progress:
        lost = analysis.output_loss(run, retention, progress=progress)
        bias = analysis.recency_bias(retention)
        rows = _rows(run, retention, lost, bias)
    if output is not None:
        with stage("Writing the record"):
            analysis.save(retention, output)
    if figure is not None:
        from analysis import plot

        drawn = (
            plot.eviction_maps(retention), plot.density(retention), plot.mass_retained(lost), plot.output_error(lost),
            plot.bias(bias),
        )  # fmt: skip
        write_page(figure, "Settings compared", drawn)
    if as_json:
        written = None if output is None else str(output)
        print_json({"model": run.model, "tokens": run.tokens, "prompt": prompt, "settings": rows, "file": written})
        return
    _show(run, rows)
    if output is not None:
        out().print(escape(f"written to {output}"), soft_wrap=True)


def _configs(
    run: Capture, files: list[Path], names: list[str], size: int | None, prompt: int
) -> dict[str, TreeKVConfig]:
    from treekv import TreeKVConfig, TreeKVError

    configs = {}
    for file in files:
        if file.stem in configs:
            raise TreeKVError(f"two settings files are called {file.stem!r}; rename one of them")
        configs[file.stem] = TreeKVConfig.load(file)
    if size is None:
        size = max(run.tokens // 64 * 8, 16)
    for name in names or (() if files else POLICIES):
        if name in configs:
            raise TreeKVError(f"{name!r} is given twice; name each setting once")
        base = TreeKVConfig(policy=name, cache_size=size)
        configs[name] = base if prompt else base.replace(prefill="stream")
    return configs


def _rows(run: Any, retention: Any, lost: Any, bias: Any) -> list[dict[str, Any]]:
    import analysis

    held = analysis.kept_mask(retention, run.tokens - 1).sum("position")
    rows = []
    for name in retention["policy"].values:
        of = {"policy": name}
        distance = bias["distance"].sel(of)
        rows.append(
            {
                "name": str(name),
                "kept": float(held.sel(of).mean()),
                "mass": float(lost["mass"].sel(of).mean()),
                "error": float(lost["error"].sel(of).mean()),
                "distance": None if bool(distance.isnull().any()) else float(distance.mean()),
                "gini": float(bias["gini"].sel(of).mean()),
            }
        )
    return rows


def _show(run: Any, rows: list[dict[str, Any]]) -> None:
    table = Table(
        title=escape(f"{run.tokens:,} tokens of {run.model}, means over layers and heads"), title_justify="left"
    )
    table.add_column("settings")
    for name in ("tokens kept", "attention retained", "output error", "from the tree's ideal", "unevenness (Gini)"):
        table.add_column(name, justify="right")
    for row in rows:
        distance = row["distance"]
        table.add_row(
            escape(row["name"]),
            f"{row['kept']:,.0f}",
            f"{100 * row['mass']:.1f} %",
            f"{100 * row['error']:.1f} %",
            number(distance, ",.0f") + ("" if distance is None else " tokens"),
            f"{row['gini']:.2f}",
        )
    out().print(table)
