"""A run folder appears whole or not at all, and replaces nothing but a run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from app.runs import folder as run_folder
from treekv import TreeKVError

GOOD = '{"format": "treekv-run", "version": 1, '


def write_run(path: Path, model: str = "m", force: bool = False) -> None:
    with run_folder.new_run(path, force) as folder:
        (folder / "settings.json").write_text(model)
        run_folder.write_manifest(folder, {"model": model})


def test_a_run_is_found_again(tmp_path: Path) -> None:
    write_run(tmp_path / "deep" / "run")
    run = run_folder.open_run(tmp_path / "deep" / "run")
    assert run.manifest == {"format": "treekv-run", "version": 1, "model": "m"}
    assert run.file("settings.json").read_text() == "m"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["run"]
    with pytest.raises(TreeKVError, match=r"lacks capture\.nc"):
        run.file("capture.nc")


def test_a_previous_run_is_replaced_whole(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    (tmp_path / "run" / "old").touch()
    write_run(tmp_path / "run", model="n")
    assert run_folder.open_run(tmp_path / "run").manifest["model"] == "n"
    assert not (tmp_path / "run" / "old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, TreeKVError, OSError])
def test_what_fails_half_way_leaves_what_was_there(tmp_path: Path, stop: type[BaseException]) -> None:
    write_run(tmp_path / "run")
    with pytest.raises((stop, TreeKVError)), run_folder.new_run(tmp_path / "run") as folder:
        (folder / "half").touch()
        raise stop("stopped")
    assert run_folder.open_run(tmp_path / "run").manifest["model"] == "m"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_folder_of_another_kind_needs_force(tmp_path: Path) -> None:
    other = tmp_path / "photos"
    other.mkdir()
    (other / "photo").touch()
    with pytest.raises(TreeKVError, match="exists and is not a run folder; give another name, or use --force"):
        run_folder.check_output(other)
    assert (other / "photo").exists()
    write_run(other, force=True)
    assert not (other / "photo").exists()


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "empty")
    assert run_folder.open_run(tmp_path / "empty").manifest["model"] == "m"


def test_the_current_folder_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "here" / "deeper"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    for path in (".", "..", str(tmp_path / "here")):
        with pytest.raises(TreeKVError, match="contains the current folder"):
            run_folder.check_output(path, force=True)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TreeKVError, match="is a file; give the name of a folder"):
        run_folder.check_output(tmp_path / "file", force=True)
    with pytest.raises(TreeKVError, match="is a file"):
        run_folder.check_output(tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (None, "is not a run folder"),
        ("{", "is damaged"),
        ("\xff", "is damaged"),
        ("[]", "has another format"),
        ('{"format": "treekv-settings", "version": 1}', "has another format"),
        ('{"format": "treekv-run", "version": 2}', "has version 2"),
        ('{"format": "treekv-run"}', "has version None"),
        ("[" * 100_000, "is damaged"),
        (GOOD + '"model": 3}', "'model' must be a name, got 3"),
        (GOOD + '"text": "hello"}', "'text' must be an object, got 'hello'"),
        (GOOD + '"claims": []}', r"'claims' must be an object, got \[\]"),
        (GOOD + '"text": {"tokens": "many"}}', "'tokens' must be a whole number, got 'many'"),
        (GOOD + '"text": {"tokens": true}}', "'tokens' must be a whole number, got True"),
        (GOOD + '"text": {"title": null}}', "'title' must be words, got None"),
        (GOOD + r'"text": {"title": "\ud800"}}', "is damaged"),
    ],
)
def test_folders_that_are_not_runs(tmp_path: Path, manifest: str | None, words: str) -> None:
    if manifest is not None:
        (tmp_path / "run.json").write_text(manifest, encoding="latin-1")
    with pytest.raises(TreeKVError, match=words) as caught:
        run_folder.open_run(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_no_folder_and_a_file(tmp_path: Path) -> None:
    with pytest.raises(TreeKVError, match="there is no run folder"):
        run_folder.open_run(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(TreeKVError, match="is a file"):
        run_folder.open_run(tmp_path / "file")


def test_a_manifest_holds_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        run_folder.write_manifest(tmp_path, {"number": float("nan")})


def test_a_run_is_renamed_and_deleted_below_its_root_alone(small_run: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(small_run, tmp_path / name)
    (tmp_path / "link").symlink_to(tmp_path / "two")
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    shutil.copytree(small_run, outside)
    (tmp_path / "out").symlink_to(outside)
    run = run_folder.open_below(tmp_path, "one")
    assert run_folder.size(run) == sum(file.stat().st_size for file in run.path.iterdir())
    run_folder.rename(tmp_path, "one", "other name")
    assert run_folder.open_below(tmp_path, "other name").manifest == run.manifest
    for new, words in (("two", "already a run 'two'"), ("../up", "cannot be the name"), (".x", "starts with a dot")):
        with pytest.raises(TreeKVError, match=words):
            run_folder.rename(tmp_path, "other name", new)
    for name in ("out", "..", "missing"):
        with pytest.raises(TreeKVError):
            run_folder.delete(tmp_path, name)
    (tmp_path / "no run").mkdir()
    with pytest.raises(TreeKVError, match="is not a run folder"):
        run_folder.delete(tmp_path, "no run")
    run_folder.delete(tmp_path, "link")
    run_folder.delete(tmp_path, "other name")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["no run", "out", "two"]
    assert run_folder.open_run(outside)
