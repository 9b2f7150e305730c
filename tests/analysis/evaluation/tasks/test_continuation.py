"""The task "continuation": draws of the model, the same random numbers for all settings, and what repeats."""

from __future__ import annotations

import pytest
import torch

from analysis.evaluation import BatchTask, create
from analysis.evaluation.report.aggregate import lower_is_better
from analysis.evaluation.tasks.continuation import repeated
from tests.analysis.evaluation.tasks.test_answering import Numbers
from tests.analysis.evaluation.words import Words
from treekv import TreeKVCache, TreeKVConfig, TreeKVError

CONFIG = TreeKVConfig(cache_size=16, sink_size=2, recent_size=6)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "a.txt").write_text(" ".join(f"w{i % 30}" for i in range(200)))
    return [str(tmp_path)]


def _task(files, **changes):
    return create("continuation", files=files, **{"prompt": 24, "new_tokens": 30, "count": 3, **changes})


def test_what_repeats_is_counted_run_by_run() -> None:
    assert repeated(list(range(100))) == 0
    assert repeated([1] * 20) == pytest.approx(100 * (1 - 1 / 13))
    slow = [3, 1, 4, 1, 5, 9, 2, 6] * 3
    runs = [slow[i : i + 8] for i in range(len(slow) - 7)]
    again = sum(run in runs[:i] for i, run in enumerate(runs))
    assert repeated(slow) == pytest.approx(100 * again / len(runs))
    assert lower_is_better("repeated")


@pytest.mark.parametrize("config", [None, CONFIG, CONFIG.replace(policy="streaming")])
def test_prompts_run_together_as_alone_and_the_cost_is_that_of_the_full_cache(llama, files, config) -> None:
    task = _task(files)
    assert isinstance(task, BatchTask)
    documents = task.documents(Words())
    together = task.run_many(llama, Numbers(), config, documents)
    for document, measured in zip(documents, together):
        alone = task.run(llama, Numbers(), config, document)
        assert alone.detail == measured.detail
        ids = document.data["ids"] + list(map(int, measured.detail["text"].split()))
        assert len(ids) == 24 + 30
        with torch.no_grad():
            scores = llama(torch.tensor([ids])).logits[0].log_softmax(-1)
        loss = -scores[23:-1].gather(1, torch.tensor(ids[24:])[:, None]).mean().item()
        assert measured.scores["full_loss"] == pytest.approx(loss, abs=1e-4)
        assert measured.scores["repeated"] == repeated(ids[24:])
    held = TreeKVCache(config or TreeKVConfig(policy="full"), llama.config)
    with torch.no_grad():
        llama(torch.tensor([ids[:-1]]), past_key_values=held)
    assert measured.scores["cache_bytes"] == held.nbytes


def test_draws_follow_the_softmax_and_the_seed(llama, files) -> None:
    """At a temperature near zero a draw is the most likely token; otherwise it depends on the seed alone."""
    [document] = _task(files, count=1).documents(Words())
    cold = _task(files, count=1, temperature=1e-6).run(llama, Numbers(), None, document).detail["text"]
    cache, ids, said = TreeKVCache(TreeKVConfig(policy="full"), llama.config), document.data["ids"], []
    with torch.no_grad():
        for _ in range(30):
            logits = llama(torch.tensor([ids]), past_key_values=cache).logits[0, -1]
            ends = llama.generation_config.eos_token_id
            logits[[] if ends is None else ends] = -torch.inf
            ids = [int(logits.argmax())]
            said += ids
    assert cold == " ".join(map(str, said))
    first, again, other = (
        _task(files, count=1, seed=seed).run(llama, Numbers(), None, document).detail["text"] for seed in (0, 0, 1)
    )
    assert first == again != other


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": 1}, "prompt must be a whole number of at least 2, got 1"),
        ({"new_tokens": 7}, "new_tokens must be a whole number of at least 8, got 7"),
        ({"temperature": 0}, "temperature must be a number above 0, got 0"),
        ({"temperature": float("nan")}, "temperature must be a number above 0, got nan"),
        ({"temperature": float("inf")}, "temperature must be a number above 0, got inf"),
        ({"temperature": "hot"}, "temperature must be a number above 0, got 'hot'"),
        ({"files": []}, "files must have at least one entry"),
    ],
)
def test_wrong_options_are_one_sentence(files, changes, message) -> None:
    with pytest.raises(TreeKVError, match=message):
        _task(**{"files": files, **changes})


def test_what_does_not_fit_the_window_is_refused_before_anything_is_read(llama, files) -> None:
    task = _task(files, new_tokens=10**6)
    with pytest.raises(TreeKVError, match=r"24 tokens and 1000000 more exceed the model's window of"):
        task.run(llama, Numbers(), None, task.documents(Words())[0])
