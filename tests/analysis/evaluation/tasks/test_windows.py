"""The task "ppl" with sliding windows, against the protocol written out token by token."""

from __future__ import annotations

import math

import pytest
import torch

from analysis.evaluation import create
from analysis.evaluation.sweep.grid import ModelSpec
from analysis.evaluation.sweep.runner import task_definition
from analysis.evaluation.tasks import perplexity
from analysis.evaluation.tasks.base import Document
from analysis.evaluation.tasks.windows import at_shorter_lengths, counted, window_count, windows_of
from tests import tiny
from tests.analysis.evaluation.words import Words
from tests.reference.perplexity import sliding_losses, sliding_perplexity
from treekv import TreeKVCache, TreeKVConfig, TreeKVError

CONFIG = TreeKVConfig(cache_size=12, sink_size=2, recent_size=4)
SETTINGS = [None, CONFIG, TreeKVConfig("h2o", 12, variant="paper"), TreeKVConfig("tova", 12)]


class Letters(Words):
    """Every token is one byte long; windows start with the token 0 if `bos`."""

    def decode(self, ids, **_):
        return "x" * len(ids)


def reader(model, config, block=1):
    """What `sliding_losses` takes, with a cache of these settings that evicts from the first token on."""
    used = TreeKVConfig(policy="full") if config is None else config.replace(prefill="stream", block_size=block)

    def start():
        cache = TreeKVCache(used, model.config)

        def read(token):
            with torch.inference_mode():
                logits = model(torch.tensor([[token]]), past_key_values=cache).logits[0, -1]
            return logits.float().log_softmax(-1).tolist()

        return read

    return start


def documents_of(task, stretch, count=1, bos=False):
    before = [0] if bos else []
    ids = [before + tiny.tokens(stretch - len(before), seed=i)[0].tolist() for i in range(count)]
    return [Document(f"d{i}", {"tokens": task.lengths[0], "ids": own}) for i, own in enumerate(ids)]


@pytest.mark.parametrize("config", SETTINGS, ids=lambda config: config.policy if config else "full")
@pytest.mark.parametrize(
    "length, stride, stretch, bos",
    [
        (24, 8, 40, False),
        (24, 8, 45, True),
        (17, 5, 31, False),
        (20, 20, 60, True),
        (9, 1, 12, False),
        (16, 8, 16, True),
    ],
)
def test_windows_are_those_of_the_paper(llama, config, length, stride, stretch, bos):
    task = create("ppl", files=["unused"], lengths=[length], stride=stride, stretch=stretch)
    document = documents_of(task, stretch, bos=bos)[0]
    found = task.run(llama, Letters(bos), config, document)
    special, text = document.data["ids"][: int(bos)], document.data["ids"][int(bos) :]
    asked = (text, special, length, stride, reader(llama, config))
    expected = sliding_losses(*asked)
    assert [window["tokens"] for window in found.detail["windows"]] == [len(losses) for losses in expected]
    means = [sum(losses) / len(losses) for losses in expected]
    assert [window["loss"] for window in found.detail["windows"]] == pytest.approx(means, rel=1e-4)
    assert found.scores["perplexity"] == pytest.approx(sliding_perplexity(*asked), rel=1e-4)
    assert found.scores["loss"] == pytest.approx(math.log(found.scores["perplexity"]), rel=1e-9)
    assert found.scores["bits_per_byte"] == pytest.approx(found.scores["loss"] / math.log(2))


def test_every_token_is_counted_once():
    for length, stride, stretch in ((24, 8, 40), (17, 5, 32), (10, 10, 50)):
        ids = list(range(stretch))
        windows = windows_of(ids, 0, length, stride)
        assert len(windows) == window_count(stretch, length, stride)
        losses = torch.tensor([window[1:] for window in windows])
        numbers = torch.cat(counted(losses, stride)).tolist()
        wanted = set(range(1, len(windows) * stride + length - stride))
        if stride == length:  # nothing predicts the first token of a window
            wanted -= {stride * number for number in range(len(windows))}
        assert sorted(numbers) == sorted(wanted)


