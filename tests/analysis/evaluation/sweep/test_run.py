"""A sweep measures every cell once, survives every fault, and gives the same table however often it was killed."""

from __future__ import annotations

import dataclasses
import datetime
import multiprocessing
import os
import random
import signal
import weakref
from pathlib import Path

import pytest
import torch

from analysis.evaluation.sweep.grid import ModelSpec, budget_in_tokens, parse_grid, read_grid, read_item
from analysis.evaluation.sweep.records import Record, Results
from analysis.evaluation.sweep.run import Outcome, run_sweep
from analysis.evaluation.sweep.runner import OneProcess, load
from tests import tiny
from tests.analysis.evaluation import fakes
from tests.app.conftest import words_tokenizer
from treekv import TreeKVCache, TreeKVConfig, TreeKVError

GRID = {"models": ["m"], "policies": ["full", "tree", "streaming"], "budgets": [16, 32], "tasks": ["fake"]}


def ran(path: Path, content: dict = GRID, **options) -> Outcome:
    return run_sweep(parse_grid(content), Results(path), lambda: OneProcess(fakes.load), create=fakes.create, **options)


def contents(path: Path) -> dict[str, dict]:
    """What the records say, but for dates and durations."""
    results = Results(path)
    records = {record.of.key: dataclasses.asdict(record) for record in results.read()}
    assert results.damaged == []
    for record in records.values():
        del record["seconds"], record["about"]
    return records


def test_every_cell_and_document_is_measured_once(tmp_path: Path) -> None:
    content = GRID | {"models": ["m", {"name": "n", "dtype": "float16"}], "seeds": [0, 3]}
    told: list[Record] = []
    counts: list[tuple[int, int]] = []
    outcome = ran(tmp_path / "r", content, on_record=told.append, on_total=lambda *count: counts.append(count))
    # 2 models, 2 seeds, 4 documents, and the full cache once, the others at two budgets
    assert outcome.measured == len(told) == 2 * 2 * 4 * 5
    assert outcome.complete
    assert counts[-1] == (80, 80)
    records = Results(tmp_path / "r").read()
    cells = {
        (r.of.model, r.of.dtype, r.of.task, r.of.options["seed"], r.of.seed, r.of.name, r.of.budget, r.of.document)
        for r in records
    }
    assert cells == {
        (model, dtype, "fake", seed, seed, name, budget, f"d{i}")
        for model, dtype in (("m", None), ("n", "float16"))
        for seed in (0, 3)
        for name, budget in (("full", None), *((name, size) for name in ("tree", "streaming") for size in (16, 32)))
        for i in range(4)
    }
    for record in records:
        config = record.of.config
        assert record.detail == {"size": config["cache_size"] if config else 0}
        if config is not None:
            written = TreeKVConfig(**config)
            assert written == TreeKVConfig(policy=record.of.name, cache_size=record.of.budget, seed=record.of.seed)
        assert record.facts["depth"] == int(record.of.document[1:])
        assert record.about["versions"].keys() >= {"python", "torch", "transformers", "treekv"}
        assert record.about["machine"].keys() >= {"host", "system", "cores"}
        assert datetime.datetime.fromisoformat(record.about["date"]).tzinfo is not None
        assert 0 < record.seconds < 60


def test_what_is_there_is_not_measured_again(tmp_path: Path) -> None:
    ran(tmp_path / "r", GRID | {"budgets": [16]})
    before = contents(tmp_path / "r")
    told: list[Record] = []
    again = ran(tmp_path / "r", on_record=told.append)
    assert (again.skipped, again.measured) == (12, 8)
    assert {record.of.budget for record in told} == {32}
    assert contents(tmp_path / "r").items() >= before.items()
    # Another document, option or setting is another record.
    more = ran(tmp_path / "r", GRID | {"tasks": [{"task": "fake", "documents_wanted": 5}]})
    assert (more.skipped, more.measured) == (0, 25)
    strided = ran(tmp_path / "r", GRID | {"settings": {"prefill": "stream"}})
    assert (strided.skipped, strided.measured) == (4, 16)


def test_neither_order_nor_interruption_changes_what_is_drawn_at_random(tmp_path: Path) -> None:
    ran(tmp_path / "one")
    ran(tmp_path / "other", GRID | {"policies": ["streaming"]})
    ran(tmp_path / "other", GRID | {"policies": ["tree", "full", "streaming"]})
    assert contents(tmp_path / "one") == contents(tmp_path / "other")


