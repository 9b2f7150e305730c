"""One netCDF file per result: written whole or not at all, refused with one sentence when it is not ours.

Every file carries `format` (what it is), `format_version` and the versions of the libraries that wrote it.
Numbers are compressed and checksummed, so a flipped byte in the data is found when the file is opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path

import h5py
import numpy as np
import xarray as xr

from treekv import files
from treekv.errors import TreeKVError

FORMAT_VERSION = 1

_NAMES = {
    "treekv-capture": "a capture",
    "treekv-spectrum": "a spectrum",
    "treekv-trends": "a table of trends",
    "treekv-retention": "a retention record",
    "treekv-loss": "a table of losses",
}


def versions() -> dict[str, str]:
    """Versions of the libraries that a result depends on, as netCDF attributes."""
    return {f"{name}_version": _version(name) for name in ("torch", "transformers", "xarray", "PyWavelets")}


@cache  # reading what is installed takes milliseconds, and it does not change under a running process
def _version(name: str) -> str:
    return metadata.version(name)


def write(dataset: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write `dataset`, whose attrs name its `format`, to `path`, replacing what is there; return the path.

    The file appears under its name only when it is complete. Raises TreeKVError when the folder does not
    exist or cannot be written.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise TreeKVError(f"cannot write {str(target)!r}: the folder {str(target.parent)!r} does not exist")
    if target.is_dir():
        raise TreeKVError(f"cannot write {str(target)!r}: it is a folder; give the name of a file")
    encoding = {
        # Half-precision states are close to noise: zlib would save an eighth of them and take most of the
        # time.
        str(name): {"fletcher32": True}
        if variable.dtype == np.float16
        else {"zlib": True, "complevel": 1, "shuffle": True, "fletcher32": True}
        for name, variable in dataset.variables.items()
        if variable.ndim and np.issubdtype(variable.dtype, np.number)
    }
    with files.whole(target) as temporary:
        dataset.to_netcdf(temporary, engine="h5netcdf", encoding=encoding)
    return target


def read(path: str | os.PathLike[str], format: str, required: Iterable[str] = ()) -> xr.Dataset:
    """Read a file of this `format` ("treekv-spectrum", ...) whole into memory.

    Raises TreeKVError in one sentence when there is no such file, when it is damaged, truncated or no netCDF
    file, when it holds something else, was written by a newer version, or lacks a `required` variable.
    """
    source = Path(path)
    wanted = _NAMES.get(format, format)
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
        raise TreeKVError(
            f"{str(source)!r} is not a readable netCDF file (damaged, cut short or of another kind); "
            f"expected {wanted}, so write it again"
        ) from error
    dataset.attrs = {name: _plain(value) for name, value in dataset.attrs.items()}
    found = dataset.attrs.get("format")
    if found != format:
        kind = _NAMES.get(str(found), "a netCDF file from elsewhere")
        raise TreeKVError(f"{str(source)!r} is {kind}; expected {wanted}")
    version = dataset.attrs.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise TreeKVError(f"{str(source)!r} has format version {version!r}; expected 1 to {FORMAT_VERSION}")
    if version > FORMAT_VERSION:
        raise TreeKVError(
            f"{str(source)!r} has format version {version}, newer than the {FORMAT_VERSION} that this "
            "version reads; update treekv"
        )
    missing = sorted(set(required) - {str(name) for name in dataset.variables})
    if missing:
        raise TreeKVError(f"{str(source)!r} lacks {', '.join(map(repr, missing))}; write it again")
    return dataset


def attributes(path: str | os.PathLike[str], format: str) -> dict[str, object]:
    """The attributes of a file of this `format`, without reading its arrays; TreeKVError as `read` raises."""
    try:
        with h5py.File(path) as file:
            attrs = {str(name): _plain(value) for name, value in file.attrs.items()}
    except Exception:  # let `read` find the words
        return dict(read(path, format).attrs)
    if attrs.get("format") != format or attrs.get("format_version") != FORMAT_VERSION:
        return dict(read(path, format).attrs)
    return attrs


def _plain(value: object) -> object:
    """A number as Python's own, an array as it is."""
    return value.item() if isinstance(value, np.generic) else value
