"""The first page: open a run, make one, and what is wrong with the input; runs stay below their root."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import analysis
from app.dashboard.actions import make_run, new_run
from app.dashboard.session import jobs
from app.dashboard.session.view import ALL
from app.runs import folder as run_folder
from app.text.wording import titled
from tests.app.pages import EVICTION_MAP, START, TEXT, WAVELETS, alternatives, opened
from treekv import TreeKVConfig, TreeKVError


def finished(test: AppTest) -> AppTest:
    """The page once its job has ended."""
    job = test.session_state["making"]
    for _ in range(6000):
        if job.ended:
            return test.run()
        job._stop.wait(0.02)
    raise AssertionError("the job never ended")


def press(test: AppTest, label: str) -> AppTest:
    return next(button for button in test.button if button.label == label).click().run()


def sentence(test: AppTest) -> str:
    assert not test.exception
    assert len(test.error) == 1
    return test.error[0].value.replace("\\", "")


def filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    test = opened(None, monkeypatch, root=tmp_path)
    test.segmented_control(key="source").set_value("Paste").run()
    test.text_area(key="pasted").set_value(TEXT)
    test.number_input(key="tokens").set_value(300)
    test.number_input(key="budget").set_value(32)
    test.text_input(key="run_name").set_value("new")
    return test.run()


def test_the_empty_folder_says_so_and_the_tour_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = opened(None, monkeypatch, root=tmp_path)
    assert "There is no run yet" in test.info[0].value
    assert next(part for part in test.expander if part.label == "A two-minute tour").proto.expanded


def test_a_run_is_made_opened_and_drawn(tiny_model: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = finished(press(filled(tmp_path, monkeypatch), "Make the run"))
    assert test.success[0].value == "The run was made and is open."
    assert test.run().success[0].value == "The run was made and is open."  # a run of the page that follows keeps it
    assert test.query_params["run"] in ("new", ["new"])
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "capture.nc", "report.html", "retention.nc", "run.json", "settings.json", "spectrum.nc",
        "trends-to-the-last-token.nc", "trends.nc",
    ]  # fmt: skip
    report = (tmp_path / "new" / "report.html").read_text()
    assert report.count("<figure>") == 5 and "What the compression costs" not in report
    run = analysis.open(tmp_path / "new" / "capture.nc")
    assert run.tokens == 300
    config = TreeKVConfig(policy="tree", cache_size=32, prefill="stream")
    assert TreeKVConfig.load(tmp_path / "new" / "settings.json") == config
    manifest = run_folder.open_run(tmp_path / "new").manifest
    assert manifest["load"] == make_run.model_names()[0]  # what the other pages load again
    assert manifest["text"] == {"title": "Pasted text", "tokens": 300, "end": "".join(run.token_text[-64:])}
    retention = analysis.open(tmp_path / "new" / "retention.nc")
    assert retention["policy"].values.tolist() == ["tree", "streaming"]
    expected = analysis.plot.eviction_map(titled(retention), policy="TreeKV").layout.meta["alt"]
    assert alternatives(test.switch_page(EVICTION_MAP).run())[0] == expected


def test_chosen_layers_alone_are_captured(tiny_model: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = filled(tmp_path, monkeypatch)
    test.text_input(key="layers").set_value("1").run()
    finished(press(test, "Make the run"))
    assert analysis.open(tmp_path / "new" / "capture.nc").layers == [1]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("pasted", " \n", "The text is empty"),
        ("budget", 0, "Budget must be a whole number of at least 1, got 0"),
        ("budget", 300, "A cache of 300 tokens evicts nothing from 300"),
        ("budget", -5, "Budget must be"),
        ("tokens", 100, "Tokens must be between 256 and 16,384 here, got 100"),
        ("tokens", 10**7, "use at most"),
        ("layers", "1-0", "The layers '1-0' cannot be read at '1-0'"),
        ("run_name", "../up", "'../up' cannot be the name of a run"),
        ("run_name", ".hidden", "starts with a dot"),
        ("simulated", [], "No policy is chosen"),
    ],
)
def test_what_is_wrong_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: object, words: str
) -> None:
    test = filled(tmp_path, monkeypatch)
    next(widget for kind in (test.text_area, test.number_input, test.text_input, test.multiselect)
         for widget in kind if widget.key == key).set_value(value).run()  # fmt: skip
    press(test, "Make the run")
    assert words in sentence(test)
    assert "making" not in test.session_state
    assert list(tmp_path.iterdir()) == []


def test_a_failed_job_shows_on_the_page_and_can_be_tried_again(
    tiny_model: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = filled(tmp_path, monkeypatch)
    test.selectbox(key="model").set_value(make_run.model_names()[0])
    test.text_area(key="pasted").set_value("w3 w4").run()
    test = finished(press(test, "Make the run"))
    assert "The text has 2 tokens" in sentence(test)
    test.text_area(key="pasted").set_value(" ").run()
    test = press(test, "Make the run")
    assert "The text is empty" in sentence(test)  # alone: the last attempt's error is gone
    test.text_area(key="pasted").set_value(TEXT).run()
    assert finished(press(test, "Make the run")).success


def test_a_run_that_another_tab_asked_for_is_found_followed_and_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_QUEUE", jobs.Queue())
    gate = threading.Event()

    def work(job: jobs.Job) -> list[str]:
        job.report(1, 4)
        gate.wait(300)
        return ["theirs"]

    job = jobs.submit("a tab that is closed", "Making theirs", work, makes=new_run.RUNS)
    test = opened(None, monkeypatch, root=tmp_path)
    assert test.get("progress")[0].proto.text.startswith("Making theirs")
    assert next(button for button in test.button if button.label == "Make the run")  # the form stays
    gate.set()
    for _ in range(3000):
        if job.ended:
            break
        job._stop.wait(0.01)
    assert test.run().success[0].value.startswith("The run theirs was made")
    assert not test.run().success


def test_each_uploaded_text_becomes_a_run(tiny_model: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = opened(None, monkeypatch, root=tmp_path)
    test.segmented_control(key="source").set_value("Upload").run()
    files = [(name, TEXT.encode(), "text/plain") for name in ("one.txt", "two.txt", "one.md")]
    test.get("file_uploader")[0].set_value(files).run()
    test.number_input(key="tokens").set_value(300)
    test.number_input(key="budget").set_value(32).run()
    test = finished(press(test, "Make 3 runs"))
    assert not test.exception
    assert test.success[0].value == ("3 runs were made. One is open; Wavelets shows the mean of those of one length.")
    model = Path(make_run.model_names()[0]).name.lower()
    names = [f"{model}-{text}" for text in ("one-300", "one-300-2", "two-300")]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"caf\xe9", "'a.txt' is not UTF-8 text (byte 3 cannot be read)"),
        (b"%PDF-1.7 x", "'a.txt' is a PDF; save its text"),
    ],
)
def test_a_file_that_is_no_text_is_said_and_the_form_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, words: str
) -> None:
    test = opened(None, monkeypatch, root=tmp_path)
    test.segmented_control(key="source").set_value("Upload").run()
    test.get("file_uploader")[0].set_value(("a.txt", content, "text/plain")).run()
    assert words in sentence(test)
    assert test.number_input(key="tokens").value == 1024
    assert next(button for button in test.button if button.label == "Make the run").disabled


def test_more_tokens_than_the_model_was_trained_with_are_refused_in_the_words_of_the_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"max_position_embeddings": 512}')
    monkeypatch.setattr(make_run, "model_names", lambda: [str(tmp_path / "model")])
    test = filled(tmp_path / "runs", monkeypatch)
    test.number_input(key="tokens").set_value(600).run()
    test = press(test, "Make the run")
    assert "was trained with texts of 512 tokens, got 600; use at most 512" in sentence(test)


def test_recent_runs_are_listed_and_opened(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        shutil.copytree(small_run, tmp_path / name)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    os.utime(tmp_path / "one" / "run.json", (1, 1))
    test = opened(None, monkeypatch, root=tmp_path)
    assert [button.key for button in test.button if button.label == "Open"] == ["open-two", "open-one"]
    test.button(key="open-one").click().run()
    assert "one" in test.query_params["run"]
    assert alternatives(test.switch_page(WAVELETS).run())


def test_a_run_is_renamed_and_deleted_on_the_page(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        shutil.copytree(small_run, tmp_path / name)
    test = opened(tmp_path / "one", monkeypatch)
    test.text_input(key="name-one").set_value("two").run()
    test.button(key="rename-one").click().run()
    assert "There is already a run 'two'" in sentence(test)
    test.text_input(key="name-one").set_value("new").run()
    test.button(key="rename-one").click().run()
    assert not test.error and (tmp_path / "new").is_dir() and "new" in test.query_params["run"]
    test.button(key="delete-new").click().run()
    assert not test.error and [path.name for path in tmp_path.iterdir()] == ["two"]
    assert "run" not in test.query_params
    assert not test.run().error


def test_another_run_comes_with_its_own_settings_and_with_no_choice_for_the_one_before(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (("one", 64), ("two", 48)):
        shutil.copytree(small_run, tmp_path / name)
        (tmp_path / name / "settings.json").unlink()
        TreeKVConfig(cache_size=size).save(tmp_path / name / "settings.json")
    test = opened(None, monkeypatch, root=tmp_path)
    seen = []
    for name in ("one", "two", "one"):
        test.switch_page(START).run().button(key=f"open-{name}").click().run()
        test.switch_page("views/compare.py").run()
        seen.append([config.cache_size for config in test.session_state["compare"]])
    assert seen == [[64] * 3, [48] * 3, [64] * 3]
    test.segmented_control(key="edited").set_value(1).run()
    test.button(key="take").click().run()
    for name, wanted in (("two", ("tree", 48)), ("one", ("streaming", 64))):
        test.switch_page(START).run().button(key=f"open-{name}").click().run()
        test.switch_page("views/take_away.py").run()
        active = test.session_state["settings"]
        assert (active.policy, active.cache_size) == wanted
        assert not [button for button in test.button if button.key == "undo-active"]
    assert not (tmp_path / "two" / "active.json").exists()
    linked = opened(None, monkeypatch, root=tmp_path, settings="h2o,cache_size=32")
    linked.button(key="open-two").click().run()
    linked.switch_page("views/take_away.py").run()
    assert linked.session_state["settings"].policy == "h2o"  # of no run


def test_the_active_configuration_is_kept_in_the_run_and_a_change_can_be_undone(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(small_run, tmp_path / "run")
    first = TreeKVConfig.load(small_run / "settings.json")
    test = opened(tmp_path / "run", monkeypatch, "views/compare.py")
    assert f"TreeKV {first.cache_size}" in test.sidebar.get("caption")[1].value
    test.segmented_control(key="edited").set_value(1).run()
    test.button(key="take").click().run()
    assert "StreamingLLM" in test.sidebar.get("caption")[1].value
    again = opened(tmp_path / "run", monkeypatch, "views/take_away.py")  # another session
    assert again.session_state["settings"].policy == "streaming"
    assert not [button for button in again.button if button.key == "undo-active"]
    test.button(key="undo-active").click().run()
    assert test.session_state["settings"] == first
    assert opened(tmp_path / "run", monkeypatch, "views/generate.py").session_state["settings"] == first
    (tmp_path / "run" / "active.json").unlink()
    (tmp_path / "run" / "active.json").mkdir()
    test.button(key="take").click().run()
    assert "kept in this session only" in test.sidebar.get("caption")[2].value


def test_two_users_do_not_see_each_others_choice(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        shutil.copytree(small_run, tmp_path / name)
    first, second = (opened(None, monkeypatch, root=tmp_path) for _ in range(2))
    first.button(key="open-one").click().run()
    second.button(key="open-two").click().run()
    first.text_input(key="run_name").set_value("mine").run()
    assert first.run().session_state["run"] == "one"
    assert second.run().session_state["run"] == "two"
    assert second.text_input(key="run_name").value == ""


@pytest.mark.parametrize("missing", ["capture.nc", "trends.nc"])
def test_a_partial_run_says_what_it_lacks(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    shutil.copytree(small_run, tmp_path / "run")
    (tmp_path / "run" / missing).unlink()
    test = opened(tmp_path / "run", monkeypatch)
    assert f"lacks {missing}" in test.warning[0].value.replace("\\", "")


@pytest.mark.parametrize(
    ("change", "words"),
    [({"text": {"tokens": "many"}}, "'tokens' must be a whole number, got 'many'"),
     ({"text": "hello"}, "'text' must be an object, got 'hello'"),
     ({"claims": "none"}, "'claims' must be an object, got 'none'")],
)  # fmt: skip
@pytest.mark.parametrize("page", [START, WAVELETS])
def test_a_damaged_manifest_is_a_sentence_and_start_goes_on_with_the_others(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str, change: dict, words: str
) -> None:
    for name in ("good", "bad"):
        shutil.copytree(small_run, tmp_path / name)
    manifest = tmp_path / "bad" / "run.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | change))
    test = opened(None, monkeypatch, root=tmp_path)
    assert not test.error
    assert [button.key for button in test.button if button.label == "Open"] == ["open-good"]
    test = opened(None, monkeypatch, page, root=tmp_path, run="bad")
    assert words in sentence(test)


def test_a_manifest_that_links_to_nowhere_hides_no_other_run(small_run: Path, tmp_path: Path) -> None:
    shutil.copytree(small_run, tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").symlink_to(tmp_path / "nowhere")
    assert [run.path.name for run in run_folder.recent(tmp_path)] == ["good"]


@pytest.mark.parametrize("name", ["..", ".", "../runs/small", "/etc", "a/b", "a\\b", "C:", "a\0b", "x" * 300, "a\nb"])
@pytest.mark.parametrize("page", [START, WAVELETS])
def test_no_address_leaves_the_root(small_run: Path, monkeypatch: pytest.MonkeyPatch, name: str, page: str) -> None:
    test = opened(None, monkeypatch, page, root=small_run.parent, run=name)
    assert "cannot be the name of a run" in sentence(test)
    assert not test.get("plotly_chart")


def test_no_link_leaves_the_root(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "leads-out").symlink_to(small_run)
    (root / "up").symlink_to(root)
    shutil.copytree(small_run, root / "inside")
    (root / "beside").symlink_to(root / "inside")
    for name in ("leads-out", "up"):
        with pytest.raises(TreeKVError, match=f"the run '{name}' is a link to a place outside"):
            run_folder.open_below(root, name)
    assert run_folder.open_below(root, "beside").manifest == run_folder.open_run(small_run).manifest
    for name in ("spectrum.nc", "run.json"):
        (root / "inside" / name).unlink()
        (root / "inside" / name).symlink_to(small_run / name)
    with pytest.raises(TreeKVError, match=r"run\.json of the run 'inside' is a link to a place outside"):
        run_folder.open_below(root, "inside")
    run = run_folder.RunFolder(root / "inside", {}, root)
    with pytest.raises(TreeKVError, match=r"spectrum\.nc of the run 'inside' is a link"):
        run.file("spectrum.nc")
    assert run_folder.recent(root) == []
    test = opened(None, monkeypatch, WAVELETS, root=root, run="leads-out")
    assert "a place outside the folder of runs" in sentence(test)


def test_a_run_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = opened(None, monkeypatch, WAVELETS, root=tmp_path, run="gone")
    assert "there is no run 'gone' here" in sentence(test)
    assert test.get("page_link")[0].proto.label == "Go to Start"


def test_layers_of_another_run_are_forgotten(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = opened(small_run, monkeypatch, layer="25")
    test.session_state["positions"] = (400, 5000)
    test.switch_page(WAVELETS).run()
    assert not test.exception
    assert test.selectbox(key="layer").value == ALL
    assert test.sidebar.slider[0].value == (304, 320)
