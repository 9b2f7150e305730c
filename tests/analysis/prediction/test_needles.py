"""Numbers that are hidden in a text: where they stand, and answers that are those of the task "needle"."""

from __future__ import annotations

import json

import pytest

import analysis
from analysis.evaluation.tasks import haystack
from analysis.evaluation.tasks.answering import generate_answer
from analysis.evaluation.tasks.tokens import end_tokens
from analysis.prediction import needles
from treekv import TreeKVConfig, TreeKVError

TREE = TreeKVConfig(cache_size=64)
STREAM = TREE.replace(prefill="stream")
TEXT = " ".join(haystack.sentences("pydoc")[40:120])


def hidden(tokenizer, found) -> tuple[list[int], list[list[int]], list[dict]]:
    asked = json.loads(found.attrs["asked"])
    names, numbers = [one["name"] for one in asked], [one["number"] for one in asked]
    hay = haystack.sentences_of(TEXT)
    context, questions = needles._prompt(tokenizer, hay, names, numbers, found.attrs["prompt"])
    return context, questions, asked


@pytest.fixture(scope="module")
def found(smollm2):
    configs = {"tree": TREE, "stream": STREAM}
    return analysis.find_needles(*smollm2, TEXT, configs, prompt=300, numbers=3, dtype="float32")


def test_answers_are_those_of_the_task(smollm2, found) -> None:
    model, tokenizer = smollm2
    context, questions, asked = hidden(tokenizer, found)
    for name, config in {"full": None, "tree": TREE, "stream": STREAM}.items():
        for place, question in enumerate(questions):
            for how in ("given", "withheld"):
                withheld, most = how == "withheld", needles.ANSWER_TOKENS
                one = generate_answer(model, tokenizer, config, context, question, most, withheld=withheld)
                assert asked[place]["answers"][name][how] == one.text
                right = asked[place]["number"] in one.text.replace(".", " ").split()
                assert bool(found["found"].sel(policy=name, question=how).values[place]) == right
    assert found["found"].sel(policy="full").values.all()
    assert end_tokens(model)


def test_numbers_stand_evenly_in_a_prompt_of_the_length_that_was_asked_for(smollm2, found) -> None:
    _, tokenizer = smollm2
    context, questions, asked = hidden(tokenizer, found)
    assert 290 <= len(context) + max(map(len, questions)) <= 300
    text = tokenizer.decode(context)
    places = [text.index(f"The secret number of the {one['name']} is {one['number']}.") for one in asked]
    shares = [100 * place / len(text) for place in places]
    assert shares == sorted(shares) and shares == pytest.approx([20, 50, 80], abs=15)
    assert found["depth"].values.tolist() == pytest.approx([100 / 6, 50, 500 / 6])


def test_it_can_be_saved(found, tmp_path) -> None:
    analysis.save(found, tmp_path / "found.nc")
    assert analysis.open(tmp_path / "found.nc", "needles").equals(found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(prompt=255), "prompt must be at least 256 tokens, so that hidden numbers have text around them, got 255"),
        (dict(prompt=8190), "a prompt of 8190 tokens and 8 more do not fit the model's window of 8192"),
        (dict(numbers=0), "numbers must be a whole number of at least 1, got 0"),
        (dict(configs={}), "no settings given"),
        (dict(text=" \n"), "the text has no words"),
        (dict(numbers=40), "which leaves no room for a haystack"),
    ],
)
def test_what_is_wrong_is_said_at_once(smollm2, changes, message) -> None:
    given = dict(text=TEXT, configs={"tree": TREE}, prompt=300) | changes
    text, configs = given.pop("text"), given.pop("configs")
    with pytest.raises(TreeKVError) as caught:
        analysis.find_needles(*smollm2, text, configs, **given)
    assert message in str(caught.value)
