"""The records of a sweep in one small file, a line for each document, from which every table can be made again.

What answers said, details of windows, names of machines and most of the loss by position are left out; so are failures.
A sweep whose results folder has got these records back measures only what is missing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from analysis.evaluation.sweep.records import Definition, Record, Results
from treekv.errors import TreeKVError
from treekv.files import atomic_write, read_json

FORMAT: Final = "treekv-summary"
VERSION: Final = 1
ANSWER: Final = "(left out of the summary)"
_DIGITS: Final = 8  # of a score
_SHORTEST: Final = 256  # tokens of a text whose loss by position is kept
_MACHINE: Final = ("processor", "cores", "threads", "gpu", "gpus")  # what is kept of it
_TASK: Final = ("model", "dtype", "device", "task", "options", "seed")
_SETTINGS: Final = ("name", "config", "budget")
_PARTS: Final = ("environments", "documents", "tasks", "settings")


def write_summary(path: str | os.PathLike[str], records: Iterable[Record]) -> int:
    """Write what succeeded of `records` to a file, and return how many records that were.

    The file does not depend on the order of the records, so that it changes only where a measurement does.

    Raises:
        TreeKVError: the file cannot be written.
    """
    done = sorted((record for record in records if record.error is None), key=_order)
    parts: dict[str, dict[str, int]] = {name: {} for name in _PARTS}
    cells: dict[str, list[str]] = {}
    for record in done:
        of, own = record.of, {name: record.about.get(name) for name in ("versions", "positions")}
        machine = {name: value for name, value in record.about.get("machine", {}).items() if name in _MACHINE}
        by = _coarse(record.detail.get("by_position"))
        cell = {
            "task": _index(parts["tasks"], {name: getattr(of, name) for name in _TASK}),
            "settings": _index(parts["settings"], {name: getattr(of, name) for name in _SETTINGS}),
            "environment": _index(parts["environments"], {**own, "machine": machine}),
            "scores": list(record.scores),
            "answers": "answer" in record.detail,
            "by_position": None if by is None else {"position": by["position"], "tokens": by["tokens"]},
        }
        document = _index(parts["documents"], [of.document, of.content, record.facts])
        scores = [_rounded(value) for value in record.scores.values()]
        losses = [] if by is None else [[_rounded(loss, 6) for loss in by["loss"]]]
        line = [document, record.about.get("date"), round(record.seconds, 2), *scores, *losses]
        cells.setdefault(_json(cell), []).append(_json(line))
    with atomic_write(path) as temporary:
        temporary.write_text("".join(_text(parts, cells)), encoding="utf-8")
    return len(done)


def read_summary(path: str | os.PathLike[str]) -> list[Record]:
    """The records of a file that `write_summary` made.

    Raises:
        TreeKVError: it cannot be read, is no summary, is damaged, or was made by a later version.
    """
    content = read_json(path, "a summary of results")
    name = repr(str(path))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise TreeKVError(f"{name} is not a summary of results")
    if not isinstance(content.get("version"), int) or content["version"] > VERSION:
        raise TreeKVError(f"{name} has version {content.get('version')!r}, this TreeKV reads up to {VERSION}")
    try:
        records = list(_records(content))
        for record in records:  # what a record on disk must fulfil
            Record.from_json(record.to_json())
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise TreeKVError(f"{name} is damaged: {type(error).__name__}: {error}") from error
    return records


def restore(path: str | os.PathLike[str], results: Results) -> int:
    """Write the records of a summary into a results folder that lacks them, and return how many it lacked."""
    results.create()
    there = {record.of.key for record in results.read() if record.error is None}
    missing = [record for record in read_summary(path) if record.of.key not in there]
    for record in missing:
        results.write(record)
    return len(missing)


def read_records(path: str | os.PathLike[str]) -> tuple[list[Record], list[str]]:
    """The records of a results folder, or of a summary file; and the names of damaged files in the folder.

    Raises:
        TreeKVError: it is neither.
    """
    if Path(path).is_file():
        return read_summary(path), []
    results = Results(path)
    return results.read(), list(results.damaged)


def _records(content: dict[str, Any]) -> Iterator[Record]:
    for cell in content["cells"]:
        task, settings = content["tasks"][cell["task"]], content["settings"][cell["settings"]]
        names, by = cell["scores"], cell["by_position"]
        environment = {key: value for key, value in content["environments"][cell["environment"]].items() if value}
        for index, date, seconds, *values in cell["rows"]:
            document, document_content, facts = content["documents"][index]
            if len(values) != len(names) + (by is not None):
                raise ValueError("a row and its columns differ in number")
            detail: dict[str, Any] = {"answer": ANSWER} if cell["answers"] else {}
            if by is not None:
                detail["by_position"] = {**by, "loss": values[-1]}
            yield Record(
                of=Definition(**task, **settings, document=document, content=document_content),
                scores=dict(zip(names, values[: len(names)], strict=True)),
                detail=detail,
                facts=facts,
                seconds=seconds,
                about={"date": date, **environment},
            )


def _coarse(by: dict[str, Any] | None) -> dict[str, Any] | None:
    """Loss by position in 8 cells, or in one for each 2,048 tokens of a text that is longer than that makes; None of a
    text that is too short for it."""
    if by is None or sum(by["tokens"]) < _SHORTEST:
        return None
    width = -(-len(by["loss"]) // max(8, min(64, sum(by["tokens"]) // 2048)))
    groups = [slice(at, at + width) for at in range(0, len(by["loss"]), width)]
    tokens = [sum(by["tokens"][group]) for group in groups]
    total = [sum(x * n for x, n in zip(by["loss"][group], by["tokens"][group], strict=True)) for group in groups]
    return {
        "position": [by["position"][group][0] for group in groups],
        "tokens": tokens,
        "loss": [loss / n for loss, n in zip(total, tokens, strict=True)],
    }


def _text(parts: dict[str, dict[str, int]], cells: dict[str, list[str]]) -> Iterator[str]:
    yield f'{{"format": "{FORMAT}", "version": {VERSION}'
    for name, items in parts.items():
        yield f',\n"{name}": [\n' + ",\n".join(items) + "\n]"
    whole = [cell[:-1] + ', "rows": [\n' + ",\n".join(rows) + "\n]}" for cell, rows in cells.items()]
    yield ',\n"cells": [\n' + ",\n".join(whole) + "\n]}\n"


def _index(items: dict[str, int], value: Any) -> int:
    return items.setdefault(_json(value), len(items))


def _order(record: Record) -> tuple[str, str]:
    of = record.of
    return _json([getattr(of, name) for name in (*_TASK, *_SETTINGS)]), _json([of.document, of.content])


def _rounded(value: float, digits: int = _DIGITS) -> float:
    return float(f"{value:.{digits}g}")


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False)
