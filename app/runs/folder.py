"""A run on disk: a folder with a `run.json`, written completely or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from treekv.errors import TreeKVError

FORMAT: Final = "treekv-run"
VERSION: Final = 1

MANIFEST: Final = "run.json"
CAPTURE: Final = "capture.nc"
SPECTRUM: Final = "spectrum.nc"
TRENDS: Final = "trends.nc"
BEYOND: Final = "trends-to-the-last-token.nc"
RETENTION: Final = "retention.nc"
SETTINGS: Final = "settings.json"
ACTIVE: Final = "active.json"  # the settings that were chosen on the dashboard
REPORT: Final = "report.html"
LOSSES: Final = "losses"  # a folder with the losses that the dashboard has found


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        path: the folder.
        manifest: the content of `run.json`: the model, the text, the scores, the generated texts.
        root: if given, a folder that all files of the run must be in, links included.
    """

    path: Path
    manifest: dict[str, Any]
    root: Path | None = None

    def file(self, name: str) -> Path:
        """One of the run's files.

        Raises:
            TreeKVError: it is missing, or a link to a place outside the root.
        """
        file = self.inside(name)
        if not file.is_file():
            raise TreeKVError(f"the run folder {str(self.path)!r} lacks {name}; make it again with treekv demo")
        return file

    def has(self, name: str) -> bool:
        """Whether the run has this file, so that `file` returns it."""
        try:
            return self.file(name).is_file()
        except TreeKVError:
            return False

    def inside(self, name: str) -> Path:
        """The path of a file of the run. Raises TreeKVError if it is a link to a place outside the root."""
        file = self.path / name
        if self.root is not None and not file.resolve().is_relative_to(self.root.resolve()):
            raise TreeKVError(f"{name} of the run {self.path.name!r} is a link to a place outside the folder of runs")
        return file


def open_run(path: str | os.PathLike[str]) -> RunFolder:
    """Open a folder and check that it is a run.

    Raises:
        TreeKVError: there is no such folder, it is not a run, it is damaged, or from a newer version. In a run that is
            returned, the manifest's entries on model, text and claims have the right types if they exist.
    """
    folder = Path(path)
    if not folder.exists():
        raise TreeKVError(f"there is no run folder {str(folder)!r}; make one with treekv demo")
    if not folder.is_dir():
        raise TreeKVError(f"{str(folder)!r} is a file; give the run folder that treekv demo wrote")
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise TreeKVError(f"{str(folder)!r} is not a run folder (it has no {MANIFEST}); make one with treekv demo")
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        json.dumps(content, ensure_ascii=False).encode()  # half a surrogate pair can be read, but not shown
    except (OSError, ValueError, RecursionError) as error:
        raise TreeKVError(f"{str(manifest)!r} is damaged; make the run again with treekv demo") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise TreeKVError(f"{str(folder)!r} is not a run folder: its {MANIFEST} has another format")
    version = content.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise TreeKVError(f"run folder {str(folder)!r} has version {version!r}, this TreeKV reads up to {VERSION}")
    wrong = _wrong(content)
    if wrong is not None:
        raise TreeKVError(f"{str(manifest)!r} is damaged: {wrong}; make the run again with treekv demo")
    return RunFolder(folder, content)


def _wrong(content: dict[str, Any]) -> str | None:
    """What is wrong with the types in a manifest; None if nothing is."""
    kinds: dict[str, tuple[type, str]] = {
        "model": (str, "a name"),
        "load": (str, "a name"),
        "text": (dict, "an object"),
        "claims": (dict, "an object"),
    }
    for name, (kind, words) in kinds.items():
        if not isinstance(content.get(name, kind()), kind):
            return f"{name!r} must be {words}, got {content[name]!r:.60}"
    text = content.get("text", {})
    for name in ("title", "end"):
        if not isinstance(text.get(name, ""), str):
            return f"the text's {name!r} must be words, got {text[name]!r:.60}"
    tokens = text.get("tokens", 0)
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 0:
        return f"the text's 'tokens' must be a whole number, got {tokens!r:.60}"
    return None


def place_below(root: Path, name: str) -> Path:
    """The folder of the run `name` directly below `root`. The name can come from an address, so it is not trusted.

    Raises:
        TreeKVError: this cannot be the name of a folder, or the folder is a link to a place outside the root.
    """
    path = root / name
    plain = name not in ("", ".", "..") and not any(mark in name for mark in "/\\\0:") and name.isprintable()
    if not plain or len(name.encode()) > 200:
        raise TreeKVError(f"{name[:80]!r} cannot be the name of a run; give the name of a folder among the runs")
    real = path.resolve()
    if real == root.resolve() or not real.is_relative_to(root.resolve()):
        raise TreeKVError(f"the run {name!r} is a link to a place outside the folder of runs")
    return path


