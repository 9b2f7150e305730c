"""A worker measures documents alone or together, and records what goes wrong."""

from __future__ import annotations

import weakref
from pathlib import Path

import torch

from analysis.evaluation.sweep.grid import ModelSpec, parse_grid
from analysis.evaluation.sweep.records import Results
from analysis.evaluation.sweep.run import Outcome, run_sweep
from analysis.evaluation.sweep.runner import OneProcess, load
from tests import tiny
from tests.analysis.evaluation import fakes
from tests.analysis.evaluation.sweep.running import GRID, contents, ran
from tests.app.conftest import words_tokenizer
from treekv import TreeKVCache, TreeKVConfig


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
