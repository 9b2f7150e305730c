"""The task "turns": what the model sees, answers of the full cache, and what they cost another cache."""

from __future__ import annotations

import pytest
import torch

from analysis.evaluation import create
from analysis.evaluation.tasks.turns import REQUEST, requests
from analysis.token_ids import encode
from tests.analysis.evaluation.words import Words
from treekv import TreeKVCache, TreeKVConfig, TreeKVError

CONFIG = TreeKVConfig(cache_size=16, sink_size=2, recent_size=6)


class Chat(Words):
    """With a template that closes every turn."""

    chat_template = "yes"

    def apply_chat_template(self, turns, **_):
        return "".join(f"[{turn['role']}]{turn['content']}[/]" for turn in turns)

    def decode(self, ids, skip_special_tokens=False):
        return super().decode([i for i in ids if i < len(self.pieces)], skip_special_tokens)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "a.txt").write_text(" ".join(f"w{i % 30}" for i in range(200)))
    return [str(tmp_path)]


def test_the_turns_are_those_of_the_template() -> None:
    found = requests(Chat(), ["one", "two"])
    first, second = (REQUEST.format(number=number, part=part) for number, part in ((1, "one"), (2, "two")))
    assert found == [f"[user]{first}[/][assistant]", f"[/][user]{second}[/][assistant]"]


@pytest.mark.parametrize("config", [None, CONFIG])
def test_the_loss_is_that_of_the_full_caches_answers_turn_by_turn(llama, files, config) -> None:
    tokenizer = Chat(bos=False)
    task = create("turns", files=files, turns=3, part=12, new_tokens=5, count=1)
    [document] = task.documents(tokenizer)
    assert len(document.data["parts"]) == 3
    measured = task.run(llama, tokenizer, config, document)
    asked = [encode(tokenizer, text) for text in requests(tokenizer, document.data["parts"])]
    full, own = (TreeKVCache(c, llama.config) for c in (TreeKVConfig(policy="full"), config or TreeKVConfig("full")))
    losses, agreed = [], []
    with torch.no_grad():
        for ids in asked:
            logits, mine = (llama(torch.tensor([ids]), past_key_values=c).logits[0, -1] for c in (full, own))
            turn = []
            for _ in range(5):
                token = int(logits.argmax())
                turn.append(-mine.log_softmax(-1)[token].item())
                agreed.append(int(mine.argmax()) == token)
                logits, mine = (llama(torch.tensor([[token]]), past_key_values=c).logits[0, -1] for c in (full, own))
            losses.append(sum(turn) / 5)
    for number, loss in enumerate(losses, start=1):
        assert measured.scores[f"loss_turn_{number}"] == pytest.approx(loss, abs=1e-4)
    assert measured.scores["loss"] == pytest.approx(sum(losses) / 3, abs=1e-4)
    assert measured.scores["agreement"] == pytest.approx(100 * sum(agreed) / 15)
    assert measured.scores["cache_bytes"] == own.nbytes
    if config is None:
        assert measured.scores["agreement"] == 100


def test_bad_input_is_one_sentence(llama, files) -> None:
    with pytest.raises(TreeKVError, match="has no chat template, which the task 'turns' needs"):
        create("turns", files=files, part=12).documents(Words())
    for changes, message in (
        ({"turns": 0}, "turns must be a whole number of at least 1, got 0"),
        ({"part": 1}, "part must be a whole number of at least 2, got 1"),
        ({"files": [""]}, "files must be text, got ''"),
    ):
        with pytest.raises(TreeKVError, match=message):
            create("turns", **{"files": files, **changes})
    task = create("turns", files=files, turns=2, part=12, new_tokens=10**6)
    tokenizer = Chat(bos=False)
    with pytest.raises(TreeKVError, match=r"2 turns take up to 2000[0-9]* tokens; the model's window has"):
        task.run(llama, tokenizer, None, task.documents(tokenizer)[0])
    loud = Chat()
    loud.apply_chat_template = lambda turns, **_: "".join(turn["content"].upper() for turn in turns)
    with pytest.raises(TreeKVError, match="the chat template changes the answers"):
        requests(loud, ["one"])