def open_below(root: Path, name: str) -> RunFolder:
    """Open the run `name` below `root`. Raises TreeKVError as `place_below` and `open_run` do."""
    path = place_below(root, name)
    if not path.exists():
        raise TreeKVError(f"there is no run {name!r} here; it may have been moved or deleted")
    RunFolder(path, {}, root).inside(MANIFEST)
    return RunFolder(path, open_run(path).manifest, root)


def recent(root: Path, most: int = 20) -> list[RunFolder]:
    """The runs directly below a folder, newest first, without damaged ones and links to other places."""
    dated = []
    try:
        manifests = [manifest for manifest in root.glob(f"*/{MANIFEST}") if not manifest.parent.name.startswith(".")]
    except OSError:
        return []
    for manifest in manifests:
        with contextlib.suppress(OSError):  # it is just being replaced, or a broken link
            dated.append((manifest.stat().st_mtime, manifest.parent.name))
    runs: list[RunFolder] = []
    for _, name in sorted(dated, reverse=True):
        if len(runs) == most:
            break
        with contextlib.suppress(TreeKVError):
            runs.append(open_below(root, name))
    return runs


def size(run: RunFolder) -> int:
    """Bytes of all files of a run, without those it links to."""
    total = 0
    for folder, _, names in os.walk(run.path):
        for name in names:
            with contextlib.suppress(OSError):  # it is just being replaced
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def delete(root: Path, name: str) -> None:
    """Delete the run `name` below `root`. Raises TreeKVError as `open_below` does, and if it cannot be deleted."""
    path = open_below(root, name).path
    try:
        if path.is_symlink():
            path.unlink()  # only the link: what it leads to has another name here
        else:
            shutil.rmtree(path)
    except OSError as error:
        raise TreeKVError(f"cannot delete the run {name!r}: {error.strerror or error}") from error


def rename(root: Path, name: str, new: str) -> None:
    """Give the run `name` below `root` another name.

    Raises:
        TreeKVError: as `open_below` does; the new name cannot be one, or is in use.
    """
    path, target = open_below(root, name).path, place_below(root, new)
    if new.startswith("."):
        raise TreeKVError(f"the run's name {new[:80]!r} starts with a dot; choose another")
    if target.exists():
        raise TreeKVError(f"there is already a run {new!r}; choose another name")
    try:
        path.rename(target)
    except OSError as error:
        raise TreeKVError(f"cannot rename the run {name!r}: {error.strerror or error}") from error


def check_output(path: str | os.PathLike[str], force: bool = False) -> None:
    """Refuse a folder that a run must not be written to, before any work.

    A previous run is replaced; anything else needs `force`.

    Raises:
        TreeKVError: it is a file, a folder of another kind, or a folder that contains the current one.
    """
    target = Path(path)
    if not target.exists():
        _writable_parent(target)
        return
    if not target.is_dir():
        raise TreeKVError(f"the output {str(target)!r} is a file; give the name of a folder")
    if Path.cwd().is_relative_to(target.resolve()):
        raise TreeKVError(f"the output {str(target)!r} contains the current folder; give the name of a new folder")
    if not force and any(target.iterdir()) and not (target / MANIFEST).is_file():
        raise TreeKVError(
            f"the output {str(target)!r} exists and is not a run folder; give another name, or use --force to "
            "replace it"
        )


@contextlib.contextmanager
def new_run(path: str | os.PathLike[str], force: bool = False) -> Iterator[Path]:
    """Yield a temporary folder to write a run into; at the end it is renamed, and replaces a previous run.

    If the body raises, the temporary folder is removed and a previous run stays.

    Raises:
        TreeKVError: the folder cannot be written, or see `check_output`.
    """
    check_output(path, force)
    target = Path(os.path.abspath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise TreeKVError(f"cannot write to {str(target.parent)!r}: {error.strerror or error}") from error
    try:
        yield temporary
        temporary.chmod(0o755)
        previous = temporary.with_name(f"{temporary.name}.old")
        if target.exists():
            os.replace(target, previous)
        try:
            os.replace(temporary, target)
        except OSError:
            if previous.exists():
                os.replace(previous, target)
            raise
        shutil.rmtree(previous, ignore_errors=True)
    except OSError as error:
        raise TreeKVError(f"cannot write the run {str(target)!r}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Write `run.json`, the last file of a run, from plain values without NaN."""
    manifest = {"format": FORMAT, "version": VERSION, **content}
    text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _writable_parent(target: Path) -> None:
    parent = next(parent for parent in Path(os.path.abspath(target)).parents if parent.exists())
    if not parent.is_dir():
        raise TreeKVError(f"cannot write {str(target)!r}: {str(parent)!r} is a file")
    if not os.access(parent, os.W_OK):
        raise TreeKVError(f"cannot write {str(target)!r}: the folder {str(parent)!r} is write-protected")
