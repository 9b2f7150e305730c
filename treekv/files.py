"""Files that are written completely or not at all, and text that is read or refused in one sentence."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from treekv.errors import TreeKVError

MOST_DIGITS = 30  # of a whole number in a JSON file: Python itself refuses some thousands


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


def read_text(path: str | os.PathLike[str]) -> str:
    """The text in a UTF-8 file.

    Raises:
        TreeKVError: no such file, a folder, unreadable, not UTF-8, or empty.
    """
    name = repr(str(path))
    try:
        return decoded(Path(path).read_bytes(), name)
    except FileNotFoundError as error:
        raise TreeKVError(f"there is no file {name}") from error
    except IsADirectoryError as error:
        raise TreeKVError(f"{name} is a folder; give a text file") from error
    except OSError as error:
        raise TreeKVError(f"{name} cannot be read: {error.strerror or error}") from error


def read_json(path: str | os.PathLike[str], what: str) -> Any:
    """What a JSON file holds; `what` names its content in error messages.

    Raises:
        TreeKVError: no such file, unreadable, not UTF-8, or anything that `parse_json` refuses.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise TreeKVError(f"cannot read {what} from {str(path)!r}: {reason}") from error
    return parse_json(text, repr(str(path)))


def parse_json(text: str, name: str) -> Any:
    """What JSON says; `name` is its source in error messages.

    Raises:
        TreeKVError: not JSON, nested too deeply, or a whole number that is too long to be one.
    """

    def whole(digits: str) -> int:
        if len(digits) > MOST_DIGITS:
            raise TreeKVError(
                f"{name} has a whole number of {len(digits)} digits; no number has more than {MOST_DIGITS}"
            )
        return int(digits)

    try:
        return json.loads(text, parse_int=whole)
    except json.JSONDecodeError as error:
        raise TreeKVError(f"{name} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except RecursionError as error:
        raise TreeKVError(f"{name} is nested too deeply to be read") from error


def check_text(text: str, name: str) -> None:
    """Raise TreeKVError for a text that no file can hold and no tokenizer takes: half of a surrogate pair alone."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TreeKVError(
            f"{name} has half of a surrogate pair, {text[error.start]!a}, at character {error.start}, which is no "
            'text; leave it out, for instance by text.encode("utf-8", "ignore").decode()'
        ) from error


def decoded(content: bytes, name: str) -> str:
    """UTF-8 bytes as text with line ends as newlines; `name` is their source in error messages.

    Raises:
        TreeKVError: not UTF-8, or empty.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TreeKVError(f"{name} is not UTF-8 text (byte {error.start} cannot be read)") from error
    if not text.strip():
        raise TreeKVError(f"{name} is empty; give a text")
    return text.replace("\r\n", "\n").replace("\r", "\n")
