"""The task "ppl": which stretches it takes, and that its figures are those of the model."""

from __future__ import annotations

import json
import math

import datasets
import huggingface_hub
import pytest
import torch

from analysis.evaluation import BatchTask, create, stream_perplexity
from analysis.evaluation.tasks import perplexity
from analysis.evaluation.tasks.perplexity import CELLS, by_position
from tests import tiny
from tests.analysis.evaluation.words import Words
from treekv import TreeKVCache, TreeKVConfig, TreeKVError

CONFIG = TreeKVConfig(cache_size=16, sink_size=2, recent_size=6)


def write(folder, **lengths):
    """Text files of so many different words, at most 60 of them."""
    for name, length in lengths.items():
        (folder / f"{name}.txt").write_text(" ".join(f"{name}{i % 30}" for i in range(length)))
    return [str(folder)]


def test_stretches_are_taken_from_every_text_before_the_second_of_any(tmp_path):
    tokenizer = Words()
    task = create("ppl", files=write(tmp_path, a=70, b=40), lengths=[21], count=4)
    documents = task.documents(tokenizer)
    assert [document.key for document in documents] == ["21-a-0", "21-b-0", "21-a-1", "21-b-1"]
    for document in documents:
        assert document.data["tokens"] == len(document.data["ids"]) == 21
        assert document.data["ids"][0] == 0, "every stretch begins as a text does"
    second = tokenizer.decode(documents[2].data["ids"], skip_special_tokens=True)
    assert second == "".join(f" a{i % 30}" for i in range(20, 40))
    assert json.loads(json.dumps(documents[0].data)) == documents[0].data


def test_lengths_skip_and_join(tmp_path):
    files = write(tmp_path, a=30, b=30)
    tokenizer = Words(bos=False)
    assert [d.key for d in create("ppl", files=files, lengths=[10, 20], count=2).documents(tokenizer)] == [
        "10-a-0",
        "10-b-0",
        "20-a-0",
        "20-b-0",
    ]
    skipped = create("ppl", files=files, lengths=[10], count=1, skip=7).documents(tokenizer)[0]
    assert tokenizer.decode(skipped.data["ids"]).startswith(" a7 a8")
    joined = create("ppl", files=files, lengths=[50], join=True).documents(tokenizer)
    assert [d.key for d in joined] == ["50-joined-0"]
    assert " a29b0 b1" in tokenizer.decode(joined[0].data["ids"])


def test_a_text_that_is_too_short_fails_alone_and_says_so(tmp_path, llama):
    task = create("ppl", files=write(tmp_path, long=40, short=5), lengths=[20], count=8)
    documents = task.documents(Words())
    assert [d.key for d in documents] == ["20-long-0", "20-long-1", "20-short-0"]
    with pytest.raises(TreeKVError, match="the text 'short' has 6 tokens, fewer than 20"):
        task.run(llama, Words(), None, documents[2])


def test_a_file_that_cannot_be_read_fails_alone_and_says_so(tmp_path, llama):
    files = write(tmp_path, long=40)
    (tmp_path / "empty.txt").write_text(" ")
    (tmp_path / "broken.jsonl").write_text("{")
    task = create("ppl", files=files, lengths=[10, 20], count=1)
    documents = task.documents(Words())
    assert [d.key for d in documents] == [
        "10-long-0", "20-long-0", "10-broken-0", "10-empty-0", "20-broken-0", "20-empty-0",
    ]  # fmt: skip
    for document, sentence in ((documents[2], "is not JSON lines"), (documents[5], "is empty")):
        with pytest.raises(TreeKVError, match=sentence):
            task.run(llama, Words(), None, document)
    assert task.run(llama, Numbers(), None, documents[0]).scores["loss"] > 0


def test_short_texts_are_left_alone_where_there_are_enough_others(tmp_path):
    task = create("ppl", files=write(tmp_path, long=40, short=5), lengths=[20], count=2)
    assert [d.key for d in task.documents(Words())] == ["20-long-0", "20-long-1"]


def test_no_text_long_enough(tmp_path):
    task = create("ppl", files=write(tmp_path, a=10, b=12), lengths=[100])
    with pytest.raises(TreeKVError, match="no text has 100 tokens; the longest has 13"):
        task.documents(Words())


