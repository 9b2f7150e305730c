"""The commands eval and report: a real model folder, real kills, one sentence for whatever is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from analysis.evaluation.sweep.records import Record, Results
from app.dashboard.pages import MAIN, ROOT_VARIABLE, RUN_VARIABLE
from tests import tiny
from tests.app.cli.commands import invoke
from tests.app.conftest import words_tokenizer

ROOT = Path(__file__).resolve().parents[3]
EVIL = "<img/src=x>"
TASK = "{task: ppl, files: [x.txt]}"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep file over a tiny model and four texts."""
    folder = tmp_path_factory.mktemp("sweep")
    tiny.llama().save_pretrained(folder / "model")
    words_tokenizer().save_pretrained(folder / "model")
    (folder / "texts").mkdir()
    for text in range(4):
        words = [f"w{(number * (text + 3)) % 90 + 2}" for number in range(300)]
        (folder / "texts" / f"t{text}.txt").write_text(" ".join(words))
    (folder / "grid.yaml").write_text(f"""
models: [{folder / "model"}]
policies: [full, streaming, {{name: tree, policy: tree, stride: 2}}]
budgets: [16, 12.5%]
tasks: [{{task: ppl, files: ["{folder / "texts"}"], lengths: [256]}}]
""")
    return folder / "grid.yaml"


@pytest.fixture(scope="module")
def measured(sweep: Path) -> Path:
    """Its results, made without disturbance. Tests only read them."""
    results = sweep.parent / "undisturbed"
    done = invoke("eval", sweep, "--output", results)
    assert done.exit_code == 0, done.output
    assert f"20 measured, 0 already there, 0 failed; results in {results}" in done.stdout
    return results


def scores(results: Path) -> dict[str, dict[str, float]]:
    """By the record's key. Not all digits: a matrix product depends on where its operands lie in memory."""
    return {r.of.key: pytest.approx(r.scores, rel=1e-5) for r in Results(results).read()}


def rows(results: Path) -> list[dict]:
    shown = invoke("report", results, "--json")
    assert shown.exit_code == 0, shown.output
    return json.loads(shown.stdout)["rows"]


def number(estimate: dict | None) -> object:
    return estimate and pytest.approx(estimate, rel=1e-4, abs=1e-4)


def markdown(results: Path) -> str:
    shown = invoke("report", results)
    assert shown.exit_code == 0, shown.output
    return shown.stdout


