"""Our own prompts have the form of the published ones."""

from __future__ import annotations

import re

from analysis.evaluation.tasks.longbench_prompts import PROMPTS


def test_every_prompt_has_the_context_and_asks_where_there_is_something_to_ask():
    without = {"gov_report", "multi_news", "passage_count", "lcc"}
    for subset, wording in PROMPTS.items():
        fields = re.findall(r"\{(\w+)\}", wording)
        assert fields == (["context"] if subset in without else ["context", "input"]), subset
