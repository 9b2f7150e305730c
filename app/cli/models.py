"""treekv models: the aliases of models, and which of them are installed."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from app.cli.console import one_sentence, out, print_json


@one_sentence
def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the models that have an alias, which of them are installed, and the recommended settings there are for them.

    A local folder, a .gguf file or a hub id works everywhere in place of an alias.

    Example: [bold]treekv models --json[/]
    """
    from treekv import shipped
    from treekv.models import alias_states

    states = alias_states()
    if as_json:
        rows = [s._asdict() | {"converted": str(s.converted) if s.converted else None} for s in states]
        print_json({"models": rows, "settings": shipped.names()})
        return
    table = Table("name", "model", "package", "converted copy")
    for state in states:
        installed = "installed" if state.installed else f"not installed ({state.package})"
        table.add_row(state.name, state.title, installed, str(state.converted or "on first use"))
    out().print(table)
    out().print(f"Recommended settings, for --settings: {', '.join(shipped.names())}", soft_wrap=True)