def test_shares_of_a_document_become_tokens(tmp_path: Path) -> None:
    ran(tmp_path / "r", GRID | {"policies": ["tree"], "budgets": ["12.5%"]})
    sizes = {r.of.document: (r.of.budget, r.of.config["cache_size"]) for r in Results(tmp_path / "r").read()}
    assert sizes == {f"d{i}": ("12.5%", size) for i, size in enumerate((16, 32, 64, 80))}
    assert budget_in_tokens("6.25%", 2048) == 128
    assert budget_in_tokens("1%", 100) == 16
    assert budget_in_tokens(77, None) == 77
    with pytest.raises(TreeKVError, match="a budget of 5% needs documents of known length"):
        budget_in_tokens("5%", None)


def test_documents_of_one_length_go_through_together_with_the_same_records(tmp_path: Path) -> None:
    def together(path: Path, batch: int, **options) -> tuple[Outcome, list[list[str]]]:
        fakes.TogetherTask.together.clear()
        content = GRID | {"batch": batch, "policies": ["full", "tree"], "budgets": [16]}
        outcome = run_sweep(
            parse_grid(content | {"tasks": [{"task": "fake", "documents_wanted": 5, **options}]}),
            Results(path),
            lambda: OneProcess(fakes.load),
            create=lambda name, **given: fakes.TogetherTask(**given),
        )
        return outcome, list(fakes.TogetherTask.together)

    _, alone = together(tmp_path / "one", 1, tokens=160)
    assert alone == []
    outcome, batches = together(tmp_path / "three", 3, tokens=160)
    assert outcome.measured == 10
    assert batches == [["d0", "d1", "d2"]] * 2 + [["d3", "d4"]] * 2
    assert contents(tmp_path / "three") == contents(tmp_path / "one")
    _, batches = together(tmp_path / "lengths", 3)
    assert batches == []  # every document has its own length
    outcome, _ = together(tmp_path / "fault", 5, tokens=160, faults={"d1": "raise"})
    assert outcome.measured == 8
    assert outcome.failed == [
        "m, fake, document d1, full: RuntimeError: no such kernel",
        "m, fake, document d1, tree, budget 16: RuntimeError: no such kernel",
    ]


# ---------------------------------------------------------------------- faults


def test_a_fault_is_recorded_the_rest_goes_on_and_the_next_run_tries_again(tmp_path: Path) -> None:
    faults = {"d0": "raise", "d1": "nan", "d2": "set"}
    content = GRID | {"policies": ["full"], "tasks": [{"task": "fake", "faults": faults}]}
    outcome = ran(tmp_path / "r", content)
    assert not outcome.complete
    assert outcome.measured == 1
    assert outcome.failed == [
        "m, fake, document d0, full: RuntimeError: no such kernel",
        "m, fake, document d1, full: the score 'score' is nan, which cannot be averaged",
        "m, fake, document d2, full: TypeError: Object of type set is not JSON serializable",
    ]
    records = {record.of.document: record for record in Results(tmp_path / "r").read()}
    assert {name: bool(record.error) for name, record in records.items()} == {
        "d0": True, "d1": True, "d2": True, "d3": False,
    }  # fmt: skip
    assert records["d0"].scores == {}
    assert "fakes.py" in records["d0"].about["traceback"]
    mended = ran(tmp_path / "r", content | {"tasks": ["fake"]})
    assert (mended.skipped, mended.measured, mended.complete) == (1, 3, True)
    assert all(record.error is None for record in Results(tmp_path / "r").read())


def test_text_that_utf8_cannot_hold_is_kept(tmp_path: Path) -> None:
    content = GRID | {"policies": ["full"], "tasks": [{"task": "fake", "faults": {"d1": "half a character"}}]}
    outcome = ran(tmp_path / "r", content)
    assert (outcome.measured, outcome.complete) == (4, True)
    found = {record.of.document: record for record in Results(tmp_path / "r").read()}
    assert found["d1"].detail == {"answer": "\ud83d"}
    assert ran(tmp_path / "r", content).skipped == 4


def test_what_failed_together_is_let_go_before_one_is_tried(tmp_path: Path) -> None:
    held: list[weakref.ref] = []

    class Greedy(fakes.TogetherTask):
        def run_many(self, model, tokenizer, config, documents, progress=None):
            large = torch.zeros(10)
            held.append(weakref.ref(large))
            raise RuntimeError("out of memory")

        def run(self, *arguments, **options):
            assert [reference() for reference in held] == [None]
            return super().run(*arguments, **options)

    content = GRID | {"policies": ["full"], "batch": 4, "tasks": [{"task": "fake", "tokens": 160}]}
    start = lambda: OneProcess(fakes.load)  # noqa: E731
    outcome = run_sweep(
        parse_grid(content), Results(tmp_path / "r"), start, create=lambda name, **given: Greedy(**given)
    )
    assert (outcome.measured, outcome.failed) == (4, [])


