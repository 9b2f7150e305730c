"""treekv models: the aliases of models, and which of them are installed; what a cache will do with a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from app.cli.console import one_sentence, out, print_json
from app.text.wording import size

if TYPE_CHECKING:
    from treekv.attention.model_use import LayerUse, ModelUse


@one_sentence
def models(
    check: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Say what a cache will do with a model, layer by layer. Loads no weights."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list, or the answer, as JSON.")] = False,
) -> None:
    """List the models that have an alias, which of them are installed, and the recommended settings there are for them.

    A local folder, a .gguf file or a hub id works everywhere in place of an alias. With --check the exit status is 1
    for a model that cannot be compressed.

    Example: [bold]treekv models --check smollm2[/]
    """
    if check is not None:
        _check(check, as_json)
        return
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


def _check(name: str, as_json: bool) -> None:
    from treekv.attention.model_use import model_use
    from treekv.models import load_config

    use = model_use(load_config(name))
    if as_json:
        print_json(_as_json(name, use))
    else:
        _show(name, use)
    if use.refused is not None:
        raise typer.Exit(1)


def _as_json(name: str, use: ModelUse) -> dict[str, Any]:
    layers = [layer._asdict() for layer in use.layers]
    return {"model": name, **use._asdict(), "layers": layers, "bytes_per_token": use.bytes_per_token}


def _show(name: str, use: ModelUse) -> None:
    if use.layers:
        table = Table("layers", "what they are", "cache", "bytes a token")
        for same in _runs(use.layers):
            first, last = same[0], same[-1]
            numbers = str(first.number) if len(same) == 1 else f"{first.number} to {last.number}"
            each = "" if first.bytes_per_token is None else f"{first.bytes_per_token:,}"
            table.add_row(numbers, first.kind, _becomes(use, first), each)
        out().print(table)
    lines = [f"{name}: family {use.family!r}"]
    if use.refused is not None:
        lines.append(f"It cannot be compressed: {use.refused}.")
    else:
        compressed = sum(layer.compressed for layer in use.layers)
        lines.append(
            f"{compressed} of {len(use.layers)} layers are compressed: {size(use.bytes_per_token)} a token of the "
            f"context in {use.dtype}, and with a cache at most for the tokens that it keeps."
        )
        why = "" if use.reason is None else f", since {use.reason}"
        lines.append(f"Positions, unless they are given: {use.positions}{why}.")
    for line in lines:
        out().print(line, soft_wrap=True, markup=False)


def _becomes(use: ModelUse, layer: LayerUse) -> str:
    if use.refused is not None:
        return ""
    if not layer.compressed:
        return "as transformers builds it"
    if use.positions == "rank" and not layer.rotates:
        return "compressed; it has no positions"
    return "compressed"


def _runs(layers: list[LayerUse]) -> list[list[LayerUse]]:
    """Successive layers that are alike."""
    runs: list[list[LayerUse]] = []
    for layer in layers:
        if runs and runs[-1][-1]._replace(number=layer.number) == layer:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return runs
