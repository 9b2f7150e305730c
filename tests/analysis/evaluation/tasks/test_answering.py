"""Answers are greedy, end where they should, and are scored in per cent."""

from __future__ import annotations

import pytest
import torch

from analysis.evaluation import create
from analysis.evaluation.tasks.answering import generate_answer
from tests import tiny
from tests.analysis.evaluation.words import Words
from treekv import TreeKVCache, TreeKVConfig, TreeKVError

CONFIG = TreeKVConfig(cache_size=16, sink_size=2, recent_size=6, block_size=2)


class Numbers:
    def decode(self, ids, **_):
        return " ".join(map(str, ids))


def greedy(model, config, pieces, tokens):
    """Feed pieces, then go on token by token; no `generate`."""
    cache = TreeKVCache(config, model.config)
    for piece in pieces:
        logits = model(torch.tensor([piece]), past_key_values=cache).logits[0, -1]
    said = []
    for _ in range(tokens):
        said.append(int(logits.argmax()))
        logits = model(torch.tensor([said[-1:]]), past_key_values=cache).logits[0, -1]
    return said, cache


@pytest.mark.parametrize("config", [CONFIG, CONFIG.replace(prefill="stream"), CONFIG.replace(policy="streaming"), None])
@pytest.mark.parametrize("withheld", [False, True])
def test_answers_are_greedy_and_withheld_questions_come_after_compression(llama, config, withheld):
    ids = tiny.tokens(60)[0].tolist()
    context, question = ids[:50], ids[50:]
    pieces = [context, question] if withheld else [ids]
    expected, cache = greedy(llama, config or TreeKVConfig(policy="full"), pieces, 6)
    said = generate_answer(llama, Numbers(), config, context, question, 6, withheld=withheld)
    assert said.text == " ".join(map(str, expected))
    assert said.tokens == 6
    if config is not None:
        assert said.cache_bytes == cache.nbytes < said.full_bytes
        assert said.kept == 16


def test_given_and_withheld_questions_keep_different_tokens(llama):
    ids = tiny.tokens(60)[0].tolist()
    _, given = greedy(llama, CONFIG, [ids], 1)
    _, withheld = greedy(llama, CONFIG, [ids[:50], ids[50:]], 1)
    assert not torch.equal(given.kept_positions(0), withheld.kept_positions(0))


def test_an_answer_ends_at_a_stop_token(llama):
    ids = tiny.tokens(20)[0].tolist()
    said, _ = greedy(llama, CONFIG, [ids], 8)
    stop = said[3]
    found = generate_answer(llama, Numbers(), CONFIG, ids[:10], ids[10:], 8, stop_ids=[stop])
    assert found.tokens == said.index(stop) + 1


def test_an_answer_does_not_end_before_it_has_so_many_tokens(llama):
    ids = tiny.tokens(20)[0].tolist()
    said, _ = greedy(llama, CONFIG, [ids], 1)
    found = generate_answer(llama, Numbers(), CONFIG, ids[:10], ids[10:], 8, stop_ids=said, min_tokens=1)
    assert found.tokens > 1 and not found.text.startswith(f"{said[0]} ")


def test_what_does_not_fit_the_window_is_refused_before_any_work():
    model = tiny.llama(window=32)
    ids = tiny.tokens(40)[0].tolist()
    for config in (None, CONFIG, CONFIG.replace(prefill="stream", positions="original")):
        with pytest.raises(TreeKVError, match="a prompt of 40 tokens and 5 more do not fit the model's window of 32"):
            generate_answer(model, Numbers(), config, ids[:30], ids[30:], 5)
    for positions in ("rank", "compressed"):
        config = CONFIG.replace(prefill="stream", positions=positions)
        assert generate_answer(model, Numbers(), config, ids[:30], ids[30:], 5).tokens == 5


def test_a_run_is_scored_in_percent(llama, monkeypatch):
    from analysis.evaluation.tasks import answering

    tokenizer = Words()
    task = create("needle", lengths=[200], samples=1, depths=[50], question="withheld", keys=2)
    document = task.documents(tokenizer)[0]

    def say(model, tokenizer, config, context, question, tokens, *, withheld, stop_ids, min_tokens, prompt_cache):
        assert withheld and tokens == 16 and len(context) + len(question) == document.data["tokens"]
        return answering.Answer(f"is {document.data['answers'][0]}.", 3, 100, 200, 7)

    monkeypatch.setattr(answering, "generate_answer", say)
    found = task.run(llama, tokenizer, CONFIG, document)
    assert next(iter(found.scores)) == "score"
    assert found.scores["score"] == 100 and found.detail["expected"] == document.data["answers"]
