"""The table of the page Compare: the full cache first, the best of each column marked, equal columns in a sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import pandas as pd
import streamlit as st

import analysis
from app.dashboard.actions.losses import FULL, Entry, Kind
from app.text import wording
from treekv import TreeKVConfig

Row = dict[str, Any]
FULL_CACHE: Final = "full cache"  # the name of its row
_MARK: Final = "background-color: rgba(43, 108, 176, 0.35)"


class Column(NamedTuple):
    """How a column is shown: its head, what it means, the sense in which it is better ("" for none), its format, and
    the pixels that it has at least, so that its head can be read on a narrow page."""

    label: str
    help: str
    better: str = ""
    form: str | None = None
    width: int = 80


LESS, MORE = "less", "more"
COLUMNS: Final = {
    "settings": Column("settings", "Policy and budget.", width=195),
    "loss above full, predicted": Column(
        "predicted loss ↓",
        "Nats a token above the full cache, predicted by one pass of the model. Less is better; it ranks settings.",
        LESS,
        "%+.3f",
        108,
    ),
    "loss above full, measured": Column(
        "measured loss ↓", "Nats a token above the full cache, from a real run. Less is better.", LESS, "%+.3f", 115
    ),
    "found, question given": Column(
        "found, given ↑",
        "Of eight numbers hidden in the text, those found if the question is in the prompt. More is better.",
        MORE,
        "%d of 8",
        106,
    ),
    "found, question withheld": Column(
        "withheld ↑",
        "The same if the question comes after the text was compressed without it. More is better.",
        MORE,
        "%d of 8",
    ),
    "perplexity": Column(
        "perplexity ↓",
        "e to the power of the loss, as measured once it is of all settings. Less is better.",
        LESS,
        "%.4g",
    ),
    "tokens kept": Column("tokens kept", "Of each layer and KV head after the whole text, on average.", "", "%d"),
    "attention retained": Column(
        "attention ↑", "The full cache's attention that goes to kept tokens. More is better.", MORE, "%.1f %%"
    ),
    "output error": Column(
        "output error ↓",
        "How far the attention output is from the full cache's. Less is better.",
        LESS,
        "%.1f %%",
        98,
    ),
    "unevenness (Gini)": Column(
        "unevenness", "Of the tenths of the text, 0 when all are kept alike to 0.9.", "", "%.2f"
    ),
    "memory": Column("memory ↓", "Bytes of keys and values. Less is better."),
    "saved": Column("saved ↑", "Bytes less than the full cache. More is better."),
    "times smaller": Column("smaller ↑", "The full cache's bytes over these. More is better.", MORE, "%.1f times"),
}
_MEMORY: Final = ("memory", "saved", "times smaller")  # equal all or none


def rows(
    captured: analysis.Capture, table: Mapping[str, Row], length: int, batch: int, dtype: str
) -> tuple[list[Row], dict[str, int]]:
    """The row of the full cache and those of the settings, with what each saves of it.

    `table` has what each keeps, by name, with its bytes under "bytes". Also returns the bytes by name.
    """
    full = analysis.cache_bytes(captured, TreeKVConfig(policy="full"), length, batch=batch, dtype=dtype)
    first = {
        "tokens kept": captured.tokens,
        "attention retained": 100.0,
        "output error": 0.0,
        "unevenness (Gini)": 0.0,
        "bytes": full,
    }
    found, taken = [], {}
    for name, row in {FULL_CACHE: first, **table}.items():
        taken[name] = int(row["bytes"])
        saved = full - taken[name]
        found.append(
            {"settings": name, **{key: value for key, value in row.items() if key != "bytes"}}
            | {
                "memory": wording.size(taken[name]),
                "saved": wording.size(saved) if saved > 0 else "nothing",
                "times smaller": full / max(taken[name], 1),
            }
        )
    return found, taken


def with_losses(rows: Sequence[Row], known: Mapping[Kind, Mapping[str, Entry]]) -> list[Row]:
    """Rows with the losses that are known, after the settings' names: nats a token above the full cache, and as
    perplexity, of the kind that is known of more settings, for both in one column could not be compared. The full cache
    comes first, then the least predicted loss."""
    shown = max(known, key=lambda kind: (len(known[kind]), kind == "measured"), default=None)
    added = []
    for row in rows:
        name = FULL if row["settings"] == FULL_CACHE else row["settings"]
        extra: Row = {}
        perplexity = None
        for kind, found in known.items():
            there = name in found and FULL in found
            extra[f"loss above full, {kind}"] = found[name].loss - found[FULL].loss if there else None
            if kind == shown and there:
                perplexity = math.exp(found[name].loss)
        columns = {"perplexity": perplexity} if extra else {}
        added.append({"settings": row["settings"], **extra, **columns, **row})
    first = "loss above full, predicted"
    return sorted(
        added,
        key=lambda row: (row["settings"] != FULL_CACHE, math.inf if row.get(first) is None else row[first]),
    )


def with_needles(rows: Sequence[Row], known: Mapping[str, Entry]) -> list[Row]:
    """Rows with how many of the hidden numbers each setting found, after the losses; None where unknown."""
    added = []
    for row in rows:
        entry = known.get(FULL if row["settings"] == FULL_CACHE else row["settings"])
        found = {f"found, question {asked}": entry and entry.found(asked) for asked in ("given", "withheld")}
        first = {name: value for name, value in row.items() if name == "settings" or name.startswith("loss")}
        added.append({**first, **found, **row})
    return added


def folded(rows: Sequence[Row]) -> tuple[list[Row], str]:
    """The rows without the columns in which all settings (but the full cache) are equal, and these in words."""
    settings = [row for row in rows if row["settings"] != FULL_CACHE]
    equal: list[str] = []
    for names in (("tokens kept",), _MEMORY):
        if settings and len({tuple(row[name] for name in names) for row in settings}) == 1:
            equal += names
    sentences = []
    if "tokens kept" in equal:
        sentences.append(f"All settings keep {settings[0]['tokens kept']:,} tokens.")
    if "memory" in equal:
        one = settings[0]
        sentences.append(
            f"All take {one['memory']}; the full cache takes {one['times smaller']:,.1f} times as much "
            f"({one['saved']} saved)."
        )
    return [{name: value for name, value in row.items() if name not in equal} for row in rows], " ".join(sentences)


def best(rows: Sequence[Row]) -> dict[str, float]:
    """The best value of each column that has a better end, over the settings (but the full cache), if they differ."""
    found: dict[str, float] = {}
    for name, column in COLUMNS.items():
        values = [row.get(name) for row in rows if row["settings"] != FULL_CACHE]
        known = [value for value in values if value is not None]
        if column.better and len(set(known)) > 1:
            found[name] = min(known) if column.better == LESS else max(known)
    return found


def draw(rows: Sequence[Row]) -> None:
    """The table on the page, with a CSV file of it."""
    frame = pd.DataFrame(rows)
    marks = best(rows)

    def marked(column: pd.Series) -> list[str]:
        top = marks.get(str(column.name))
        own = frame["settings"] != FULL_CACHE
        return [
            _MARK if top is not None and mine and value == top else "" for value, mine in zip(column, own, strict=True)
        ]

    st.dataframe(
        frame.style.apply(marked, axis=0),
        hide_index=True,
        width="stretch",
        column_config={
            name: st.column_config.Column(
                column.label, help=column.help, width=column.width, pinned=name == "settings" or None
            )
            if column.form is None
            else st.column_config.NumberColumn(column.label, help=column.help, format=column.form, width=column.width)
            for name, column in COLUMNS.items()
            if name in frame
        },
    )


def csv(rows: Sequence[Row], taken: Mapping[str, int]) -> str:
    """The whole table for a spreadsheet, with memory in bytes."""
    table = [
        {name: value for name, value in row.items() if name not in ("memory", "saved")}
        | {"bytes": taken[row["settings"]], "bytes saved": taken[FULL_CACHE] - taken[row["settings"]]}
        for row in rows
    ]
    return str(pd.DataFrame(table).to_csv(index=False))
