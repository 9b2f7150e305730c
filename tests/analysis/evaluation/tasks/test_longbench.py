"""Task "longbench": prompts, what is cut, what counts, and where the rows come from."""

from __future__ import annotations

import json
import zipfile

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from analysis.evaluation import create
from analysis.evaluation.tasks import answering, longbench
from analysis.evaluation.tasks.longbench import SUBSETS, cut
from analysis.evaluation.tasks.longbench_prompts import PROMPTS
from tests.analysis.evaluation.words import Words
from treekv import TreeKVError

ENGLISH = (
    "narrativeqa qasper multifieldqa_en hotpotqa 2wikimqa musique gov_report qmsum multi_news trec triviaqa samsum "
    "passage_count passage_retrieval_en lcc repobench-p"
)


def row(**changes):
    return {
        "input": "Who?",
        "context": "Ann lives here.",
        "answers": ["Ann"],
        "all_classes": None,
        "length": 3,
    } | changes


def folder(tmp_path, **rows):
    for subset, lines in rows.items():
        (tmp_path / f"{subset}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return [str(tmp_path)]


def test_the_sixteen_english_tasks_are_there():
    assert sorted(SUBSETS) == sorted(PROMPTS) == sorted(ENGLISH.split())


def test_documents(tmp_path):
    files = folder(tmp_path, hotpotqa=[row(), row(context="{input} {x}", input="{context}?")], lcc=[row(input="")])
    task = create("longbench", files=files, subsets=["hotpotqa", "lcc"])
    tokenizer = Words()
    documents = task.documents(tokenizer)
    assert [document.key for document in documents] == ["hotpotqa-0", "hotpotqa-1", "lcc-0"]
    first, braces, code = (document.data for document in documents)
    assert first["context"].endswith("Passages:\nAnn lives here.")
    assert first["question"].endswith("Question: Who?\nAnswer:")
    assert "{input} {x}" in braces["context"] and braces["question"].endswith("Question: {context}?\nAnswer:")
    assert code["question"] == "Next line of code:\n"
    assert (first["new_tokens"], code["new_tokens"]) == (32, 64)
    assert first["words"] == 3 and first["dataset"] == "hotpotqa" and first["wording"] == "own"
    context, rest = task.prompt_ids(tokenizer, first)
    assert first["tokens"] == len(context) + len(rest)
    assert tokenizer.decode(context + rest) == "<begin>" + first["context"] + first["question"]
    assert json.loads(json.dumps(first)) == first
    assert [d.key for d in create("longbench", files=files, subsets=["hotpotqa"], samples=1).documents(Words())] == [
        "hotpotqa-0"
    ]


def test_published_prompts_are_read(tmp_path):
    files = folder(tmp_path, trec=[row(all_classes=["Ann"])])
    (tmp_path / "dataset2prompt.json").write_text(json.dumps({"trec": "Types! {context} | {input} |"}))
    task = create("longbench", files=files, subsets=["trec"], prompts=str(tmp_path))
    data = task.documents(Words())[0].data
    assert data["context"] == "Types! Ann lives here." and data["question"] == " | Who? |"
    assert data["wording"] == "published" and task.settings["prompts"] == "published"
    with pytest.raises(TreeKVError, match="has no prompt for lcc"):
        create("longbench", files=files, subsets=["lcc"], prompts=str(tmp_path)).documents(Words())
    with pytest.raises(TreeKVError, match=r"has no dataset2prompt\.json"):
        create("longbench", files=files, prompts=str(tmp_path / "none")).documents(Words())


@pytest.mark.parametrize("longest", range(2, 12))
@pytest.mark.parametrize("asked", [1, 3, 7])
def test_the_middle_is_cut(longest, asked):
    whole = list(range(10))
    context, question = whole[: 10 - asked], whole[10 - asked :]
    first, last = cut(context, question, longest)
    half = longest // 2
    assert first + last == (whole if longest >= 10 else whole[:half] + whole[10 - half :])
    if asked < half:
        assert last == question, "the question stays whole"
    assert set(first) <= set(context)


def test_long_prompts_are_cut_to_the_bound(tmp_path):
    files = folder(tmp_path, musique=[row(context="word " * 1000 + "end")])
    task = create("longbench", files=files, subsets=["musique"], longest=200)
    tokenizer = Words()
    data = task.documents(tokenizer)[0].data
    context, question = task.prompt_ids(tokenizer, data)
    assert data["tokens"] == len(context) + len(question) == 200
    assert tokenizer.decode(question) == data["question"] and tokenizer.decode(context).endswith("end")
    assert tokenizer.decode(context).startswith("<begin>Use the passages")


@pytest.mark.parametrize(
    ("subset", "answer", "expected", "classes", "score"),
    [
        ("hotpotqa", "Ann\nBob", ["Ann", "Eve"], None, 2 / 3),
        ("triviaqa", "\nAnn\nBob", ["Eve", "Ann"], None, 1),  # the first line
        ("trec", "Date\nFood", ["Date"], ["Date", "Food"], 1),
        ("trec", "Date or Food", ["Date"], ["Date", "Food"], 0.5),
        ("samsum", "Ann met Bob\nAnn left", ["Ann met Eve"], None, 2 / 3),
        ("gov_report", "Ann met Bob", ["Ann met Eve"], None, 2 / 3),
        ("passage_count", "7 of 30", ["7"], None, 0.5),
        ("passage_retrieval_en", "Paragraph 7", ["Paragraph 7"], None, 1),
        ("lcc", "# next\nreturn x", ["return x"], None, 1),
        ("hotpotqa", "", ["Ann"], None, 0),
    ],
)
def test_each_task_has_its_metric(tmp_path, subset, answer, expected, classes, score):
    files = folder(tmp_path, **{subset: [row(answers=expected, all_classes=classes)]})
    task = create("longbench", files=files, subsets=[subset])
    assert task.score(task.documents(Words())[0].data, answer) == pytest.approx(score, abs=1e-6)


def test_a_bad_row_fails_alone(tmp_path):
    rows = [row(), row(answers=[]), row(context=" "), {"input": "x"}]
    task = create("longbench", files=folder(tmp_path, hotpotqa=rows, trec=[row()]), subsets=["hotpotqa", "trec"])
    documents = task.documents(Words())
    assert len(documents) == 5
    for document, sentence in zip(
        documents[1:],
        (
            "hotpotqa: row 1 has no answers",
            "row 2 has no context",
            "row 3 lacks the column context, answers",
            "trec: row 0 has no all_classes",
        ),
    ):
        with pytest.raises(TreeKVError, match=sentence):
            task.run(None, Words(), None, document)


def test_a_file_that_is_no_task_s(tmp_path):
    files = folder(tmp_path, lcc=[{"input": ""}], trec=[row(all_classes=["Date"])])
    (tmp_path / "qasper.jsonl").write_text("")
    bad, good, empty = create("longbench", files=files, subsets=["lcc", "trec", "qasper"]).documents(Words())
    assert "lacks the column context, answers; it has input" in bad.data["error"]
    assert "is empty" in empty.data["error"] and empty.data["dataset"] == "qasper"
    assert "error" not in good.data
    (tmp_path / "qasper.jsonl").unlink()
    with pytest.raises(TreeKVError, match=r"there is no file qasper\.jsonl among"):
        create("longbench", files=[str(tmp_path)], subsets=["qasper"]).documents(Words())
    with pytest.raises(TreeKVError, match=r"subsets must be one of narrativeqa, .*, got 'dureader'"):
        create("longbench", subsets=["dureader"])


def test_the_archive_of_the_hub(tmp_path, monkeypatch):
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data/hotpotqa.jsonl", json.dumps(row()) + "\n" + json.dumps(row(input="Where?")) + "\n")
        archive.writestr("data/hotpotqa_e.jsonl", json.dumps(row()))

    asked = []

    def fetch(repository, name, repo_type, local_files_only=False):
        assert (repository, name, repo_type) == (*longbench.HUB, "dataset")
        asked.append(local_files_only)
        if local_files_only and len(asked) == 1:  # the first time it is not there yet
            raise LocalEntryNotFoundError("not there")
        return str(path)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    keys = [document.key for document in create("longbench", subsets=["hotpotqa"]).documents(Words())]
    assert keys == ["hotpotqa-0", "hotpotqa-1"]
    assert asked == [True, False]
    with pytest.raises(TreeKVError, match=r"has no lcc\.jsonl"):
        create("longbench", subsets=["lcc"]).documents(Words())
    path.write_bytes(b"damaged")
    with pytest.raises(TreeKVError, match="is damaged"):
        create("longbench", subsets=["lcc"]).documents(Words())


def test_a_hub_that_cannot_be_reached_is_one_sentence(tmp_path, monkeypatch):
    def refuse(self, name, timeout):
        assert name == longbench.HUB[0] and timeout < 60
        raise OSError("no route\nto host")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(TreeKVError) as caught:
        create("longbench").documents(Words())
    assert str(caught.value) == (
        "the data set 'THUDM/LongBench' cannot be loaded from the hub: no route; give local files instead"
    )


def test_chat_templates_and_stops_are_the_published_ones(tmp_path, monkeypatch):
    files = folder(tmp_path, hotpotqa=[row()], samsum=[row()], lcc=[row()])
    tokenizer = Words(bos=False)
    tokenizer.chat_template = "set"
    task = create("longbench", files=files, subsets=["hotpotqa", "samsum", "lcc"], chat=True, question="withheld")
    seen = []

    def say(model, tokenizer, config, context, question, tokens, *, withheld, stop_ids, min_tokens, prompt_cache):
        stops = tokenizer.decode(list(stop_ids))
        seen.append((tokenizer.decode(context + question), tokens, withheld, stops, min_tokens))
        return answering.Answer("Ann", 1, 1, 1, 1)

    monkeypatch.setattr(answering, "generate_answer", say)
    scores = [task.run(None, tokenizer, None, document).scores["score"] for document in task.documents(tokenizer)]
    assert scores[:2] == pytest.approx([100, 100])
    assert [text.startswith("[user]") for text, *_ in seen] == [True, False, False]
    assert [rest for _, *rest in seen] == [[32, True, "", 0], [128, True, "\n", 1], [64, True, "", 0]]