def test_a_longer_window_tells_of_shorter_ones(llama):
    one = create("ppl", files=["unused"], lengths=[32], stride=8, stretch=32)
    document = documents_of(one, 32)[0]
    scores = one.run(llama, Letters(False), CONFIG, document).scores
    assert [name for name in scores if name.startswith("perplexity_")] == [
        "perplexity_8", "perplexity_16", "perplexity_32",
    ]  # fmt: skip
    for length in (8, 16, 32):
        losses = sliding_losses(document.data["ids"][:length], [], length, length, reader(llama, CONFIG))[0][-8:]
        assert scores[f"perplexity_{length}"] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)
    nll = torch.arange(14.0).view(2, 7)  # two windows of 8 tokens
    assert at_shorter_lengths(nll, 4) == {4: math.exp((0 + 1 + 2 + 7 + 8 + 9) / 6), 8: math.exp((4.5 + 11.5) / 2)}


def test_documents_and_windows_are_rows_of_a_few_passes(llama, monkeypatch):
    task = create("ppl", files=["unused"], lengths=[16], stride=8, stretch=40, decode_block=4)
    documents = documents_of(task, 40, count=3)
    alone = [task.run(llama, Letters(False), CONFIG, document) for document in documents]
    monkeypatch.setattr(perplexity, "PASS_ROWS", 5)  # twelve windows: passes of 5, 5 and 2
    told = []
    together = task.run_many(llama, Letters(False), CONFIG, documents, lambda done, total: told.append((done, total)))
    for one, found in zip(alone, together, strict=True):
        assert found.scores == pytest.approx(one.scores, rel=1e-4)
        assert len(found.detail["windows"]) == 4 and found.detail["stride"] == 8
    assert told == sorted(told) and told[-1] == (12 * 16, 12 * 16)


def test_a_document_is_a_stretch_of_its_own_length(tmp_path):
    (tmp_path / "a.txt").write_text(" ".join(f"a{i}" for i in range(70)))
    (tmp_path / "b.txt").write_text("too short")
    task = create("ppl", files=[str(tmp_path)], lengths=[10, 20], stride=5, stretch=31, count=2)
    documents = task.documents(Words())
    assert [document.key for document in documents] == ["10-a-0", "10-a-1", "20-a-0", "20-a-1"]
    assert [len(document.data["ids"]) for document in documents] == [31] * 4
    assert [document.data["tokens"] for document in documents] == [10, 10, 20, 20]
    with pytest.raises(TreeKVError, match="no text has 300 tokens; the longest has 71"):
        create("ppl", files=[str(tmp_path)], lengths=[10], stride=5, stretch=300).documents(Words())


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"stride": 8}, "needs both stride and stretch for sliding windows, or neither"),
        ({"stretch": 4096}, "needs both stride and stretch for sliding windows, or neither"),
        ({"stride": 4096, "stretch": 8192}, "stride must be a whole number between 1 and 2048, got 4096"),
        ({"stride": 0, "stretch": 8192}, "stride must be a whole number between 1 and 2048, got 0"),
        ({"stride": 1024, "stretch": 1000}, "stretch must be a whole number of at least 2048, got 1000"),
        ({"stride": 8, "stretch": 4096, "prompt": 5}, "from an empty cache, so prompt must be 0, got 5"),
    ],
)
def test_impossible_windows_are_one_sentence(given, sentence):
    with pytest.raises(TreeKVError, match=sentence):
        create("ppl", files=["a"], **given)


def test_records_of_documents_without_windows_keep_their_definition():
    model = ModelSpec("m")
    options = task_definition(model, create("ppl", files=["a"]), 0).options
    assert options["decode_block"] == 1 and not {"stride", "stretch"} & set(options)
    options = task_definition(model, create("ppl", files=["a"], stride=8, stretch=4096), 0).options
    assert (options["stride"], options["stretch"]) == (8, 4096)
