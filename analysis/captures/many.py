"""Captures of several texts, in memory or one file each in a folder.

    runs = capture_many(model, tokenizer, {"novel": novel, "code": code}, folder="captures")
    pool([spectrum(run) for run in runs])
    runs = open_captures("captures")

With a folder the work can be interrupted at any time: each text is written when it is done, and the next call
goes on with the first that is missing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import torch
import xarray as xr
from torch import nn

from analysis import netcdf
from analysis.captures.capture import FORMAT, Capture, Progress, open_capture, run_job
from analysis.captures.request import Job, Text, prepare
from analysis.wavelets.spectrum import FORMAT as SPECTRUM_FORMAT
from analysis.wavelets.spectrum import open_spectrum, save_spectrum
from treekv.errors import TreeKVError


class CaptureFiles(Sequence[Capture]):
    """Captures on disk as a sequence; each is read when it is asked for and not kept."""

    def __init__(self, paths: Sequence[Path], device: str | torch.device = "cpu") -> None:
        self.paths = list(paths)
        self.device = device

    @property
    def names(self) -> list[str]:
        """The files' names without their ending."""
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
    keep: str = "qkv",
    folder: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Sequence[Capture] | list[xr.Dataset]:
    """`capture` of each text. Returns a list, or with a folder a `CaptureFiles` that reads when asked.

    `texts` is a dictionary of names and texts, or a sequence, whose texts are called text-000, text-001 ... In
    `folder`, which is made if need be, each becomes NAME.nc; a text whose file is there already is not captured
    again. With keep="spectrum" the files are spectra, and the result is a list of them. `progress` is called with
    (done, total), counted in layers of all texts. All texts are checked before the model runs.

    Raises TreeKVError as `capture` does (naming the text), for no texts, a name that is no file name, and for a
    file in the folder that holds something else than this text with these settings, or that is of another model: one
    of another name, or whose configuration or parameters differ (a file from before captures recorded this is told
    by the name only).
    """
    named = _named(texts)
    jobs = {}
    for name, text in named.items():
        try:
            jobs[name] = prepare(model, tokenizer, text, max_tokens, queries, layers, keep, settings)
        except TreeKVError as error:
            raise TreeKVError(f"text {name!r}: {error}") from error
    target = None if folder is None else _folder(folder)
    there = set() if target is None else {name for name in jobs if _holds(target / f"{name}.nc", jobs[name])}
    total = sum(len(job.layers) for job in jobs.values())
    done, found = 0, []
    for name, job in jobs.items():
        if name not in there:

            def advance(layer: int, _: int, before: int = done) -> None:
                if progress is not None:
                    progress(before + layer, total)

            result = run_job(model, job, advance)
            if target is None:
                found.append(result)
            elif isinstance(result, Capture):
                result.save(target / f"{name}.nc")
            else:
                save_spectrum(result, target / f"{name}.nc")
            del result  # the next capture needs the room
        done += len(job.layers)
        if name in there and progress is not None:
            progress(done, total)
    if target is None:
        return found  # type: ignore[return-value]
    paths = [target / f"{name}.nc" for name in jobs]
    return [open_spectrum(path) for path in paths] if keep == "spectrum" else CaptureFiles(paths)


def open_captures(folder: str | os.PathLike[str], device: str | torch.device = "cpu") -> CaptureFiles:
    """The captures in a folder, in the order of their names, each read when asked for.

    Raises TreeKVError when there is no such folder or nothing in it; a file that is no capture is refused when
    it is read.
    """
    place = Path(folder)
    if not place.is_dir():
        raise TreeKVError(f"there is no folder {str(place)!r}; capture_many makes one")
    paths = sorted(place.glob("*.nc"))
    if not paths:
        raise TreeKVError(f"the folder {str(place)!r} holds no capture (*.nc)")
    return CaptureFiles(paths, device)


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


def _holds(path: Path, job: Job) -> bool:
    if not path.exists():
        return False
    attrs = netcdf.attributes(path, SPECTRUM_FORMAT if job.keep == "spectrum" else FORMAT)
    mine = job.attrs["model_fingerprint"]
    if attrs.get("model_fingerprint", mine) != mine:
        raise TreeKVError(
            f"{str(path)!r} is of another model that is also called {job.model!r}, or of other weights of it; "
            "give another folder, or remove the file"
        )
    if attrs.get("fingerprint") != job.fingerprint:
        raise TreeKVError(
            f"{str(path)!r} holds another text, model or other settings than asked for; "
            "give another folder, or remove the file"
        )
    return True
