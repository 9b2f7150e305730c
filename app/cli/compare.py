"""treekv compare: what several settings would cost on a captured text, in loss, and what they would keep of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from app.cli.capture import check_output
from app.cli.console import check_files, one_sentence, out, print_json, stage
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
        typer.Option(
            metavar="FILE",
            help="A settings file, which names the settings, or settings that come with TreeKV; repeatable.",
        ),
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
    model: Annotated[
        str | None, typer.Option(help="The captured model, if the capture does not say where it is.")
    ] = None,
    loss: Annotated[
        bool, typer.Option("--loss/--no-loss", help="Run the model to predict the loss, a second or more per setting.")
    ] = True,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the loss too, by streaming the text through a real cache.")
    ] = False,
    needles: Annotated[
        bool,
        typer.Option(
            "--needles",
            help="Hide eight numbers in the text, read it as a prompt of --prompt tokens, and ask for each of them.",
        ),
    ] = False,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="What the model computes in: float32, bfloat16 or float16; by default bfloat16 where the CPU has "
            "instructions for it."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the retention record to this file.")] = None,
    figure: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write maps, density, losses by layer and bias to this page too."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Compare settings on a captured text: the loss each would cost, and what it would keep.

    The predicted loss ranks settings; attention retained and output error show what is kept, and do not.

    Example: [bold]treekv compare capture.nc --policy tree --policy h2o --cache-size 128[/]
    """
    check_files(capture)
    for file in (output, figure):
        if file is not None:
            check_output(file, force)
    with stage("Reading the capture"):
        import analysis

        captured = analysis.open(capture, "capture")
    configs = _configs(captured, settings or [], policy or [], variant or [], cache_size, prompt)
    if needles:
        from analysis.prediction.needles import check_prompt

        check_prompt(prompt)
    with stage("Simulating what each setting keeps") as progress:
        retention = analysis.simulate(captured, configs, prompt=prompt, progress=progress)
    with stage("Measuring what each setting loses") as progress:
        lost = analysis.output_loss(captured, retention, progress=progress)
        rows = _rows(analysis.compare(captured, configs, retention=retention, lost=lost))
    found = Losses(captured, configs, prompt, dtype)
    if loss or measure or needles:
        found.find(model, loss, measure, needles)
    rows = found.added_to(rows)
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
            {
                "model": captured.model,
                "tokens": captured.tokens,
                "prompt": prompt,
                "loss": {"note": found.note, "dtype": found.dtype, "full": found.full},
                "needles": found.shares() or None,
                "settings": rows,
                "file": written,
            }
        )
        return
    _show(captured, rows, found)
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
        whole = prompt or not policies.get(name).evicts_prompt  # read in blocks, its rule would be another one
        configs[name] = base if whole else base.replace(prefill="stream")
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