def test_lines_of_json_and_two_files_of_one_name(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        rows = [{"body": "x y z " * 9}, {"body": None}]
        (tmp_path / folder / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    files = [str(tmp_path / folder) for folder in ("one", "two")]
    keys = [d.key for d in create("ppl", files=files, column="body", lengths=[10], count=2).documents(Words())]
    assert keys == ["10-t-0-0", "10-t-0~2-0"]
    with pytest.raises(TreeKVError, match="lacks the column text; it has body"):
        create("ppl", files=files, lengths=[10]).documents(Words())


def documents_for(llama, count, length):
    """Documents of random tokens, as `PerplexityTask.documents` makes them."""
    from analysis.evaluation.tasks.base import Document

    return [Document(f"d{i}", {"tokens": length, "ids": tiny.tokens(length, seed=i)[0].tolist()}) for i in range(count)]


class Numbers:
    """Every token is one byte long."""

    def decode(self, ids, **_):
        return "x" * len(ids)


def test_the_full_cache_gives_the_model_s_own_loss(llama):
    task = create("ppl", files=["unused"], lengths=[40], decode_block=7)
    document = documents_for(llama, 1, 40)[0]
    found = task.run(llama, Numbers(), None, document)
    ids = torch.tensor(document.data["ids"])
    logits = llama(ids[None]).logits[0, :-1].log_softmax(-1)
    loss = -logits.gather(1, ids[1:, None]).mean().item()
    assert next(iter(found.scores)) == "perplexity"
    assert found.scores["loss"] == pytest.approx(loss, rel=1e-5)
    assert found.scores["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    assert found.scores["bits_per_byte"] == pytest.approx(loss / math.log(2), rel=1e-5)
    assert found.detail["by_position"]["position"] == list(range(1, 40))


@pytest.mark.parametrize("block", [1, 4])
def test_settings_for_prompts_are_replaced_by_the_stream_s(llama, block):
    task = create("ppl", files=["unused"], lengths=[40], decode_block=block)
    document = documents_for(llama, 1, 40)[0]
    config = CONFIG.replace(prefill="stream", block_size=block)
    expected = stream_perplexity(llama, document.data["ids"], TreeKVCache(config, llama.config), chunk=block)
    found = task.run(llama, Numbers(), CONFIG, document)
    assert found.scores["perplexity"] == pytest.approx(expected.perplexity, rel=1e-6)
    assert found.detail["prefill"] == "stream" and found.detail["block_size"] == block
    assert found.scores["cache_bytes"] == expected.cache_bytes


@pytest.mark.parametrize("tokens", [1, 8, 24, 512])
@pytest.mark.parametrize("block", [1, 4])
def test_the_tokens_of_a_pass_change_nothing(llama, monkeypatch, tokens, block):
    monkeypatch.setattr(perplexity, "PASS_TOKENS", tokens)
    task = create("ppl", files=["unused"], lengths=[40], decode_block=block)
    documents = documents_for(llama, 2, 40)
    assert task._chunk(llama, 2) == block * max(1, tokens // (2 * block))
    config = CONFIG.replace(prefill="stream", block_size=block)
    for document, found in zip(documents, task.run_many(llama, Numbers(), CONFIG, documents), strict=True):
        cache = TreeKVCache(config, llama.config)
        expected = stream_perplexity(llama, document.data["ids"], cache, chunk=block)
        assert found.scores["perplexity"] == pytest.approx(expected.perplexity, rel=1e-5)
    monkeypatch.setattr(perplexity, "PASS_TOKENS", 512)
    monkeypatch.setattr(perplexity, "PASS_LOGITS", 8 * llama.config.vocab_size)
    assert task._chunk(llama, 2) == 4


def test_documents_together_score_as_alone(llama):
    task = create("ppl", files=["unused"], lengths=[40], decode_block=4)
    assert isinstance(task, BatchTask)
    documents = documents_for(llama, 3, 40)
    together = task.run_many(llama, Numbers(), CONFIG, documents)
    for document, found in zip(documents, together):
        alone = task.run(llama, Numbers(), CONFIG, document)
        assert found.scores == pytest.approx(alone.scores, rel=1e-4)
        assert found.detail["together"] == 3
    with pytest.raises(TreeKVError, match=r"must have the same length, got \[20, 40\] tokens"):
        task.run_many(llama, Numbers(), CONFIG, [*documents, *documents_for(llama, 1, 20)])


def test_a_prompt_is_read_with_the_settings_own_prefill_and_not_scored(llama):
    task = create("ppl", files=["unused"], lengths=[40], prompt=30, decode_block=4)
    document = documents_for(llama, 1, 40)[0]
    config = TreeKVConfig(policy="snapkv", cache_size=12, window_size=4)
    found = task.run(llama, Numbers(), config, document)
    assert found.detail["by_position"]["position"] == list(range(31, 40))
    cache = TreeKVCache(config, llama.config)
    ids = torch.tensor([document.data["ids"]])
    llama(ids[:, :30], past_key_values=cache)
    losses = []
    for position in range(30, 39):
        logits = llama(ids[:, position : position + 1], past_key_values=cache).logits[0, -1].log_softmax(-1)
        losses.append(-logits[ids[0, position + 1]].item())
    assert found.scores["loss"] == pytest.approx(sum(losses) / 9, rel=1e-4)


def test_a_policy_for_prompts_needs_one(llama):
    task = create("ppl", files=["unused"], lengths=[40])
    config = TreeKVConfig(policy="snapkv", cache_size=12, window_size=4)
    with pytest.raises(TreeKVError, match="policy 'snapkv' with these settings acts on prompts only"):
        task.run(llama, Numbers(), config, documents_for(llama, 1, 40)[0])


def test_positions_past_the_window_are_said(llama):
    task = create("ppl", files=["unused"], lengths=[40], decode_block=8)
    model = tiny.llama(window=32)
    assert task.run(model, Numbers(), CONFIG, documents_for(model, 1, 40)[0]).detail["past_window"]
    assert not task.run(llama, Numbers(), CONFIG, documents_for(llama, 1, 40)[0]).detail["past_window"]


def test_loss_by_position_is_pooled():
    nll = torch.arange(1000.0)
    cells = by_position(nll, first=5)
    assert len(cells["loss"]) == 250 <= CELLS
    assert cells["position"][:2] == [5, 9] and cells["loss"][:2] == [1.5, 5.5]
    assert sum(cells["tokens"]) == 1000
    assert sum(a * b for a, b in zip(cells["loss"], cells["tokens"])) / 1000 == pytest.approx(nll.mean().item())


def test_only_as_much_of_a_data_set_is_taken_as_is_needed(monkeypatch):
    taken = []

    def rows(name, split, streaming):
        assert (name, split, streaming) == ("someone/books", "train", True)
        for number in range(10**9):
            taken.append(number)
            yield {"text": "w " * (5 if number % 2 else 50)}

    monkeypatch.setattr(datasets, "load_dataset", rows)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: None)
    task = create("ppl", dataset="someone/books", split="train", lengths=[20], count=3)
    assert [d.key for d in task.documents(Words())] == ["20-books-0-0", "20-books-2-0", "20-books-4-0"]
    assert len(taken) == 5
    with pytest.raises(TreeKVError, match="lacks the column body; it has text"):
        create("ppl", dataset="someone/books", split="train", column="body").documents(Words())


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "needs either files or a dataset"),
        ({"files": ["a"], "dataset": "pg19"}, "needs either files or a dataset"),
        ({"files": ["a"], "lengths": [1]}, "lengths must be a whole number of at least 2, got 1"),
        ({"files": ["a"], "lengths": [8, 8]}, "lengths has 8 twice"),
        ({"files": ["a"], "count": 0}, "count must be a whole number of at least 1"),
        ({"files": ["a"], "join": "yes"}, "join must be true or false"),
        ({"files": ["a"], "prompt": 2047}, "prompt must be a whole number between 0 and 2046"),
        ({"files": [3]}, "files must be text, got 3"),
        ({"files": ["a"], "speed": 3}, "task 'ppl' has no option 'speed'; its options are files, dataset"),
    ],
)
def test_impossible_options(given, sentence):
    with pytest.raises(TreeKVError, match=sentence):
        create("ppl", **given)


def test_settings_do_not_depend_on_where_the_files_are(tmp_path):
    assert create("ppl", files=[str(tmp_path / "novel.txt")]).settings["files"] == ["novel.txt"]
