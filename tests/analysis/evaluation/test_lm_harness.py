"""Scores of continuations go through the cache; in lm-evaluation-harness too."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest
import torch

from analysis.evaluation import lm_harness, stream_perplexity
from analysis.evaluation.lm_harness import continuation_scores, last_tokens
from tests import tiny
from tests.app.conftest import words_tokenizer
from tests.needs import lacking
from treekv import TreeKVCache, TreeKVConfig, TreeKVError

FULL = TreeKVConfig(policy="full")
SMALL = TreeKVConfig(cache_size=8, sink_size=1, recent_size=2, block_size=2)
CONTEXT = tiny.tokens(40)[0].tolist()
ENDS = [tiny.tokens(length, seed=length)[0].tolist() for length in (5, 1, 9)]


@pytest.mark.parametrize("chunk", [1, 4])
def test_with_everything_kept_they_are_those_of_the_plain_model(llama, chunk):
    for end, scores in zip(ENDS, continuation_scores(llama, FULL, CONTEXT, ENDS, chunk), strict=True):
        logits = llama(torch.tensor([CONTEXT + end])).logits[0, len(CONTEXT) - 1 : -1]
        right = logits.log_softmax(-1)[range(len(end)), end]
        assert torch.allclose(scores[:, 0], right, atol=1e-4)
        assert scores[:, 1].tolist() == (logits.argmax(-1) == torch.tensor(end)).float().tolist()


def test_every_token_is_predicted_from_what_the_cache_keeps(llama):
    """Against a cache that reads the context but for its last token, then one token after another."""
    for end, scores in zip(ENDS, continuation_scores(llama, SMALL, CONTEXT, ENDS), strict=True):
        cache = TreeKVCache(SMALL, llama.config)
        llama(torch.tensor([CONTEXT[:-1]]), past_key_values=cache)
        for token, target, score in zip([CONTEXT[-1], *end], end, scores[:, 0], strict=False):
            assert cache.kept_tokens <= 8
            logits = llama(torch.tensor([[token]]), past_key_values=cache).logits[0, -1]
            assert torch.allclose(logits.log_softmax(-1)[target], score, atol=1e-5)
    whole = continuation_scores(llama, FULL, CONTEXT, ENDS)
    assert all(not torch.allclose(a, b) for a, b in zip(whole, continuation_scores(llama, SMALL, CONTEXT, ENDS)))


@pytest.mark.parametrize("config", [FULL, SMALL.replace(prefill="stream")], ids=["full", "tree"])
def test_a_text_from_its_first_token_on_is_what_eval_measures(llama, config):
    (scores,) = continuation_scores(llama, config, CONTEXT[:1], [CONTEXT[1:]], 4)
    result = stream_perplexity(llama, CONTEXT, TreeKVCache(config, llama.config), chunk=4)
    assert torch.allclose(-scores[:, 0], result.nll, atol=1e-5)


def test_what_is_wrong_is_one_sentence(llama, monkeypatch):
    with pytest.raises(TreeKVError, match="at least one token before it"):
        continuation_scores(llama, SMALL, [], ENDS)
    with pytest.raises(TreeKVError, match="chunk must be a whole number of at least 1, got 0"):
        continuation_scores(llama, SMALL, CONTEXT, ENDS, 0)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.api.registry", None)
    with pytest.raises(TreeKVError, match=r"pip install 'treekv\[lm-eval\]'"):
        lm_harness.register.__wrapped__()


TASKS = {
    "rolling": "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\n"
    "metric_list: [{metric: word_perplexity}]\n",
    "choice": "output_type: multiple_choice\ndoc_to_text: '{{text}}'\ndoc_to_target: 1\ndoc_to_choice: [w5, w9 w7]\n"
    "metric_list: [{metric: acc}]\n",
    "write": "output_type: generate_until\ndoc_to_text: '{{text}}'\ndoc_to_target: w5\n"
    "generation_kwargs: {max_gen_toks: 4, until: [w0]}\nmetric_list: [{metric: exact_match}]\n",
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """A folder of tasks with one text of 60 words, and a model."""
    folder = tmp_path_factory.mktemp("harness")
    tiny.llama().save_pretrained(folder / "model")
    words_tokenizer().save_pretrained(folder / "model")
    text = " ".join(f"w{number * number % 90 + 2}" for number in range(60))
    (folder / "texts.jsonl").write_text(json.dumps({"text": text}) + "\n")
    source = (
        f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder / 'texts.jsonl'}}}}}\ntest_split: test\n"
    )
    for name, own in TASKS.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{source}{own}")
    return folder


@pytest.mark.slow
def test_the_harness_scores_through_the_cache(tasks, llama, monkeypatch):
    if importlib.util.find_spec("lm_eval") is None:
        lacking("lm-evaluation-harness is not installed: pip install 'treekv[lm-eval]'")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tasks / "cache"))
    with pytest.raises(TreeKVError, match="has no argument 'polcy'"):
        lm_harness.register()("model", polcy="full")
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager, results = TaskManager(include_path=str(tasks), include_defaults=False), {}
    SMALL.replace(prefill="stream").save(tasks / "settings.json")
    for name, arguments in {
        "full": {"policy": "full"},
        "small": {"settings": str(tasks / "settings.json")},
    }.items():
        results[name] = simple_evaluate(
            "treekv", {"pretrained": str(tasks / "model"), "chunk": 2, **arguments}, list(TASKS), task_manager=manager,
            bootstrap_iters=0, log_samples=True, batch_size=1,
        )  # fmt: skip
    tokenizer = words_tokenizer()
    ids = tokenizer(json.loads((tasks / "texts.jsonl").read_text())["text"])["input_ids"]
    prefix = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    for name, config in {"full": FULL, "small": SMALL.replace(prefill="stream")}.items():
        (right,) = continuation_scores(llama, config, [prefix], [ids], 2)
        got = results[name]["results"]["rolling"]["word_perplexity,none"]
        assert got == pytest.approx(math.exp(-float(right[:, 0].sum()) / 60), rel=1e-4)
    answers = [
        [[float(score) for score, _ in sample["filtered_resps"]] for sample in results[name]["samples"]["choice"]]
        for name in results
    ]
    assert answers[0] != answers[1]
    for name in results:
        assert results[name]["samples"]["write"][0]["resps"][0][0]


def test_a_long_context_is_cut_at_its_beginning():
    context = list(range(10))
    for length in (1, 3, 8):
        continuation = [50] * length
        whole = (context + continuation)[-9:][:-1]  # what the harness gives a model of 8 tokens
        assert [*last_tokens(context, continuation, 8), *continuation[:-1]] == whole
    assert last_tokens(context, [1], 100) == context
    with pytest.raises(TreeKVError, match="a continuation of 9 tokens does not fit into the 8"):
        last_tokens(context, [0] * 9, 8)
