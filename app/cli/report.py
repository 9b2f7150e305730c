"""treekv report: tables and figures of what treekv eval measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from app import DEFAULT_RESULTS
from app.cli.capture import check_output
from app.cli.console import err, one_sentence, print_json

KINDS = (".md", ".html", ".tex")


@one_sentence
def report(
    results: Annotated[
        Path, typer.Argument(metavar="[RESULTS]", help="The results folder of treekv eval, or a summary of one.")
    ] = DEFAULT_RESULTS,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="A .md, .html (with figures, works offline) or .tex file to write; repeatable."
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="The settings to compare the others with; by default the full cache, where it was measured."),
    ] = None,
    score: Annotated[str | None, typer.Option(help="Which score to show; by default each task's main one.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace output files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON instead of Markdown.")] = False,
) -> None:
    """Show means, bootstrap intervals and paired differences of what was measured; as Markdown if no file is given.

    Example: [bold]treekv report runs/ppl --baseline tree --output report.html[/]
    """
    for file in output or []:
        _check(file, force)
    with err().status("Reading the results"):
        from app.report.results import as_latex, as_markdown, read, summarize

        report = summarize(read(results), baseline, score)
    for file in output or []:
        if file.suffix == ".html":
            from app.report.results_page import results_page

            text = results_page(report, f"Results in {results.resolve().name}")
        else:
            text = as_latex(report) if file.suffix == ".tex" else as_markdown(report)
        _write(file, text)
        err().print(escape(f"written to {file}"), soft_wrap=True)
    if as_json:
        print_json(_content(report))
    elif not output:
        typer.echo(as_markdown(report), nl=False)


def _check(file: Path, force: bool) -> None:
    from treekv import TreeKVError

    if file.suffix not in KINDS:
        raise TreeKVError(f"the output {str(file)!r} must end in .md, .html or .tex")
    check_output(file, force)


def _write(file: Path, text: str) -> None:
    from treekv import files

    with files.atomic_write(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _content(report: Any) -> dict[str, Any]:
    import dataclasses

    return {
        "baseline": report.baseline,
        "rows": [dataclasses.asdict(row) for row in report.rows],
        "notes": report.notes,
        "failures": report.failures,
        "records": report.records,
    }
