"""Texts from files, folders and the hub; every problem becomes an error of one sentence."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import huggingface_hub

from treekv.errors import TreeKVError
from treekv.files import read_text
from treekv.models import HUB_TIMEOUT

T = TypeVar("T")


def find(paths: Sequence[str], suffixes: Sequence[str]) -> list[Path]:
    """The files given by paths, folders (files with one of `suffixes`, sorted by name) and patterns with * or ?.

    Raises:
        TreeKVError: nothing found.
    """
    found: list[Path] = []
    for path in paths:
        here = Path(path).expanduser()
        if here.is_dir():
            matches = [file for file in sorted(here.iterdir()) if file.suffix in suffixes and file.is_file()]
            if not matches:
                raise TreeKVError(f"the folder {path!r} has no {' or '.join(suffixes)} file")
        elif here.is_file():
            matches = [here]
        else:
            matches = [Path(match) for match in sorted(glob.glob(str(here))) if Path(match).is_file()]
            if not matches:
                raise TreeKVError(f"there is no file {path!r}")
        found += [file for file in matches if file not in found]
    return found


def names(paths: Sequence[str]) -> list[str]:
    """The last parts of paths, which identify files wherever the folder is (their content is hashed elsewhere)."""
    return [Path(path).name or path for path in paths]


def read_rows(file: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Read the objects of a JSON lines file.

    Raises:
        TreeKVError: a line is not a JSON object, the first one lacks one of `columns`, or there are none.
    """
    return list(rows(read_text(file), repr(str(file)), columns))


def rows(text: str, source: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Parse JSON lines from `source`; see `read_rows`."""
    empty = True
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            deep = "nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"
            raise TreeKVError(f"{source} is not JSON lines: {getattr(error, 'msg', deep)} in line {number}") from error
        if not isinstance(row, dict):
            raise TreeKVError(f"{source} is not JSON lines of objects: line {number} is {type(row).__name__}")
        if empty:
            require(row, source, columns)
        empty = False
        yield row
    if empty:
        raise TreeKVError(f"{source} is empty")


def require(row: dict[str, Any], source: str, columns: Sequence[str]) -> None:
    """Raise TreeKVError, naming the columns that a row lacks and those it has."""
    missing = [column for column in columns if column not in row]
    if missing:
        has = ", ".join(sorted(row)) or "none"
        raise TreeKVError(f"{source} lacks the column {', '.join(missing)}; it has {has}")


def from_hub(name: str, split: str, column: str) -> Iterator[str]:
    """Stream the texts of a data set on the hub: only what is consumed is downloaded.

    Raises:
        TreeKVError: `datasets` is not installed, the hub cannot be reached, or there is no such data set or column.
    """
    try:
        import datasets
    except ImportError as error:
        raise TreeKVError("data sets on the hub need the package datasets: pip install 'treekv[eval]'") from error
    check_reachable(name)
    try:
        for row in datasets.load_dataset(name, split=split, streaming=True):
            require(row, f"the data set {name!r}", [column])
            yield row[column]
    except TreeKVError:
        raise
    except Exception as error:  # datasets, the hub client and their libraries share no base class of errors
        raise load_error(f"{name!r} (split {split})", error) from error


def check_reachable(name: str) -> None:
    """Ask the hub for a data set once, with a short timeout: loading itself would retry for long.

    Raises:
        TreeKVError: no response, or no such data set.
    """
    try:
        huggingface_hub.HfApi().dataset_info(name, timeout=HUB_TIMEOUT)
    except Exception as error:  # as above
        raise load_error(repr(name), error) from error


def load_error(what: str, error: Exception) -> TreeKVError:
    """The error for a data set that could not be loaded."""
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
    return TreeKVError(f"the data set {what} cannot be loaded from the hub: {reason}; give local files instead")


def unique(named: Iterable[tuple[str, T]]) -> Iterator[tuple[str, T]]:
    """The same texts with unique names."""
    seen: dict[str, int] = {}
    for name, text in named:
        seen[name] = seen.get(name, 0) + 1
        yield (name if seen[name] == 1 else f"{name}~{seen[name]}"), text
