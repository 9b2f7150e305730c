"""treekv report: tables, pictures and a page of what treekv eval measured."""

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
        Path, typer.Argument(metavar="[RESULTS]", help="The results folder that treekv eval wrote.")
    ] = DEFAULT_RESULTS,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="A .md, .html (with pictures, works offline) or .tex file to write; repeatable."
        ),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="The settings that others are compared with; the full cache where it is there.")
    ] = None,
    score: Annotated[str | None, typer.Option(help="Which score; each task's main one by default.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace output files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON instead of Markdown.")] = False,
) -> None:
    """Tables of what was measured: means, bootstrap intervals, paired differences; Markdown where no file is given.

    Example: [bold]treekv report runs/ppl --baseline tree --output report.html[/]
    """
    for file in output or []:
        _check(file, force)
    with err().status("Reading the results"):
        from app.report import results as made_of

        made = made_of.read(results, baseline, score)
    for file in output or []:
        if file.suffix == ".html":
            from app.report.results_page import results_page

            text = results_page(made, f"Results in {results.resolve().name}")
        else:
            text = made_of.as_latex(made) if file.suffix == ".tex" else made_of.as_markdown(made)
        _write(file, text)
        err().print(escape(f"written to {file}"), soft_wrap=True)
    if as_json:
        print_json(_content(made))
    elif not output:
        typer.echo(made_of.as_markdown(made), nl=False)


def _check(file: Path, force: bool) -> None:
    from treekv import TreeKVError

    if file.suffix not in KINDS:
        raise TreeKVError(f"the output {str(file)!r} must end in .md, .html or .tex")
    check_output(file, force)


def _write(file: Path, text: str) -> None:
    from treekv import files

    with files.atomic_write(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _content(made: Any) -> dict[str, Any]:
    import dataclasses

    return {
        "baseline": made.baseline,
        "rows": [dataclasses.asdict(row) for row in made.rows],
        "notes": made.notes,
        "failures": made.failures,
        "records": made.records,
    }
