"""The sample text of the demo: English prose that comes with every Python, without its markup."""

from __future__ import annotations

import re
from typing import Final

# The topics that read best come first; the rest follow in alphabetical order.
FIRST: Final = ("execmodel", "exceptions", "objects", "import", "customization")
LEAST_WORDS: Final = 12

_MARKUP = re.compile(r"::=|^\s*[+|]|^\s*[=*^~-]{3,}$|^\s*>>>|^\s*\.\. ", re.MULTILINE)


def sample_text() -> str:
    """Paragraphs of Python's own language reference (`pydoc_data.topics`), one a line, in a fixed order.

    Headings, tables, grammars, lists and code are left out, quotation and emphasis marks removed, and a
    paragraph that stands in several topics is given once. The wording depends on the Python version.
    """
    from pydoc_data.topics import topics

    order = [name for name in FIRST if name in topics] + sorted(set(topics) - set(FIRST))
    paragraphs = (paragraph for name in order for paragraph in _prose(topics[name]))
    return "\n".join(dict.fromkeys(paragraphs))


def _prose(topic: str) -> list[str]:
    kept = []
    for paragraph in re.split(r"\n\s*\n", topic.strip("\n")):
        if _MARKUP.search(paragraph) or re.match(r"[ *-]|\d+\.\s", paragraph):
            continue
        words = " ".join(paragraph.split())
        words = re.sub(r"\s*\[\d+\]", "", words)  # footnote marks
        words = re.sub(r"(?<![\w*])\*{1,2}(\w[^*]*?)\*{1,2}(?!\w)", r"\1", words)
        words = words.replace('"', "")
        if len(words.split()) >= LEAST_WORDS and words.endswith((".", ":", "?")):
            kept.append(words)
    return kept
