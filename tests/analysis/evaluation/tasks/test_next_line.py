"""The task "next_line": which lines are asked for, what comes before them, and how an answer is scored."""

from __future__ import annotations

import pytest

from analysis.evaluation import create
from analysis.evaluation.tasks.next_line import NextLine
from analysis.evaluation.tasks.tokens import count_tokens
from tests.analysis.evaluation.words import Words
from treekv import TreeKVConfig, TreeKVError

LINES = [f"    value_{i % 7} = compute_{i % 9}(argument)" if i % 5 else f"# a comment on {i % 3}" for i in range(60)]


@pytest.fixture
def files(tmp_path):
    (tmp_path / "module.py").write_text("\n".join(LINES))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "module.py").write_text("\n".join(LINES[::-1]))
    return [str(tmp_path)]


def test_a_document_ends_before_the_line_that_is_asked_for(files) -> None:
    tokenizer = Words()
    documents = create("next_line", files=files, lengths=[64, 128], samples=5).documents(tokenizer)
    assert [d.key for d in documents] == [f"module-{length}-{i}" for length in (64, 128) for i in range(5)]
    for document in documents:
        data, number = document.data, document.data["line"] - 1
        whole = data["context"] + data["question"]
        last = whole.split("\n")
        assert data["answers"] == [LINES[number].strip()] and not LINES[number].startswith("#")
        assert last[-1] == "    " and last[:-1] == LINES[number - len(last) + 1 : number]
        assert data["question"].count("\n") == 3
        assert data["length"] - 12 <= count_tokens(tokenizer, whole) <= data["length"]
    assert len({d.data["line"] for d in documents}) > 6


def test_answers_are_compared_by_their_first_line() -> None:
    task = NextLine(files=["x"])
    data = {"answers": ["return a + b"]}
    assert task.score(data, "return a + b\n    more") == 1
    assert task.score(data, "  return a + b") == 1
    assert task.score(data, "") == 0
    assert task.score(data, "return a - b") == pytest.approx(22 / 24)


@pytest.mark.parametrize("question", ["given", "withheld"])
def test_an_answer_is_exact_or_not(llama, files, question, monkeypatch) -> None:
    tokenizer = Words(bos=False)
    task = create("next_line", files=files, lengths=[64], samples=1, new_tokens=2, question=question)
    [document] = task.documents(tokenizer)
    config = TreeKVConfig(cache_size=16, sink_size=2, recent_size=6)
    monkeypatch.setattr(Words, "decode", lambda self, ids, **_: document.data["answers"][0] + "\nmore")
    assert task.run(llama, tokenizer, config, document).scores | {"cache_bytes": 0} == {
        "score": 100.0,
        "exact": 100.0,
        "cache_bytes": 0,
    }
    monkeypatch.setattr(Words, "decode", lambda self, ids, **_: "nothing of it")
    scores = task.run(llama, tokenizer, config, document).scores
    assert scores["exact"] == 0 and 0 < scores["score"] < 100


def test_files_of_one_name_are_told_apart_and_short_ones_fail_alone(tmp_path, llama, files) -> None:
    (tmp_path / "short.py").write_text("x = 1\n" * 30)
    (tmp_path / "empty.py").write_text("")
    task = create("next_line", files=[*files, str(tmp_path / "other")], lengths=[64, 9999], samples=1)
    documents = task.documents(Words())
    failing = {d.key for d in documents if "error" in d.data}
    assert [d.key for d in documents if d.key not in failing] == ["module-64-0", "module~2-64-0"]
    assert failing == {f"{name}-9999-0" for name in ("empty", "module", "module~2", "short")} | {
        "empty-64-0",
        "short-64-0",
    }
    assert len({d.key for d in documents}) == len(documents)
    with pytest.raises(TreeKVError, match="'module' has no line to ask for after 9999 tokens"):
        task.run(llama, Words(), None, next(d for d in documents if d.key == "module-9999-0"))


def test_files_that_do_not_do_are_one_sentence(tmp_path, files) -> None:
    with pytest.raises(TreeKVError, match=r"'module' has no line to ask for after 9999 tokens; it has \d+ tokens"):
        create("next_line", files=files, lengths=[9999]).documents(Words())
    with pytest.raises(TreeKVError, match="lengths must be a whole number of at least 64, got 8"):
        create("next_line", files=files, lengths=[8])
