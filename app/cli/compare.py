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
from app.text.json_values import without_nan
from app.text.wording import number

if TYPE_CHECKING:
    import xarray as xr

    from analysis import Capture
    from treekv import TreeKVConfig

POLICIES = ("tree", "streaming", "h2o", "tova")


@one_sentence
def compare(
    capture: Annotated[Path, typer.Argument(metavar="FILE", help="A file that treekv capture wrote.")],
    settings: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A settings file, which names the settings; repeatable."),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help=f"A policy with its default settings; repeatable. By default {', '.join(POLICIES)}, or none with "
            "--settings."
        ),
    ] = None,
    cache_size: Annotated[
        int | None, typer.Option(help="The budget for --policy: tokens to keep; by default an eighth of the text.")
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(help="Add this variant, such as paper, of each policy that has it; repeatable."),
    ] = None,
    prompt: Annotated[
        int, typer.Option(min=0, help="How many tokens to treat as a prompt; 0 streams the whole text.")
    ] = 0,
    output: Annotated[Path | None, typer.Option(help="Write the retention record to this file.")] = None,
    figure: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write maps, density, losses by layer and bias to this page too."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Simulate several settings on a captured text: tokens kept, attention retained, output error and bias.

    Example: [bold]treekv compare capture.nc --policy tree --policy h2o --cache-size 128[/]
    """
    for file in (output, figure):
        if file is not None:
            check_output(file, force)
    with stage("Reading the capture"):
        import analysis

        captured = analysis.open(capture, "capture")
    configs = _configs(captured, settings or [], policy or [], variant or [], cache_size, prompt)
    with stage("Simulating what each setting keeps") as progress:
        retention = analysis.simulate(captured, configs, prompt=prompt, progress=progress)
    with stage("Measuring what each setting loses") as progress:
        lost = analysis.output_loss(captured, retention, progress=progress)
        rows = _rows(analysis.compare(captured, configs, retention=retention, lost=lost))
    if output is not None:
        with stage("Writing the record"):
            analysis.save(retention, output)
    if figure is not None:
        from analysis import plot

        figures = (
            plot.eviction_maps(retention),
            plot.density(retention),
            plot.mass_retained(lost),
            plot.output_error(lost),
            plot.bias(analysis.recency_bias(retention)),
        )
        write_page(figure, "Settings compared", figures)
    if as_json:
        written = None if output is None else str(output)
        print_json(
            {"model": captured.model, "tokens": captured.tokens, "prompt": prompt, "settings": rows, "file": written}
        )
        return
    _show(captured, rows)
    if output is not None:
        out().print(escape(f"written to {output}"), soft_wrap=True)


def _configs(
    captured: Capture, files: list[Path], names: list[str], variants: list[str], size: int | None, prompt: int
) -> dict[str, TreeKVConfig]:
    from treekv import TreeKVConfig, TreeKVError, policies

    configs = {}
    for file in files:
        if file.stem in configs:
            raise TreeKVError(f"two settings files are called {file.stem!r}; rename one of them")
        configs[file.stem] = TreeKVConfig.load(file)
    if size is None:
        size = max(captured.tokens // 64 * 8, 16)
    for name in names or (() if files else POLICIES):
        if name in configs:
            raise TreeKVError(f"{name!r} is given twice; give each setting once")
        base = TreeKVConfig(policy=name, cache_size=size)
        configs[name] = base if prompt else base.replace(prefill="stream")
    for variant in variants:
        having = [name for name, config in configs.items() if variant in policies.get(config.policy).variants]
        if not having:
            raise TreeKVError(f"none of the compared policies has a variant {variant!r}")
        for name in having:
            configs[f"{name} {variant}"] = configs[name].replace(variant=variant)
    return configs


def _rows(table: xr.Dataset) -> list[dict[str, Any]]:
    """One row per setting; `distance` is None where there are too few tokens for a tree."""
    values = {field: table[field].values.tolist() for field in ("kept", "mass", "error", "distance", "gini")}
    rows = []
    for place, name in enumerate(table["policy"].values.tolist()):
        rows.append({"name": name, **{field: without_nan(column[place]) for field, column in values.items()}})
    return rows


def _show(captured: Any, rows: list[dict[str, Any]]) -> None:
    table = Table(
        title=escape(f"{captured.tokens:,} tokens of {captured.model}, means over layers and heads"),
        title_justify="left",
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
