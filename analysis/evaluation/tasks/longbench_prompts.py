"""Prompts for LongBench's tasks in our own words, in the form of the published ones.

The parts before and after the context, their order and the kind of answer are LongBench's; the published wording is
read by `LongBench(prompts=...)`. Fields are {context} and {input}, the columns of the data.
"""

from __future__ import annotations

from typing import Final

_BRIEF = "Reply with the answer alone."

_PASSAGES = (
    "Use the passages below to answer a question. " + _BRIEF + "\n\nPassages:\n{context}\n\n"
    "Use the passages above to answer the question. " + _BRIEF + "\n\nQuestion: {input}\nAnswer:"
)

_STORY = "Reply in as few words as possible, with one phrase if that will do, and without a reason."

_ARTICLE = (
    'Reply as shortly as possible, with a phrase or a sentence. Reply "unanswerable" if the article does not say, and '
    '"yes", "no" or "unanswerable" if the question is of that kind. Give no reason.'
)

PROMPTS: Final = {
    "narrativeqa": (
        "Here is a story, from a novel or the script of a film, and then a question about it. " + _STORY + "\n\n"
        "Story: {context}\n\nNow answer the question about the story. " + _STORY + "\n\nQuestion: {input}\n\nAnswer:"
    ),
    "qasper": (
        "Here is a scientific article, and then a question about it. " + _ARTICLE + "\n\nArticle: {context}\n\n"
        "Now answer the question about the article. " + _ARTICLE + "\n\nQuestion: {input}\n\nAnswer:"
    ),
    "multifieldqa_en": (
        "Read this text; a short answer is wanted afterwards.\n\n{context}\n\n"
        "Now answer a question about the text. " + _BRIEF + "\n\nQuestion: {input}\nAnswer:"
    ),
    "hotpotqa": _PASSAGES,
    "2wikimqa": _PASSAGES,
    "musique": _PASSAGES,
    "gov_report": (
        "Here is a report of a government agency. Summarize it on one page.\n\nReport:\n{context}\n\n"
        "Now summarize the report on one page.\n\nSummary:"
    ),
    "qmsum": (
        "Here is the transcript of a meeting, and then a question or a request about it, to be answered in one or a "
        "few sentences.\n\nTranscript:\n{context}\n\n"
        "Now answer, in one or a few sentences, from the transcript.\n\nQuery: {input}\nAnswer:"
    ),
    "multi_news": (
        "Here are several news articles. Summarize all of them together on one page.\n\nNews:\n{context}\n\n"
        "Now summarize all the news together on one page.\n\nSummary:"
    ),
    "trec": "Say of which type a question is. These questions show how.\n\n{context}\n{input}",
    "triviaqa": ("Answer a question about a passage. " + _BRIEF + " These examples show how.\n\n{context}\n\n{input}"),
    "samsum": "Summarize a dialogue in a few short sentences. These examples show how.\n\n{context}\n\n{input}",
    "passage_count": (
        "Below are paragraphs of Wikipedia, some of which may be there more than once. Read them and find out how many "
        "different ones there are, each counted once.\n\n{context}\n\n"
        "Now give the number of different paragraphs, as a number and nothing else: 1, 2, 3 and so on.\n\n"
        "The number is: "
    ),
    "passage_retrieval_en": (
        "Below are 30 paragraphs of Wikipedia, and then an abstract of one of them. Find out which.\n\n{context}\n\n"
        "This is the abstract.\n\n{input}\n\n"
        'Now give the number of its paragraph, in the form "Paragraph 1", "Paragraph 2" and so on.\n\nIt is: '
    ),
    "lcc": "Continue this code.\n{context}Next line of code:\n",
    "repobench-p": "Continue this code.\n{context}{input}Next line of code:\n",
}
