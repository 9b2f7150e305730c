"""Files that are written completely or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from treekv.errors import TreeKVError


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary name beside `path` to write to; at the end that file is renamed to `path`.

    When the body raises, or the process is killed, what was at `path` stays as it was.

    Raises:
        TreeKVError: the file cannot be written.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        raise TreeKVError(f"cannot write {str(target)!r}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # a path below a file has no temporary file either
            temporary.unlink(missing_ok=True)