def test_a_task_or_model_that_cannot_begin_does_not_stop_the_others(tmp_path: Path) -> None:
    content = GRID | {
        "models": ["broken", "m"],
        "tasks": [{"task": "fake", "faults": {"all": "columns"}}, {"task": "fake", "documents_wanted": 0}, "fake"],
        "policies": ["full"],
    }
    outcome = ran(tmp_path / "r", content)
    assert outcome.failed == [
        *["broken, fake: there is no model 'broken'"] * 3,
        "m, fake: the file 'x.jsonl' lacks the column 'input'",
        "m, fake: it has no documents",
    ]
    assert outcome.measured == 4
    # The same task with the same options came to documents in the end, so that failure is forgotten.
    failures = {r.error for r in Results(tmp_path / "r").read() if r.of.document is None}
    assert failures == {"there is no model 'broken'", "it has no documents"}


def test_settings_that_do_not_fit_a_document_are_that_documents_failure(tmp_path: Path) -> None:
    content = GRID | {"policies": [{"policy": "tree", "recent_size": 40, "sink_size": 4}], "budgets": ["12.5%"]}
    outcome = ran(tmp_path / "r", content)
    assert outcome.measured == 2
    assert len(outcome.failed) == 2
    assert "document d0, tree, budget 12.5%" in outcome.failed[0]


def test_what_a_full_disk_refuses_is_written_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, full = os.fsync, []

    def fsync(descriptor: int) -> None:
        if full:
            raise OSError(28, "No space left on device")
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    kept: list[int] = []

    def told(record: Record) -> None:
        kept.append(len(list((tmp_path / "r" / "records").glob("*.json"))))
        full[:] = [True] * (len(kept) in range(3, 6))

    outcome = ran(tmp_path / "r", on_record=told)
    assert kept[:8] == [1, 2, 3, 3, 3, 3, 7, 8]
    assert outcome.complete
    assert outcome.measured == len(contents(tmp_path / "r")) == 20

    outcome = ran(tmp_path / "r", GRID | {"seeds": [9]}, on_record=lambda record: full.append(True))
    assert (outcome.measured, outcome.unwritten, outcome.complete) == (20, 19, False)
    assert outcome.reason.endswith("No space left on device")
    full.clear()
    assert len(contents(tmp_path / "r")) == 21


def test_a_stop_by_the_user_keeps_what_is_there(tmp_path: Path) -> None:
    told: list[Record] = []

    def stop(done: int, total: int) -> None:
        if len(told) == 7:
            raise KeyboardInterrupt

    outcome = ran(tmp_path / "r", on_record=told.append, progress=stop)
    assert outcome.interrupted
    assert not outcome.complete
    assert len(contents(tmp_path / "r")) == outcome.measured == 7
    assert ran(tmp_path / "r").measured == 13


# ---------------------------------------------------------------------- kills


def _child(path: Path, pause: float) -> None:
    ran(path, GRID | {"tasks": [{"task": "fake", "pause": pause}]})


def test_killed_at_any_moment_it_ends_with_the_same_records(tmp_path: Path) -> None:
    undisturbed = tmp_path / "undisturbed"
    ran(undisturbed)
    draw = random.Random(5)
    fork = multiprocessing.get_context("fork")
    for attempt in range(4):
        path = tmp_path / f"killed{attempt}"
        kills, before = 0, 0
        while True:
            process = fork.Process(target=_child, args=(path, 0.005))
            process.start()
            process.join(draw.uniform(0.01, 0.08))
            if process.exitcode is None and kills < 6:
                process.kill()
                kills += 1
            process.join()
            there = len(contents(path)) if (path / "results.json").exists() else 0
            assert there >= before  # nothing is lost
            before = there
            if process.exitcode == 0:
                break
            assert process.exitcode == -signal.SIGKILL
        assert kills >= 1
        assert contents(path) == contents(undisturbed)


# ---------------------------------------------------------------------- the grid


def test_a_grid_is_read_from_yaml(tmp_path: Path) -> None:
    TreeKVConfig(cache_size=64, stride=2).save(tmp_path / "mine.json")
    (tmp_path / "grid.yaml").write_text(f"""
models: [smollm2, {{name: other, device: cuda}}]
settings: {{prefill: stream, scope: 4}}
policies:
  - full
  - h2o
  - {{name: strided, policy: tree, stride: 2}}
  - {{file: {tmp_path / "mine.json"}}}
budgets: [128, 6.25%]
tasks:
  - ppl
  - {{task: needle, lengths: [512]}}
seeds: [0, 1]
""")
    made = parse_grid(read_grid(tmp_path / "grid.yaml"))
    assert [(model.name, model.device) for model in made.models] == [("smollm2", None), ("other", "cuda")]
    assert [setting.name for setting in made.settings] == ["full", "h2o", "strided", "mine"]
    assert [setting.budgets(made.budgets) for setting in made.settings] == [[None], *[[128, "6.25%"]] * 2, [64]]
    assert made.settings[0].config(128, 0) is None
    assert made.settings[1].config(128, 0) == TreeKVConfig("h2o", 128, prefill="stream")
    assert made.settings[2].config(128, 7) == TreeKVConfig("tree", 128, prefill="stream", scope=4, stride=2, seed=7)
    assert made.settings[3].config(64, 7) == TreeKVConfig("tree", 64, stride=2, seed=7)
    assert [(task.name, task.options) for task in made.tasks] == [("ppl", {}), ("needle", {"lengths": [512]})]
    assert made.seeds == [0, 1]


