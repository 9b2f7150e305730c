"""Captures of several texts, in memory or one file each in a folder.

    captures = capture_many(model, tokenizer, {"novel": novel, "code": code}, folder="captures")
    mean_spectrum([spectrum(captured) for captured in captures])
    captures = open_captures("captures")

With a folder the work can be interrupted at any time: each text is written when it is done, and the next call
resumes at the first one that is missing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import torch
from torch import nn

from analysis import netcdf
from analysis.captures.capture import run_request
from analysis.captures.data import FORMAT, Capture, open_capture
from analysis.captures.request import CaptureRequest, Text
from analysis.progress import Progress
from treekv.errors import TreeKVError

Result = TypeVar("Result")


class CaptureFiles(Sequence[Capture]):
    """Captures on disk as a sequence; each is read when it is indexed and not cached."""

    def __init__(self, paths: Sequence[Path], device: str | torch.device = "cpu") -> None:
        self.paths = list(paths)
        self.device = device

    @property
    def names(self) -> list[str]:
        """The file names without their suffix."""
        return [path.stem for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> Capture: ...
    @overload
    def __getitem__(self, index: slice) -> CaptureFiles: ...
    def __getitem__(self, index: int | slice) -> Capture | CaptureFiles:
        if isinstance(index, slice):
            return CaptureFiles(self.paths[index], self.device)
        return open_capture(self.paths[index], self.device)


def capture_many(
    model: nn.Module,
    tokenizer: Any,
    texts: Mapping[str, Text] | Sequence[Text],
    max_tokens: int = 2048,
    queries: int = 16,
    *,
    layers: Sequence[int] | None = None,
    sensitivity: bool = False,
    folder: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Sequence[Capture]:
    """`capture` of each text. Returns a list, or with a folder a `CaptureFiles` that reads each capture on demand.

    `texts` is a dictionary of names and texts, or a sequence, whose texts are named text-000, text-001 ... In
    `folder`, which is created if need be, each becomes NAME.nc; a text whose file exists already is not captured
    again. `progress` is called with (done, total), counted in layers of all texts (twice with `sensitivity`). All texts
    are checked before the model runs.

    Raises TreeKVError as `capture` does (naming the text), for no texts, a name that is no file name, and for a
    file in the folder that contains something else than this text with these settings, or is of another model:
    one of another name, or whose configuration or parameters differ (a file from before captures recorded the model's
    fingerprint is compared by name only).
    """
    requests = request_many(model, tokenizer, texts, max_tokens, queries, layers, sensitivity=sensitivity)
    job = CaptureJob(partial(run_request, model), CaptureRequest.fingerprint, Capture.save, FORMAT)
    return (
        job.in_memory(requests, progress) if folder is None else CaptureFiles(job.in_folder(requests, folder, progress))
    )


def open_captures(folder: str | os.PathLike[str], device: str | torch.device = "cpu") -> CaptureFiles:
    """The captures in a folder, in the order of their names, each read when it is indexed.

    Raises TreeKVError when there is no such folder or nothing in it; a file that is no capture is refused when
    it is read.
    """
    place = Path(folder)
    if not place.is_dir():
        raise TreeKVError(f"there is no folder {str(place)!r}; capture_many makes one")
    paths = sorted(place.glob("*.nc"))
    if not paths:
        raise TreeKVError(f"the folder {str(place)!r} contains no capture (*.nc)")
    return CaptureFiles(paths, device)


def request_many(
    model: nn.Module,
    tokenizer: Any,
    texts: Mapping[str, Text] | Sequence[Text],
    max_tokens: int,
    queries: int,
    layers: Sequence[int] | None,
    check: Callable[[CaptureRequest], object] = lambda request: None,
    sensitivity: bool = False,
) -> dict[str, CaptureRequest]:
    """One checked request a text, by name; `check` may refuse one too. A TreeKVError names the text."""
    requests = {}
    for name, text in _named(texts).items():
        try:
            requests[name] = CaptureRequest.of(model, tokenizer, text, max_tokens, queries, layers, sensitivity)
            check(requests[name])
        except TreeKVError as error:
            raise TreeKVError(f"text {name!r}: {error}") from error
    return requests


@dataclass(frozen=True)
class CaptureJob(Generic[Result]):
    """What is computed of each text while the model runs, and how its file is written.

    Attributes:
        run: computes the result of a request.
        fingerprint: of a request; a file with the same one has the same content.
        save: writes a result to a path.
        file_format: the `format` attribute of the files.
    """

    run: Callable[[CaptureRequest, Progress], Result]
    fingerprint: Callable[[CaptureRequest], str]
    save: Callable[[Result, Path], object]
    file_format: str

    def in_memory(self, requests: Mapping[str, CaptureRequest], progress: Progress | None = None) -> list[Result]:
        """The result of every request, in order."""
        counter = _Counter(requests, progress)
        return [self.run(request, counter.next_text(request)) for request in requests.values()]

    def in_folder(
        self, requests: Mapping[str, CaptureRequest], folder: str | os.PathLike[str], progress: Progress | None = None
    ) -> list[Path]:
        """Write NAME.nc of every request whose file does not exist yet; return the paths of all.

        Raises TreeKVError when the folder cannot be made or contains a file of another text, settings or model.
        """
        target = _folder(folder)
        paths = {name: target / f"{name}.nc" for name in requests}
        finished = {name for name, request in requests.items() if self._is_finished(paths[name], request)}
        counter = _Counter(requests, progress)
        for name, request in requests.items():
            advance = counter.next_text(request)
            if name in finished:
                advance(request.steps, request.steps)
            else:
                self.save(self.run(request, advance), paths[name])
        return list(paths.values())

    def _is_finished(self, path: Path, request: CaptureRequest) -> bool:
        if not path.exists():
            return False
        attrs = netcdf.attributes(path, self.file_format)
        mine = request.attrs["model_fingerprint"]
        if attrs.get("model_fingerprint", mine) != mine:
            raise TreeKVError(
                f"{str(path)!r} is of another model that is also called {request.model!r}, or of other weights of it; "
                "give another folder, or remove the file"
            )
        if attrs.get("fingerprint") != self.fingerprint(request):
            raise TreeKVError(
                f"{str(path)!r} contains another text, model or other settings than requested; "
                "give another folder, or remove the file"
            )
        return True


class _Counter:
    """Reports the steps of all texts as one progress."""

    def __init__(self, requests: Mapping[str, CaptureRequest], progress: Progress | None) -> None:
        self.total = sum(request.steps for request in requests.values())
        self.progress = progress
        self.started = 0  # steps of the texts so far

    def next_text(self, request: CaptureRequest) -> Progress:
        before = self.started
        self.started += request.steps

        def advance(step: int, _: int) -> None:
            if self.progress is not None:
                self.progress(before + step, self.total)

        return advance


def _named(texts: Mapping[str, Text] | Sequence[Text]) -> dict[str, Text]:
    if isinstance(texts, str):
        raise TreeKVError("several texts are a list or a dictionary, not one string; use capture for one text")
    named = dict(texts) if isinstance(texts, Mapping) else {f"text-{i:03d}": text for i, text in enumerate(texts)}
    if not named:
        raise TreeKVError("there is no text to capture; give at least one")
    for name in named:
        if not name or name != Path(name).name or name.startswith("."):
            raise TreeKVError(f"the text's name {name!r} cannot be a file name; leave out slashes and leading dots")
    return named


def _folder(folder: str | os.PathLike[str]) -> Path:
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TreeKVError(f"cannot make the folder {str(place)!r}: {error.strerror or error}") from error
    return place
