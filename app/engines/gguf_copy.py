"""A GGUF file as OpenVINO GenAI reads it without loss: in 16 bits."""

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
FILE_TYPE_F16: Final = 1  # GGUF's number for a file that is mostly float16


@contextlib.contextmanager
def engine_file(model: str) -> Iterator[Path]:
    """The GGUF file of an alias, or a .gguf file, for the engine; one with other weights than 16 or 32 bits as a copy.

    The engine rounds the offset of each block of Q4_1 weights to whole steps, which changes what the model says. The
    copy of an alias is kept under `TREEKV_HOME`; that of a file is removed afterwards.

    Raises:
        TreeKVError: it is neither, or cannot be read or written.
    """
    alias = ALIASES.get(model)
    if alias is None:
        if not (Path(model).is_file() and model.endswith(".gguf")):
            raise TreeKVError(
                f"engine 'openvino' reads models from GGUF: an alias ({', '.join(ALIASES)}) or a .gguf file, got "
                f"{model!r}"
            )
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
    import gguf

    try:
        read = gguf.GGUFReader(file)
        if all(tensor.tensor_type.name in EXACT for tensor in read.tensors):
            return file
        with atomic_write(copy) as temporary:
            _write(read, temporary)
    except (OSError, ValueError, IndexError, KeyError, NotImplementedError) as error:
        if isinstance(error, TreeKVError):
            raise
        raise TreeKVError(f"{str(file)!r} cannot be copied for the engine: {error}") from error
    return copy


def _write(read: Any, path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, read.fields["general.architecture"].contents())
    for name, field in read.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":  # written by the writer itself
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        content = FILE_TYPE_F16 if name == "general.file_type" else field.contents()
        writer.add_key_value(name, content, kind, sub_type=inner)
    for tensor in read.tensors:
        weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        # Vectors, such as those of normalizations, are in 32 bits in every GGUF file.
        writer.add_tensor(tensor.name, weights.astype(np.float16 if weights.ndim > 1 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
