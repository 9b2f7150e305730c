"""The registry of tasks, and what a sweep relies on in every one of them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from analysis.evaluation import BatchTask, create
from analysis.evaluation.sweep.grid import parse_grid, read_grid
from analysis.evaluation.sweep.records import digest
from analysis.evaluation.tasks import base
from tests.analysis.evaluation.words import Words
from treekv import TreeKVError

TEXT = " ".join(f"w{i % 90}." for i in range(2000))


@pytest.fixture
def examples(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "lcc.jsonl").write_text(json.dumps({"input": "", "context": "x = 1\n", "answers": ["y = 2"]}))
    (tmp_path / "code.py").write_text("value = compute(argument)\n" * 60)
    return {
        "ppl": {"files": [str(tmp_path / "text.txt")], "lengths": [40, 80]},
        "needle": {"lengths": [300]},
        "passkey": {"lengths": [200]},
        "ruler": {"lengths": [600], "samples": 2},
        "longbench": {"files": [str(tmp_path)], "subsets": ["lcc"]},
        "speed": {"lengths": [20]},
        "next_line": {"files": [str(tmp_path / "code.py")], "lengths": [64]},
        "turns": {"files": [str(tmp_path / "text.txt")], "part": 20},
        "continuation": {"files": [str(tmp_path / "text.txt")], "prompt": 20},
    }


def test_all_tasks_are_tried_here(examples):
    assert tuple(examples) == base.names()


@pytest.mark.parametrize("name", base.names())
def test_what_a_sweep_relies_on(name, examples):
    made = create(name, **examples[name])
    tokenizer = Words()
    tokenizer.chat_template = "yes"
    documents = made.documents(tokenizer)
    assert made.name == name
    assert len({document.key for document in documents}) == len(documents) > 0
    assert made.documents(tokenizer) == documents, "the same in every run"
    digest(made.settings)  # both are JSON
    for document in documents:
        digest(document.data)
        assert isinstance(document.data["tokens"], int) and document.data["tokens"] > 0
    assert set(made.settings) == set(base.options(name))
    assert pickle.loads(pickle.dumps(made)).settings == made.settings, "workers get tasks through a pipe"
    assert isinstance(made, BatchTask) == (name in ("ppl", "continuation"))


@pytest.mark.parametrize("name", base.names())
def test_an_unknown_option_is_named_with_the_known_ones(name):
    with pytest.raises(
        TreeKVError, match=f"task '{name}' has no option 'colour'; its options are .*(lengths|subsets|new_tokens)"
    ):
        create(name, colour="red")


def test_options_have_their_defaults():
    assert base.options("passkey")["digits"] == 5
    assert base.options("passkey")["haystacks"] == ["noise"]
    assert base.options("ppl")["files"] == []


def test_an_unknown_task():
    with pytest.raises(
        TreeKVError, match="there is no task 'sums'; tasks are ppl, needle, passkey, ruler, longbench, speed, next_line"
    ):
        create("sums")


GRIDS = sorted((Path(__file__).parents[4] / "benchmarks" / "grids").glob("*.yaml"))


@pytest.mark.parametrize("path", GRIDS, ids=[path.stem for path in GRIDS])
def test_the_published_sweeps_can_be_run(path):
    content = parse_grid(read_grid(path))
    for spec in content.tasks:
        assert create(spec.name, **spec.options).name == spec.name
    assert f"treekv eval benchmarks/grids/{path.name}" in path.read_text()
    assert len(GRIDS) >= 8
