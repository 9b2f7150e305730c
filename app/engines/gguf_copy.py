"""A GGUF file as OpenVINO GenAI reads it right: with weights of 16 bits."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from treekv import TreeKVError
from treekv.files import atomic_write
from treekv.models import ALIASES, home, installed_version, packaged_file

EXACT: Final = ("F32", "F16")  # kinds of tensors that the engine reads as they are
ARCHITECTURES: Final = ("llama", "qwen2", "qwen3")  # that the engine builds from a GGUF file
ARCHITECTURE: Final = "general.architecture"  # the field
LARGEST_F16: Final = float(np.finfo(np.float16).max)
FILE_TYPE_F16: Final = 1  # GGUF's number for a file that is mostly float16


def check_model(model: str) -> None:
    """Raise a `TreeKVError` for what the engine cannot read: neither an alias nor a .gguf file, or another
    architecture."""
    alias = ALIASES.get(model)
    if alias is None and not (Path(model).is_file() and model.endswith(".gguf")):
        readable = ", ".join(name for name, known in ALIASES.items() if known.architecture in ARCHITECTURES)
        raise TreeKVError(
            f"engine 'openvino' reads models from GGUF: the alias {readable} or a .gguf file, got {model!r}"
        )
    found = alias.architecture if alias is not None else _read(Path(model)).fields[ARCHITECTURE].contents()
    if found not in ARCHITECTURES:
        raise TreeKVError(
            f"engine 'openvino' reads GGUF files of the architectures {', '.join(ARCHITECTURES)}; {model!r} is of "
            f"{found!r}"
        )


@contextlib.contextmanager
def engine_file(model: str) -> Iterator[Path]:
    """The GGUF file of an alias, or a .gguf file, for the engine; one with other weights than F16 or F32 as a copy.

    The engine rounds the offset of each block of Q4_1 weights to whole steps, which changes what the model says; the
    copy rounds each weight to float16 only. The copy of an alias is kept under `TREEKV_HOME`; that of a file is removed
    afterwards.

    Raises:
        TreeKVError: see `check_model`; or it cannot be read or written, or has a weight beyond the range of float16.
    """
    check_model(model)
    alias = ALIASES.get(model)
    if alias is None:
        with tempfile.TemporaryDirectory(prefix="treekv-") as folder:
            yield _exact(Path(model), Path(folder) / "model-f16.gguf")
        return
    copy = home() / "engines" / f"{alias.title}-{installed_version(alias)}-f16.gguf"
    if copy.is_file():
        yield copy
        return
    with packaged_file(alias) as file:
        try:
            copy.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TreeKVError(
                f"the copy for the engine cannot be kept in {str(copy.parent)!r}: {error.strerror or error}; set "
                "TREEKV_HOME to a folder with 1 GB of space"
            ) from error
        yield _exact(file, copy)


def _exact(file: Path, copy: Path) -> Path:
    """The file itself if the engine reads it as it is, else `copy`, which is written."""
    read = _read(file)
    try:
        if all(tensor.tensor_type.name in EXACT for tensor in read.tensors):
            return file
        with atomic_write(copy) as temporary:
            _write(read, temporary)
    except (OSError, ValueError, IndexError, KeyError, NotImplementedError) as error:
        if isinstance(error, TreeKVError):
            raise
        raise TreeKVError(f"{str(file)!r} cannot be copied for the engine: {error}") from error
    return copy


def _read(file: Path) -> Any:
    """An open `gguf.GGUFReader` of a file that says its architecture."""
    import gguf

    try:
        read = gguf.GGUFReader(file)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise TreeKVError(f"{str(file)!r} cannot be read for the engine: {error}") from error
    if ARCHITECTURE not in read.fields:
        raise TreeKVError(f"{str(file)!r} cannot be read for the engine: it has no {ARCHITECTURE}")
    return read


def _write(read: Any, path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, read.fields[ARCHITECTURE].contents())
    for name, field in read.fields.items():
        if name.startswith("GGUF.") or name == ARCHITECTURE:  # written by the writer itself
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        content = FILE_TYPE_F16 if name == "general.file_type" else field.contents()
        writer.add_key_value(name, content, kind, sub_type=inner)
    for tensor in read.tensors:
        weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if weights.ndim > 1:  # vectors, such as those of normalizations, are in 32 bits in every GGUF file
            largest = float(np.abs(weights).max())
            if largest > LARGEST_F16:
                raise ValueError(
                    f"{tensor.name!r} has a weight of {largest:,.0f}, more than the {LARGEST_F16:,.0f} of float16"
                )
            weights = weights.astype(np.float16)
        writer.add_tensor(tensor.name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