def test_what_is_left_out_has_defaults() -> None:
    made = parse_grid({"tasks": "ppl"})
    assert [setting.name for setting in made.settings] == ["full", "streaming", "tree"]
    assert (made.models[0].name, made.budgets, made.seeds) == ("smollm2", [128], [0])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": ["m"]}, "unknown key 'model' in the sweep; known keys are models, policies, budgets"),
        ({"tasks": []}, "the sweep needs at least one entry under 'tasks'"),
        ({"tasks": [{"lengths": 3}]}, "tasks has an entry without the key 'task'"),
        ({"tasks": [3]}, "an entry of tasks must be a task's name or a mapping"),
        ({"models": [{"name": "m", "dtyp": "x"}]}, "unknown key 'dtyp' in models; known keys are name, dtype, device"),
        ({"models": [{"dtype": "float16"}]}, "models has an entry without a name"),
        ({"models": ["m", "m"]}, "models has 'm' twice"),
        ({"policies": ["tre"]}, "'tre'"),
        (
            {"policies": ["tree", {"policy": "tree", "stride": 2}]},
            "'tree' twice; give the settings different names",
        ),
        ({"policies": [{"policy": "tree", "strid": 2}]}, "unknown setting 'strid' in policies; known keys are policy"),
        ({"policies": [{"policy": "tree", "seed": 2}]}, "unknown setting 'seed' in policies; seeds are a list of"),
        ({"policies": [{"policy": "tree", "stride": 5}]}, "settings 'tree' do not fit a budget of 16: stride must be"),
        ({"policies": [{"file": "x.json", "stride": 2}]}, "the file 'x.json' cannot be combined with stride"),
        ({"policies": [{"policy": "tree", "name": 3}]}, "the name of settings must be text, got 3"),
        ({"settings": {"strid": 2}}, "unknown setting 'strid' in settings"),
        ({"settings": ["stride"]}, "settings must be a mapping"),
        ({"budgets": [0]}, "a budget must be a number of tokens or a share such as 6.25%, got 0"),
        ({"budgets": ["110%"]}, "got '110%'"),
        ({"budgets": [0.06]}, "got 0.06"),
        ({"budgets": [True]}, "got True"),
        ({"batch": 0}, "batch must be a number of documents of at least 1, got 0"),
        ({"seeds": [-1]}, "a seed must be a whole number of at least 0, got -1"),
        ({"tasks": ["fak"]}, "there is no task 'fak'"),
        ({"tasks": [{"task": "fake", "lenth": 3}]}, "unknown option 'lenth' of task 'fake'"),
    ],
)
def test_what_is_wrong_in_a_grid_is_named_before_any_work(change: dict, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(TreeKVError) as raised:
        ran(tmp_path / "r", GRID | change)
    assert sentence in str(raised.value)
    assert not (tmp_path / "r").exists()


def test_files_that_are_no_grid_are_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    with pytest.raises(TreeKVError, match=r"cannot read the sweep .*No such file"):
        read_grid(file)
    file.write_text("tasks: [ppl\nmodels: x")
    with pytest.raises(TreeKVError, match=r"is not YAML: .*line 2"):
        read_grid(file)
    file.write_text("- tasks")
    with pytest.raises(TreeKVError, match="must be a mapping with the keys models"):
        read_grid(file)
    with pytest.raises(TreeKVError, match=r"'\{task' is not YAML"):
        read_item("{task")
    assert read_item("{task: needle, lengths: [1]}") == {"task": "needle", "lengths": [1]}


def test_device_auto_spreads_a_model_over_what_there_is(tmp_path: Path) -> None:
    tiny.llama().save_pretrained(tmp_path)
    words_tokenizer().save_pretrained(tmp_path)
    spread, _ = load(ModelSpec(str(tmp_path), device="auto"))
    plain, _ = load(ModelSpec(str(tmp_path)))
    ids = tiny.tokens(20)
    assert set(spread.hf_device_map.values()) <= {"cpu", *range(torch.cuda.device_count())}
    cache, other = (TreeKVCache(TreeKVConfig(cache_size=8), model.config) for model in (spread, plain))
    found = spread(input_ids=ids, past_key_values=cache).logits.cpu()
    torch.testing.assert_close(found, plain(input_ids=ids, past_key_values=other).logits, rtol=1e-4, atol=1e-4)
