"""A file of named tensors and a page of JSON about them: safetensors, written whole or not at all, checked when read.

A file may come from a stranger or a broken disk. Its header is measured before it is read, safetensors compares it with
the length of the file before anything is allocated, and a checksum tells whether the tensors are those that were
written. Nothing in it is executed.
"""

from __future__ import annotations

import json
import os
import stat
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from treekv import files
from treekv.errors import TreeKVError

FORMAT: Final = "treekv-cache"
VERSION: Final = 1
MOST_HEADER: Final = 32 * 2**20  # bytes: that of a large batch with a trace takes a few million
_KEY = "treekv"  # of the JSON among safetensors' metadata


def check_target(path: str | os.PathLike[str]) -> None:
    """Raise a `TreeKVError` for a place where no file can be written, before long work."""
    target = Path(path)
    if target.is_dir():
        raise TreeKVError(f"{str(target)!r} is a folder; name a file, such as context.treekv")
    if not target.parent.is_dir():
        raise TreeKVError(f"cannot write {str(target)!r}: there is no folder {str(target.parent)!r}")


def write(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors, and what `about` says of them, which JSON can hold. Only tensors of other devices are copied.

    Raises:
        TreeKVError: the file cannot be written, or there is too much to say.
    """
    check_target(path)
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    content = {"format": FORMAT, "version": VERSION, "checksum": checksum(held.values()), **about}
    page = json.dumps(content, allow_nan=False)
    if len(page) > MOST_HEADER // 2:  # the names of the tensors come beside it
        raise TreeKVError(
            f"a cache file has room for {MOST_HEADER // 2} characters beside its tensors, got {len(page)}"
        )
    with files.atomic_write(path) as temporary:
        try:
            save_file(held, temporary, metadata={_KEY: page})
        except SafetensorError as error:
            raise TreeKVError(f"cannot write {str(path)!r}: {error}") from error


class CacheFile:
    """A file that `write` wrote; only its header is read here.

    Args:
        path: where it is.

    Attributes:
        name: the path as error messages say it.
        about: the JSON, with `format`, `version` and `checksum`.

    Raises:
        TreeKVError: there is no such file, it is no plain file, or it is not one of these.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path, self.name = os.fspath(path), repr(str(path))
        self._check_header()
        try:
            with safe_open(self._path, framework="pt") as opened:
                page = (opened.metadata() or {}).get(_KEY)
                self._names = sorted(opened.keys())
        except Exception as error:  # a damaged file can fail anywhere inside safetensors
            raise self.damaged(str(error)) from error
        about = files.parse_json(page, self.name) if page is not None else None
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise TreeKVError(f"{self.name} is not a saved TreeKV cache: its header does not say {FORMAT!r}")
        version = about.get("version")
        if type(version) is not int or version < 1:
            raise self.damaged("it has no version")
        if version > VERSION:
            raise TreeKVError(
                f"{self.name} was written by a newer TreeKV (cache file version {version}, this one reads up to "
                f"{VERSION}); update TreeKV to read it"
            )
        self.about: dict[str, Any] = about

    def tensors(self, devices: Mapping[str, torch.device]) -> dict[str, Tensor]:
        """All tensors; beside them one more is in memory at a time. `devices` has that of each layer, by what names
        have before their first dot.

        Raises:
            TreeKVError: they are not those that were written.
        """
        tensors, found = {}, 0
        for name in self._names:
            own = self._tensor(name)
            found = checksum([own], found)
            tensors[name] = own.to(devices.get(name.partition(".")[0], own.device))
        if found != self.about.get("checksum"):
            raise self.damaged("its tensors are not those that were saved")
        return tensors

    def _tensor(self, name: str) -> Tensor:
        try:
            with safe_open(self._path, framework="pt") as opened:
                # safetensors maps the file into memory; the copy is ours, whatever becomes of the file.
                return opened.get_tensor(name).clone()
        except Exception as error:
            raise self.damaged(str(error)) from error

    def damaged(self, reason: str) -> TreeKVError:
        """The error to raise when the content cannot be used."""
        return TreeKVError(f"the saved cache {self.name} is damaged: {' '.join(reason.split())}; save it again")

    def _check_header(self) -> None:
        """Refuse what is no plain file, and a header that the file has no room for or that no cache needs."""
        try:
            kind = os.lstat(self._path)
            if stat.S_ISLNK(kind.st_mode):
                raise TreeKVError(f"{self.name} is a symbolic link; give the file that it leads to")
            if stat.S_ISDIR(kind.st_mode):
                raise TreeKVError(f"{self.name} is a folder; give a file that TreeKVCache.save wrote")
            if not stat.S_ISREG(kind.st_mode):
                raise TreeKVError(f"{self.name} is no plain file; give a file that TreeKVCache.save wrote")
            with open(self._path, "rb") as stream:
                start = stream.read(8)
        except FileNotFoundError as error:
            raise TreeKVError(f"there is no file {self.name}") from error
        except OSError as error:
            raise TreeKVError(f"{self.name} cannot be read: {error.strerror or error}") from error
        header = int.from_bytes(start, "little")
        if len(start) < 8 or header > kind.st_size - 8:
            raise TreeKVError(f"{self.name} is not a saved TreeKV cache, or only the beginning of one")
        if header > MOST_HEADER:
            raise self.damaged(f"its header claims {header} bytes, and no cache needs more than {MOST_HEADER}")


def as_json(value: Any, *, default: Callable[[Any], Any] | None = None) -> Any:
    """The value as it comes back from a file: lists for tuples, strings for the names in a dict. `default` says what
    stands for what JSON cannot hold.

    Raises:
        TypeError, ValueError: JSON cannot hold it.
    """
    return json.loads(json.dumps(value, allow_nan=False, default=default))


def checksum(tensors: Iterable[Tensor], start: int = 0) -> int:
    """CRC-32 of the bytes of contiguous tensors of the CPU, one after another."""
    for tensor in tensors:
        if tensor.numel():
            start = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, start)
    return start
