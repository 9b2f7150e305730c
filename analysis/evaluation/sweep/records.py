"""Measurements on disk: one small file per record, written atomically and named by a hash of its definition."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from treekv.errors import TreeKVError
from treekv.files import atomic_write
from treekv.policies import OPTIONS

FORMAT: Final = "treekv-results"
VERSION: Final = 1
MARKER: Final = "results.json"
FOLDER: Final = "records"
UNFINISHED: Final = "unfinished"
# Values of settings that had another name when keys were fixed: field, former name, today's name.
_RENAMED: Final = (
    ("prefill", "tree", "once"),
    ("positions", "rank", None),  # its default was "rank" before it depended on the model
)
# Settings that came later, with the value at which they do what earlier versions did; it is left out of definitions.
_FIRST: Final = ("stride", "scope", "importance", "kernel_size", "pooling")  # the options that there always were
_ADDED: Final = {name: value for name, value in OPTIONS.items() if name not in _FIRST} | {
    "recent_budgets": None,
    "after_prompt": "evict",
}
_ADDED_OPTIONS: Final = {"ppl": {"stride": None, "stretch": None}}  # of tasks, likewise
_STALE: Final = 3600.0  # seconds after which a temporary file is left over: writing takes milliseconds


@dataclass(frozen=True)
class Definition:
    """What was measured. Records with the same definition are the same measurement.

    Attributes:
        model, dtype, device: as requested; dtype and device may be None.
        task, options: the name of the task and what defines it; what came after the first version is left out at its
            default.
        name: the name of the settings in tables.
        config: the fields of the settings, None for the full cache. Former names of values are replaced; what came
            after the first version is left out at its default.
        budget: as requested: tokens, a share such as "6.25%", or None if no budget applies.
        seed: of the policy and, if the task draws at random, of the task.
        document, content: the key of the document and a hash of its data; both None if the task could not list its
            documents.
    """

    model: str
    dtype: str | None
    device: str | None
    task: str
    options: dict[str, Any]
    name: str | None
    config: dict[str, Any] | None
    budget: int | str | None
    seed: int
    document: str | None
    content: str | None

    def __post_init__(self) -> None:
        for name, former, current in _RENAMED:
            if self.config is not None and self.config.get(name) == former:
                object.__setattr__(self, "config", {**self.config, name: current})
        if self.config is not None:
            object.__setattr__(self, "config", _without_defaults(self.config, _ADDED))
        object.__setattr__(self, "options", _without_defaults(self.options, _ADDED_OPTIONS.get(self.task, {})))

    @property
    def key(self) -> str:
        """32 hexadecimal digits, the same for former names: records of earlier versions are found by it."""
        content = dataclasses.asdict(self)
        for name, former, current in _RENAMED:
            if self.config is not None and name in self.config and self.config[name] == current:
                content["config"][name] = former
        return digest({"version": VERSION, **content})


def _without_defaults(fields: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in defaults or value != defaults[name]}


@dataclass(frozen=True)
class Record:
    """One measurement, or why it failed.

    Attributes:
        of: its definition.
        scores: numbers by name, the main one first; empty if it failed.
        detail: further output of the task.
        facts: small values of the document, such as length and depth.
        error: one sentence if it failed, else None.
        seconds: wall time.
        about: versions, machine, date, the positions that were used and, if it failed, the traceback.
    """

    of: Definition
    scores: dict[str, float] = field(default_factory=dict)
    detail: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    seconds: float = 0.0
    about: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The content of the file. Raises ValueError or TypeError for what JSON cannot represent, such as NaN."""
        # In ASCII: a text may contain what UTF-8 cannot encode, such as half of a surrogate pair.
        return json.dumps({"key": self.of.key, **dataclasses.asdict(self)}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Record:
        """A record from its file. Raises KeyError, TypeError or ValueError if it is none, or its key does not match."""
        content = json.loads(text)
        key = content.pop("key")
        record = cls(of=Definition(**content.pop("of")), **content)
        if record.of.key != key:
            raise ValueError("the key does not match the definition")
        numbers = all(isinstance(value, (int, float)) and math.isfinite(value) for value in record.scores.values())
        if not numbers or (record.error is None and not record.scores):
            raise ValueError("the scores are not finite numbers")
        return record


class Results:
    """A folder of records. Several processes may write to it at once; none ever leaves a partial record."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.damaged: list[str] = []

    def create(self) -> None:
        """Make the folder, or check that it is a results folder.

        Raises:
            TreeKVError: it cannot be made, or contains something else.
        """
        marker = self.path / MARKER
        try:
            if self.path.exists() and not marker.is_file():
                if not self.path.is_dir():
                    raise TreeKVError(f"the results {str(self.path)!r} are a file; give the name of a folder")
                if any(not entry.name.startswith(".") for entry in self.path.iterdir()):
                    raise TreeKVError(
                        f"the folder {str(self.path)!r} contains something other than results; give a new name"
                    )
            self.path.mkdir(parents=True, exist_ok=True)
            if marker.is_file():
                self.check()
            else:  # first of all, so that a kill leaves either an empty folder or one that is recognised
                _write(marker, json.dumps({"format": FORMAT, "version": VERSION}) + "\n")
            (self.path / FOLDER).mkdir(exist_ok=True)
            self._remove_stale()
        except OSError as error:
            raise TreeKVError(f"cannot write results to {str(self.path)!r}: {error.strerror or error}") from error

    def check(self) -> None:
        """Raise TreeKVError unless this is a results folder that this version can read."""
        marker = self.path / MARKER
        if not self.path.is_dir():
            raise TreeKVError(f"there is no results folder {str(self.path)!r}; make one with treekv eval")
        try:
            content = json.loads(marker.read_text(encoding="utf-8"))
        except FileNotFoundError:
            content = None
        except (OSError, ValueError, RecursionError) as error:
            raise TreeKVError(f"{str(marker)!r} cannot be read: {error}") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise TreeKVError(f"{str(self.path)!r} is not a results folder: it has no {MARKER} of treekv eval")
        version = content.get("version")
        if not isinstance(version, int) or version > VERSION:
            raise TreeKVError(
                f"the results {str(self.path)!r} have version {version!r}, this TreeKV reads up to {VERSION}"
            )

    def write(self, record: Record) -> None:
        """Write a record, replacing an earlier one of the same definition. Once this returns, it survives a power cut.

        Raises:
            TreeKVError: the disk is full or the folder is missing; an earlier record is unchanged.
        """
        try:
            _write(self._file(record.of.key), record.to_json() + "\n")
        except OSError as error:  # names the folder; the error of the file names itself
            raise TreeKVError(f"cannot write to {str(self.path)!r}: {error.strerror or error}") from error

    def remove(self, key: str) -> None:
        """Delete a record, if it exists."""
        self._file(key).unlink(missing_ok=True)

    def get(self, key: str) -> Record | None:
        """The record with this key; None if it is missing or damaged."""
        return self._read(self._file(key))

    def read(self) -> list[Record]:
        """All records, in an order that does not depend on when they were written.

        Files that are not records are left out and named in `damaged`.

        Raises:
            TreeKVError: this is not a results folder.
        """
        self.check()
        self.damaged = []
        return list(self._readable())

    def _readable(self) -> Iterator[Record]:
        for file in sorted((self.path / FOLDER).glob("*.json")):
            record = self._read(file)
            if record is None:
                self.damaged.append(file.name)
            else:
                yield record

    def _file(self, key: str) -> Path:
        return self.path / FOLDER / f"{key}.json"

    def _read(self, file: Path) -> Record | None:
        try:
            return Record.from_json(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def _remove_stale(self) -> None:
        """Remove the temporary files of killed processes."""
        before = time.time() - _STALE
        folders = (self.path, self.path / FOLDER, self.path / UNFINISHED)
        for file in [file for folder in folders for file in folder.glob(".*.tmp")]:
            try:
                if file.stat().st_mtime < before:
                    file.unlink()
            except FileNotFoundError:
                continue


def digest(content: Any) -> str:
    """A hash of JSON values, 32 hexadecimal digits, independent of the order of keys."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _write(file: Path, text: str) -> None:
    """Replace the text of a file so that a kill or power cut at any moment leaves either the new text or the old.

    The bytes are on disk before the name points to them, and the name is on disk before this returns.
    """
    with atomic_write(file) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
