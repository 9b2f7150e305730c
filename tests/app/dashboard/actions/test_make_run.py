"""The job that makes a run: errors leave nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis import memory_plan
from app.dashboard.actions import make_run
from app.dashboard.actions.make_run import RunRequest
from app.dashboard.session import loaded_model
from app.runs import folder as run_folder
from app.runs.folder import RunFolder
from app.text import wording
from tests.app.pages import TEXT
from treekv import TreeKVError

REQUEST = RunRequest("new", "tiny", "A text", TEXT, 300, "", 32, ("tree", "streaming"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [({"model": "bad"}, "there is no model 'bad'"), ({"text": "w3 w4"}, "the text has 2 tokens; at least 256"),
     ({"layers": "7"}, "layer 7")],
)  # fmt: skip
def test_what_shows_on_the_way_is_one_sentence_and_leaves_nothing(
    tiny_model: None, tmp_path: Path, change: dict, words: str
) -> None:
    from app.dashboard.session import jobs

    request = RunRequest(**{**REQUEST.__dict__, **change})
    job = jobs.submit("a", "makes", lambda job: make_run.make_all([request], tmp_path, loaded_model.get, job))
    while not job.ended:
        job._stop.wait(0.02)
    assert (job.state, words in job.error) == ("failed", True), job.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_of_several_texts_the_runs_beside_a_bad_one_are_made(tiny_model: None, tmp_path: Path) -> None:
    from app.dashboard.session import jobs

    bad = RunRequest(**{**REQUEST.__dict__, "name": "second", "title": "b.txt", "text": "w3"})
    job = jobs.submit("a", "makes", lambda job: make_run.make_all([bad, REQUEST], tmp_path, loaded_model.get, job))
    while not job.ended:
        job._stop.wait(0.02)
    assert job.error == "b.txt: the text has 1 token; at least 256 are needed; 1 of the 2 runs were made"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_of_several_texts_the_wrong_one_is_named(tmp_path: Path) -> None:
    bad = RunRequest(**{**REQUEST.__dict__, "name": "second", "title": "b.txt", "text": " "})
    with pytest.raises(TreeKVError, match=r"^b\.txt: the text is empty"):
        make_run.check_all([REQUEST, bad], tmp_path)
    with pytest.raises(TreeKVError, match=r"^the text is empty"):
        make_run.check_all([bad], tmp_path)


def test_a_policy_that_holds_prompts_whole_does_not_read_in_blocks() -> None:
    request = RunRequest(**{**REQUEST.__dict__, "cache_size": 128, "policies": ("tree", "openvino")})
    assert [config.prefill for config in make_run.configs(request).values()] == ["stream", "once"]


def test_the_last_run_of_the_model_says_what_another_will_take(small_run: Path) -> None:
    run = RunFolder(small_run, {"load": "tiny", "seconds": 30.0, "text": {"tokens": 100}})
    other = RunFolder(small_run, {"load": "other", "seconds": 1.0, "text": {"tokens": 100}})
    size = wording.size(3 * run_folder.size(run))
    assert make_run.estimate(REQUEST, [other, run]) == (
        f"About 90 s and {size} of disk, as far as the run 'small' says; a shorter text takes less."
    ).replace("90 s", wording.duration(90))
    assert make_run.estimate(REQUEST, [other]) == ""  # nothing is known of this model
    assert [wording.duration(seconds) for seconds in (0.2, 45, 200, 9000)] == ["1 s", "45 s", "3 min", "2.5 h"]


def test_before_the_first_run_its_size_and_the_pace_of_the_machine_say_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = memory_plan.ModelSizes([], kv_heads=2, query_heads=4, head_dim=8, parameters=10**8)
    monkeypatch.setattr(make_run, "sizes_here", lambda model: sizes)
    monkeypatch.setattr(make_run, "multiplications_a_second", lambda: make_run.WORK * 1e9)
    words = make_run.estimate(REQUEST, [])
    assert words.startswith("About 30 s, ") and words.endswith(
        "as far as the size of the model says; a shorter text takes less."
    )
    assert " of memory and " in words and " of disk" in words


def test_the_pace_of_the_machine_is_measured() -> None:
    assert 1e6 < make_run.multiplications_a_second() < 1e15


def test_a_name_that_is_taken(small_run: Path) -> None:
    with pytest.raises(TreeKVError, match="there is already a run 'small'"):
        make_run.check(RunRequest(**{**REQUEST.__dict__, "name": "small"}), small_run.parent)
    assert make_run.free_name(small_run.parent, "a/B c", "Das Ding!", 300) == "b-c-das-ding-300"
    (small_run.parent / "x").mkdir(exist_ok=True)
    assert make_run.free_name(small_run.parent, "x", "", 1) == "x-1"