class Losses:
    """What the settings cost, predicted and measured, as far as the model can be had.

    Attributes:
        note: one sentence on why there is no loss; empty if there is.
        dtype: what the model computed in.
        full: the loss of the full cache, nats a token.
    """

    def __init__(self, captured: Capture, configs: dict[str, TreeKVConfig], prompt: int, dtype: str | None) -> None:
        self.captured, self.configs, self.prompt, self.dtype = captured, configs, prompt, dtype
        self.note = ""
        self.full: float | None = None
        self._tables: dict[str, xr.Dataset] = {}
        self._needles: xr.Dataset | None = None

    def shares(self) -> dict[str, dict[str, float]]:
        """The share of the hidden numbers that each setting found, by name and question; empty if none was hidden."""
        if self._needles is None:
            return {}
        mean = self._needles["found"].mean("depth")
        questions = mean["question"].values.tolist()
        return {
            name: {question: float(mean.sel(policy=name, question=question)) for question in questions}
            for name in mean["policy"].values.tolist()
        }

    def find(self, model: str | None, predict: bool, measure: bool, needles: bool) -> None:
        """Run the model for what is asked for, unless it cannot be loaded, which `note` then says."""
        import analysis
        from app.runs.captured_model import load_captured
        from treekv import TreeKVError

        try:
            with stage("Loading the model"):
                loaded, tokenizer = load_captured(self.captured.model, model)
        except TreeKVError as error:
            if measure or needles or model is not None:
                raise
            self.note = f"There is no predicted loss: {error}."
            return
        given = loaded, self.captured, self.configs
        if predict or measure:
            with stage("Predicting the loss of each setting") as progress:
                self._tables["predicted"] = analysis.replay(
                    *given, prompt=self.prompt, dtype=self.dtype, progress=progress
                )
        if measure:
            with stage("Measuring the loss of each setting") as progress:
                self._tables["measured"] = analysis.measure(
                    *given, prompt=self.prompt, dtype=self.dtype, progress=progress
                )
        if needles:
            try:
                with stage("Hiding numbers and asking for them") as progress:
                    self._needles = analysis.find_needles(
                        loaded,
                        tokenizer,
                        self.captured,
                        self.configs,
                        prompt=self.prompt,
                        dtype=self.dtype,
                        progress=progress,
                    )
            except KeyboardInterrupt:  # what was found before is shown
                self.note = "The numbers were not all asked for, since the command was interrupted."
        if "predicted" in self._tables:
            self.dtype = str(self._tables["predicted"].attrs["dtype"])
            self.full = float(self._tables["predicted"]["loss"].sel(policy="full").mean())

    def of_numbers(self, share: float) -> str:
        """A share of the hidden numbers in words, such as "3 of 8"."""
        count = 0 if self._needles is None else self._needles.sizes["depth"]
        return f"{round(share * count)} of {count}"

    def added_to(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows with `predicted` and `measured`, nats a token above the full cache, and `perplexity`, that of the
        measured loss if there is one; None where unknown. The least predicted loss comes first."""
        added = []
        for row in rows:
            extra: dict[str, float | None] = {"predicted": None, "measured": None}
            perplexity = None
            for kind, table in self._tables.items():
                if row["name"] in table["policy"].values:  # an interrupted table lacks some
                    mean = table["loss"].mean("position").astype(float)
                    extra[kind] = float(mean.sel(policy=row["name"]) - mean.sel(policy="full"))
                    perplexity = math.exp(float(mean.sel(policy=row["name"])))
            added.append({"name": row["name"], **extra, "perplexity": perplexity, **row})
        return sorted(added, key=lambda row: math.inf if row["predicted"] is None else row["predicted"])


def _show(captured: Any, rows: list[dict[str, Any]], found: Losses) -> None:
    table = Table(
        title=escape(f"{captured.tokens:,} tokens of {captured.model}, means over layers and heads"),
        title_justify="left",
    )
    table.add_column("settings")
    shown = [kind for kind in ("predicted", "measured") if any(row[kind] is not None for row in rows)]
    losses = [*(f"{kind} loss" for kind in shown), "perplexity"] if shown else []
    # With the losses a terminal of 80 columns has no room for the numbers of bias; --json has both.
    bias = [] if shown else ["from the tree's ideal", "unevenness (Gini)"]
    for name in (*losses, "tokens kept", "attention retained", "output error", *bias):
        table.add_column(name, justify="right")
    for row in rows:
        distance = row["distance"]
        uneven = (number(distance, ",.0f") + ("" if distance is None else " tokens"), f"{row['gini']:.2f}")
        table.add_row(
            escape(row["name"]),
            *(number(row[kind], "+.3f") for kind in shown),
            *([number(row["perplexity"], ".2f")] if shown else []),
            f"{row['kept']:,.0f}",
            f"{100 * row['mass']:.1f} %",
            f"{100 * row['error']:.1f} %",
            *(() if shown else uneven),
        )
    out().print(table)
    if shown:
        out().print(
            f"Loss above the full cache in nats a token, computed in {found.dtype}; the full cache has "
            f"{found.full:.3f}, perplexity {math.exp(found.full or 0):.2f}. Attention retained and output error show "
            "what is kept; they do not rank settings.",
            soft_wrap=True,
        )
    shares = found.shares()
    if shares:
        needles = Table(title=f"Numbers found in a prompt of {found.prompt:,} tokens", title_justify="left")
        for name in ("settings", "question given", "question withheld"):
            needles.add_column(name, justify="left" if name == "settings" else "right")
        for name, by_question in shares.items():
            needles.add_row(escape(name), *(f"{found.of_numbers(share)}" for share in by_question.values()))
        out().print(needles)
    if found.note:
        out().print(escape(found.note), soft_wrap=True)
