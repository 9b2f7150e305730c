"""Tasks "needle" and "passkey", and how answers come about: what is hidden is where it is said to be."""

from __future__ import annotations

import json
import random
import re

import pytest
import torch

from analysis.evaluation import create
from analysis.evaluation.tasks import haystack
from analysis.evaluation.tasks.answering import generate_answer
from analysis.evaluation.tasks.tokens import encode_prompt, special_prefix
from tests import tiny
from tests.analysis.evaluation.words import Words
from treekv import TreeKVCache, TreeKVConfig, TreeKVError


@pytest.fixture
def book(tmp_path):
    draw = random.Random(0)
    text = ". ".join(" ".join(f"w{draw.randrange(400)}" for _ in range(draw.randint(3, 15))) for _ in range(300))
    (tmp_path / "book.txt").write_text(text + ".")
    return str(tmp_path / "book.txt")


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("name", ["needle", "passkey"])
@pytest.mark.parametrize("keys", [1, 4])
def test_the_needle_is_at_the_stated_depth_and_the_length_is_kept(name, keys, bos, book):
    tokenizer = Words(bos)
    task = create(name, lengths=[300, 700], depths=[0, 30, 100], keys=keys, haystacks=[book, "noise"], samples=2)
    documents = task.documents(tokenizer)
    assert len({document.key for document in documents}) == len(documents) == 2 * 2 * 3 * 2
    for document in documents:
        data = document.data
        context, question = task.prompt_ids(tokenizer, data)
        assert data["tokens"] == len(context) + len(question)
        assert data["length"] - 20 <= data["tokens"] + data["new_tokens"] <= data["length"]
        assert data["answers"][0] not in data["question"] + data["start"]
        value = data["context"].index(data["answers"][0])
        begin = data["context"].rindex("The ", 0, value)
        before = len(tokenizer(data["context"][:begin], add_special_tokens=False)["input_ids"])
        assert data["at"] == pytest.approx(100 * before / len(context), abs=1)
        # Within half a sentence, the introduction, the end and the distractors of what was asked for.
        assert before == pytest.approx(data["depth"] / 100 * len(context), abs=30 + 20 * keys)
        assert json.loads(json.dumps(data)) == data


def test_every_number_has_one_owner_and_the_asked_one_the_answer(book):
    for document in create("needle", lengths=[400], keys=6, haystacks=[book]).documents(Words()):
        said = dict(re.findall(r"The secret number of the ([\w ]+) is (\d{4})\.", document.data["context"]))
        assert len(said) == len(set(said.values())) == 6
        asked = re.search(r"secret number of the ([\w ]+)\?", document.data["question"])[1]
        assert document.data["answers"] == [said[asked]]


def test_a_seed_gives_the_same_text_and_another_seed_another():
    def make(seed):
        return create("needle", lengths=[200], seed=seed, haystacks=["pydoc"]).documents(Words())

    assert make(1) == make(1)
    assert all(a.key == b.key and a.data["context"] != b.data["context"] for a, b in zip(make(1), make(2)))


def test_depths_and_samples_hide_different_numbers():
    answers = [d.data["answers"][0] for d in create("passkey", lengths=[200]).documents(Words())]
    assert len(set(answers)) == len(answers) == 10


def test_uuids():
    document = create("needle", lengths=[400], digits=0, samples=1).documents(Words())[0]
    assert re.fullmatch(
        r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", *document.data["answers"]
    )


def test_no_room():
    with pytest.raises(TreeKVError, match=r"no room for a haystack in \d+: choose a greater length or hide less"):
        create("needle", lengths=[100], keys=20).documents(Words())


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"depths": [50, 101]}, "depths must be percents between 0 and 100, got 101"),
        ({"depths": []}, "depths must have at least one entry"),
        ({"lengths": 10}, "lengths must be a whole number of at least 64, got 10"),
        ({"keys": 0}, "keys must be a whole number of at least 1"),
        ({"question": "hidden"}, "question must be one of given, withheld, got 'hidden'"),
        ({"haystacks": ["a/x.txt", "b/x.txt"]}, "haystacks has 'x.txt' twice"),
        ({"chat": 1}, "chat must be true or false"),
    ],
)
def test_impossible_options(given, sentence):
    with pytest.raises(TreeKVError, match=sentence):
        create("needle", **given)


def test_things_run_out():
    draw = random.Random(0)
    with pytest.raises(TreeKVError, match="only 9 numbers of 1 digits, 10 are needed"):
        haystack.values(draw, 10, 1)
    with pytest.raises(TreeKVError, match="names for hidden things, 100000 are needed"):
        haystack.keys(draw, 100000)
    assert len(set(haystack.keys(draw, 5000))) == 5000


def test_sentences_of_a_folder(tmp_path):
    (tmp_path / "b.txt").write_text('Third one?  "Fourth." ' + "word " * 70)
    (tmp_path / "a.txt").write_text("First one.\nSecond one!\n\nA heading\n\n")
    found = haystack.sentences(str(tmp_path))
    assert found[:3] == ["First one.", "Second one!", "A heading"]
    assert found[3] == "Third one?"
    assert [len(sentence.split()) for sentence in found[-2:]] == [60, 10]


# ---------------------------------------------------------------------- answers


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
        assert said.held == 16


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
    assert generate_answer(model, Numbers(), CONFIG.replace(prefill="stream"), ids[:30], ids[30:], 5).tokens == 5


def test_the_parts_of_a_prompt_are_tokenized_alike_with_and_without_the_template():
    tokenizer = Words()
    assert special_prefix(tokenizer) == [0] and special_prefix(Words(bos=False)) == []
    context, question = encode_prompt(tokenizer, "some context", "\nWhat?", " It is")
    assert tokenizer.decode(context) == "<begin>some context" and tokenizer.decode(question) == "\nWhat? It is"
    with pytest.raises(TreeKVError, match="no chat template"):
        encode_prompt(tokenizer, "some context", "\nWhat?", "", chat=True)
    tokenizer.chat_template = "set"
    context, question = encode_prompt(tokenizer, "some context", "\nWhat?", " It is", chat=True)
    assert tokenizer.decode(context) == "[user]some context"
    assert tokenizer.decode(question) == "\nWhat?[/][answer]It is", "the answer begins where the template ends"


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


def test_the_real_model_finds_a_single_needle_with_the_full_cache_and_loses_it_with_recent_tokens_alone(smollm2):
    model, tokenizer = smollm2
    task = create("needle", lengths=[256], depths=[30], samples=1, keys=1, new_tokens=8)
    document = task.documents(tokenizer)[0]
    assert task.run(model, tokenizer, None, document).scores["score"] == 100
    config = TreeKVConfig(policy="streaming", cache_size=64)
    assert task.run(model, tokenizer, config, document).scores["score"] == 0