def started(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "app.cli", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    # Tests that run in the background of a shell inherit that Ctrl-C is ignored.
    return subprocess.Popen(command, cwd=ROOT, env=environment, preexec_fn=heed_ctrl_c, **pipes)


def heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for_records(results: Path, more_than: int, process: subprocess.Popen[str]) -> int:
    while process.poll() is None:
        count = len(list((results / "records").glob("*.json")))
        if count > more_than:
            return count
        time.sleep(0.02)
    raise AssertionError(f"it ended with {len(scores(results))} records: {process.communicate()}")


def test_killed_and_stopped_the_command_ends_with_the_same_table(sweep: Path, measured: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    process = started("eval", sweep, "--output", results)
    wait_for_records(results, 1, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    after_kill = scores(results)
    assert 2 <= len(after_kill) < 20

    process = started("eval", sweep, "--output", results)
    wait_for_records(results, len(after_kill), process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130, err
    assert "the same command continues from here" in err
    assert f"{len(after_kill)} already there, 0 failed" in out
    assert "Traceback" not in err
    after_stop = scores(results)
    assert after_stop.keys() > after_kill.keys()
    assert len(after_stop) < 20

    done = invoke("eval", sweep, "--output", results, "--json")
    assert done.exit_code == 0
    content = json.loads(done.stdout)
    assert (content["skipped"], content["measured"]) == (len(after_stop), 20 - len(after_stop))
    assert {r.of.key: r.scores for r in Results(results).read()} == scores(measured)
    made = [[row["name"], row["budget"], row["estimate"], row["difference"]] for row in rows(results)]
    assert made == [
        [row["name"], row["budget"], number(row["estimate"]), number(row["difference"])] for row in rows(measured)
    ]


def test_the_command_line_is_a_grid_too(sweep: Path, measured: Path, tmp_path: Path) -> None:
    folder = sweep.parent
    task = json.dumps({"task": "ppl", "files": [str(folder / "texts")], "lengths": [256]})
    arguments = ["--model", folder / "model", "--task", task, "--budget", "16", "--budget", "12.5%"]
    policies = ["--policy", "full", "--policy", "streaming", "--policy", "{name: tree, policy: tree, stride: 2}"]
    again = invoke("eval", *arguments, *policies, "--output", measured)
    assert again.exit_code == 0, again.output
    assert "0 measured, 20 already there" in again.stdout
    # The block of every perplexity.
    blocks = invoke("eval", sweep, "--policy", "tree", "--budget", 16, "--decode-block", 8, "--output", tmp_path / "b")
    assert blocks.exit_code == 0, blocks.output
    assert {record.of.options["decode_block"] for record in Results(tmp_path / "b").read()} == {8}
    # Options replace the file's lists.
    one = invoke("eval", sweep, "--policy", "tree", "--budget", 16, "--set", "stride=2", "--output", tmp_path / "one")
    assert one.exit_code == 0, one.output
    one_policy = {r.of.key: r.scores for r in Results(tmp_path / "one").read()}
    assert len(one_policy) == 4
    assert one_policy == {key: value for key, value in scores(measured).items() if key in one_policy}


def test_faults_are_told_and_the_exit_status_says_so(sweep: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("w2 w3")
    (tmp_path / "long.txt").write_text(" ".join(["w4"] * 40))
    task = json.dumps({"task": "ppl", "files": [str(tmp_path)], "lengths": [32]})
    arguments = ["--model", sweep.parent / "model", "--task", task, "--policy", "full", "--output", tmp_path / "r"]
    failed = invoke("eval", *arguments)
    assert failed.exit_code == 1, failed.output
    assert "1 measured, 0 already there, 1 failed" in failed.stdout
    assert "document 32-short-0, full: the text 'short' has 2 tokens, fewer than 32" in " ".join(failed.stderr.split())
    shown = markdown(tmp_path / "r")
    assert "- Measurements that failed and are left out of all means: 1" in shown
    assert "the text 'short' has 2 tokens" in shown


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["eval"], "nothing to measure; give a sweep file or --task, such as --task needle"),
        (["eval", "--task", "needle", "--decode-block", "4"], "--decode-block is for the task ppl, which is not among"),
        (["eval", "none.yaml"], "cannot read the sweep 'none.yaml': No such file"),
        (["eval", "--task", "pl"], "there is no task 'pl'; tasks are ppl, "),
        (["eval", "--task", "{task: ppl, file: x}"], "task 'ppl' has no option 'file'; its options are files"),
        (["eval", "--task", "ppl", "--set", "stride"], "--set takes NAME=VALUE, such as prefill=stream, got 'stride'"),
        (["eval", "--task", TASK, "--set", "strid=2"], "unknown setting 'strid' in settings; known keys"),
        (["eval", "--task", TASK, "--budget", "half"], "a share such as 6.25%, got 'half'"),
        (["eval", "--task", TASK, "--output", "notes"], "contains something other than results"),
        (["eval", "--task", TASK, "--output", "r", "--ray", "127.0.0.1:x"], "Ray cannot be reached at '127.0.0.1:x'"),
        (["report", "none"], "there is no results folder 'none'; make one with treekv eval"),
        (["report", "notes"], "'notes' is not a results folder"),
        (["report", "empty"], "has no records yet; fill it with treekv eval"),
        (["report", "empty", "--output", "x.pdf"], "the output 'x.pdf' must end in .md, .html or .tex"),
        (["report", "empty", "--output", "no/x.md"], "the output's folder 'no' does not exist"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").touch()
    Results(tmp_path / "empty").create()
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert sentence in " ".join(result.stderr.split())
    assert not (tmp_path / "treekv-runs").exists()


# ---------------------------------------------------------------------- reports


def test_reports_are_written_whole_and_hold_the_table(measured: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"report.{kind}" for kind in ("md", "html", "tex")]
    written = invoke("report", measured, *(word for file in files for word in ("--output", file)))
    assert written.exit_code == 0, written.output
    assert written.stdout == ""
    texts = {file.suffix: file.read_text(encoding="utf-8") for file in files}
    assert texts[".md"] == markdown(measured)
    means = [f"{row['estimate']['mean']:.4g}" for row in rows(measured)]
    assert len(means) == 5
    for text in texts.values():
        assert [mean for mean in means if mean not in text] == []
    page = texts[".html"]
    assert page.count('class="scroll" role="region" aria-label="Results of ') == page.count("<table") > 0
    assert page.count('role="img"') == 2  # perplexity against budget, loss against position
    assert "src=" not in page[page.index("<body>") :]
    assert "https://" not in page[page.index("<body>") :].replace("https://plot.ly", "").replace(
        "https://plotly.com", ""
    )
    again = invoke("report", measured, "--output", files[0])
    assert again.exit_code == 2
    assert "exists; give another name, or use --force to replace it" in again.stderr
    assert invoke("report", measured, "--output", files[0], "--force", "--baseline", "tree").exit_code == 0
    assert "minus TreeKV" in files[0].read_text(encoding="utf-8")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "report.md", "report.tex"]


def test_the_page_shows_names_as_they_are(measured: Path, tmp_path: Path) -> None:
    results = Results(tmp_path / "evil")
    results.create()
    for record in Results(measured).read():
        of = {**vars(record.of), "model": EVIL, "name": EVIL + str(record.of.name)}
        results.write(Record(type(record.of)(**of), record.scores, record.detail, record.facts))
    done = invoke("report", results.path, "--output", tmp_path / "evil.html")
    assert done.exit_code == 0, done.output
    page = (tmp_path / "evil.html").read_text(encoding="utf-8")
    assert EVIL not in page
    assert "&lt;img/src=x&gt;" in page


# ---------------------------------------------------------------------- the dashboard's page


def page(root: Path, monkeypatch: pytest.MonkeyPatch, **query: str) -> AppTest:
    monkeypatch.setenv(ROOT_VARIABLE, str(root))
    monkeypatch.delenv(RUN_VARIABLE, raising=False)
    test = AppTest.from_file(str(MAIN), default_timeout=60)
    for name, value in query.items():
        test.query_params[name] = value
    return test.run().switch_page("views/results.py").run()


def alternatives(test: AppTest) -> list[str]:
    assert not test.exception
    return [json.loads(chart.proto.spec)["layout"]["meta"]["alt"] for chart in test.get("plotly_chart")]


def test_the_results_page_shows_tables_and_pictures(measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = page(measured.parent, monkeypatch)
    assert [choice.value for choice in test.selectbox if choice.key == "results"] == [measured.name]
    quality, loss = alternatives(test)
    assert quality.startswith("Mean perplexity minus that of full cache by settings and budget: TreeKV at 16 ")
    assert loss.startswith("Mean loss in nats in the quarters of the text")
    shown = [element.proto.body for element in test.get("html")]
    assert any("<table>" in body and "minus full" in body for body in shown)
    test.selectbox(key="baseline").select("tree").run()
    assert any("minus TreeKV" in element.proto.body for element in test.get("html"))


def test_the_results_page_without_results_says_how_to_make_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = page(tmp_path, monkeypatch)
    assert not test.exception
    assert test.title[0].value == "No results yet"
    assert any("treekv eval" in code.value for code in test.code)
    Results(tmp_path / "empty").create()
    test = page(tmp_path, monkeypatch)
    assert "has no records yet" in test.error[0].value.replace("\\", "")
