"""Save any result to one netCDF file and open it again.

save(captured, "capture.nc")
captured = open("capture.nc", device="cuda")
found = open("spectrum.nc", "spectrum")        # refuses a file of another kind
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import xarray as xr

from analysis import netcdf
from treekv.errors import TreeKVError

if TYPE_CHECKING:
    import torch

    from analysis.captures.data import Capture

DatasetKind = Literal["spectrum", "figure2", "trends", "retention", "loss", "survival", "token-loss", "needles"]


def save(result: Capture | xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write a capture, spectrum, result of `paper.figure2`, table of trends, retention record, table of losses
    or of survival, or test with needles, and return the path.

    The file appears under its name only when it is complete. Raises TreeKVError for a dataset that is none of these,
    and when the path cannot be written.
    """
    if not isinstance(result, xr.Dataset):
        return result.save(path)
    found = result.attrs.get("format")
    if found not in netcdf.KINDS:
        raise TreeKVError(
            f"the dataset's attribute 'format' is {found!r}; expected one of {', '.join(map(repr, netcdf.KINDS))}, as "
            "results of this package have"
        )
    return netcdf.write(result, path)


@overload
def open(
    path: str | os.PathLike[str], expected: Literal["capture"], *, device: str | torch.device = ...
) -> Capture: ...
@overload
def open(path: str | os.PathLike[str], expected: DatasetKind, *, device: str | torch.device = ...) -> xr.Dataset: ...
@overload
def open(path: str | os.PathLike[str], expected: None = ..., *, device: str | torch.device = ...) -> Any: ...
def open(
    path: str | os.PathLike[str],
    expected: Literal["capture"] | DatasetKind | None = None,
    *,
    device: str | torch.device = "cpu",
) -> Capture | xr.Dataset:
    """Read what `save` wrote: a `Capture` or a Dataset, by the format that the file names.

    Args:
        path: the file.
        expected: "capture", "spectrum", "figure2", "trends", "retention", "loss", "survival" or "token-loss" to
            refuse any other kind; None accepts all.
        device: device of a capture's tensors; they are read as float16.

    Raises:
        TreeKVError: in one sentence, for a file that is missing, damaged, of another kind or newer, and for a capture
            of impossible content.
    """
    if expected is not None and f"treekv-{expected}" not in netcdf.KINDS:
        kinds = ", ".join(repr(name.removeprefix("treekv-")) for name in netcdf.KINDS)
        raise TreeKVError(f"expected must be one of {kinds}, got {expected!r}")
    dataset = netcdf.read(path, None if expected is None else f"treekv-{expected}")
    if dataset.attrs["format"] != "treekv-capture":
        return dataset
    from analysis.captures.data import Capture  # here, since it loads torch

    return Capture.from_dataset(dataset, device)
