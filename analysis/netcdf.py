"""One netCDF file per result: written completely or not at all, and checked when it is read.

Every file carries `format` (what it is), `format_version` and the versions of the libraries that wrote it.
Numbers are compressed and checksummed, so corrupt data is detected when the file is opened.
"""

from __future__ import annotations

import os
import sys
import traceback
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import xarray as xr

from treekv import files
from treekv.errors import TreeKVError

FORMAT_VERSION = 1


class Kind(NamedTuple):
    """One kind of result file.

    Attributes:
        title: what error sentences call it.
        required: variables that every file of it has.
    """

    title: str
    required: tuple[str, ...]


KINDS = {  # by the attribute `format` of the file
    "treekv-capture": Kind("a capture", ("q", "k", "v", "scaling", "layer", "token", "token_id", "query_position")),
    "treekv-spectrum": Kind("a spectrum", ("amplitude", "coefficient", "sink_amplitude", "band", "level", "position")),
    "treekv-figure2": Kind("the paper's figure 2", ("amplitude", "query_amplitude", "band", "level", "position")),
    "treekv-trends": Kind("a table of trends", ("growth", "rank_correlation", "p_value", "claim_i")),
    "treekv-retention": Kind("a retention record", ("evicted_at", "survivor", "policy", "layer", "head")),
    "treekv-survival": Kind("a table of survival", ("survival", "energy", "policy", "band", "distance")),
    "treekv-token-loss": Kind("a table of losses by token", ("loss", "policy", "position")),
    "treekv-needles": Kind("a test with needles", ("found", "policy", "question", "depth")),
    "treekv-loss": Kind("a table of losses", ("mass", "error", "policy", "layer", "query")),
}


def versions() -> dict[str, str]:
    """Versions of the libraries that a result depends on, as netCDF attributes."""
    return {f"{name}_version": _version(name) for name in ("torch", "transformers", "xarray", "PyWavelets")}


@cache  # reading the metadata takes milliseconds, and it does not change while the process runs
def _version(name: str) -> str:
    return metadata.version(name)


def write(dataset: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write `dataset`, whose attrs name its `format`, to `path`, replacing an existing file; return the path.

    The file appears under its name only when it is complete. Raises TreeKVError when the folder does not
    exist or cannot be written.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise TreeKVError(f"cannot write {str(target)!r}: the folder {str(target.parent)!r} does not exist")
    if target.is_dir():
        raise TreeKVError(f"cannot write {str(target)!r}: it is a folder; give the name of a file")
    encoding = {
        # Half-precision states hardly compress: zlib would save an eighth and take most of the time.
        str(name): {"fletcher32": True}
        if variable.dtype == np.float16
        else {"zlib": True, "complevel": 1, "shuffle": True, "fletcher32": True}
        for name, variable in dataset.variables.items()
        if variable.ndim and np.issubdtype(variable.dtype, np.number)
    }
    with files.atomic_write(target) as temporary:
        dataset.to_netcdf(temporary, engine="h5netcdf", encoding=encoding)
    return target


def read(path: str | os.PathLike[str], expected: str | None = None) -> xr.Dataset:
    """Read a result file whole into memory; `expected` is its format ("treekv-spectrum", ...), any when None.

    Raises TreeKVError in one sentence when there is no such file, when it is damaged, truncated or no netCDF
    file, when it contains something else, was written by a newer version, or lacks a required variable.
    """
    source = Path(path)
    wanted = "a result" if expected is None else KINDS[expected].title
    if not source.exists():
        raise TreeKVError(f"there is no file {str(source)!r}; expected {wanted} written by this project")
    if source.is_dir():
        raise TreeKVError(f"{str(source)!r} is a folder; expected the file of {wanted}")
    try:
        with h5py.File(source):  # h5netcdf complains on stderr when it cannot even open a file
            pass
        dataset = xr.load_dataset(source, engine="h5netcdf")
    except PermissionError as error:
        raise TreeKVError(f"{str(source)!r} may not be read: {error.strerror}") from error
    except Exception as error:  # a damaged file can fail anywhere inside HDF5, h5netcdf or xarray
        _drop_quietly(error)
        raise TreeKVError(
            f"{str(source)!r} is not a readable netCDF file (damaged, cut short or of another kind); "
            f"expected {wanted}, so write it again"
        ) from error
    dataset.attrs = {name: _plain(value) for name, value in dataset.attrs.items()}
    found = str(dataset.attrs.get("format"))
    if found not in KINDS or (expected is not None and found != expected):
        title = KINDS[found].title if found in KINDS else "a netCDF file from elsewhere"
        raise TreeKVError(f"{str(source)!r} is {title}; expected {wanted}")
    version = dataset.attrs.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise TreeKVError(f"{str(source)!r} has format version {version!r}; expected 1 to {FORMAT_VERSION}")
    if version > FORMAT_VERSION:
        raise TreeKVError(
            f"{str(source)!r} has format version {version}, newer than the {FORMAT_VERSION} that this "
            "version reads; update treekv"
        )
    missing = sorted(set(KINDS[found].required) - {str(name) for name in dataset.variables})
    if missing:
        raise TreeKVError(f"{str(source)!r} lacks {', '.join(map(repr, missing))}; write it again")
    return dataset


def _drop_quietly(error: BaseException | None) -> None:
    """Release what the frames of an exception hold: h5netcdf cannot close a file that it could not open, and Python
    would print a traceback about that."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda unraisable: None
    try:
        while error is not None:
            traceback.clear_frames(error.__traceback__)
            error = error.__cause__ or error.__context__
    finally:
        sys.unraisablehook = hook


def attributes(path: str | os.PathLike[str], expected: str) -> dict[str, object]:
    """The attributes of a file of this format, without reading its arrays; TreeKVError as `read` raises."""
    try:
        with h5py.File(path) as file:
            attrs = {str(name): _plain(value) for name, value in file.attrs.items()}
    except Exception:  # `read` raises the right error
        return dict(read(path, expected).attrs)
    if attrs.get("format") != expected or attrs.get("format_version") != FORMAT_VERSION:
        return dict(read(path, expected).attrs)
    return attrs


def _plain(value: object) -> object:
    """Numpy scalars as Python's own numbers, anything else unchanged."""
    return value.item() if isinstance(value, np.generic) else value
