"""docs/policies.md, from the registry and the docstrings of the policies: `python -m tests.policies_page` writes it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from treekv import TreeKVConfig, policies
from treekv.policies import Policy

PAGE = Path(__file__).resolve().parents[1] / "docs" / "policies.md"

HEAD = """# The policies

All policies that come with TreeKV, from their docstrings. This page is generated: `python -m tests.policies_page`.
Sizes are the defaults for `cache_size=1024`; `options` are settings that only some policies use.
"""


def section(policy: Policy) -> str:
    first, *rest = re.split(r"\n\n", inspect.cleandoc(type(policy).__doc__ or ""))
    config = TreeKVConfig(policy=policy.name)
    stages = {
        (True, True): "evicts from prompts and while decoding",
        (True, False): "evicts from prompts",
        (False, True): "evicts while decoding",
        (False, False): "evicts nothing",
    }
    facts = [stages[policy.evicts_prompt, policy.evicts_decoding]]
    if policy.evicts_decoding:
        facts.append(f"{config.sink_size} sinks, {config.recent_size} recent")
    facts.append(f"options: {', '.join(f'`{option}`' for option in policy.options) or 'none'}")
    return "\n\n".join([f"## `{policy.name}`: {policies.title(policy.name)}", first, *rest, f"*{'; '.join(facts)}.*"])


def page() -> str:
    ours = [policies.get(name) for name in policies.names()]
    sections = [section(policy) for policy in ours if type(policy).__module__.startswith("treekv.")]
    return "\n".join([HEAD, *(f"{text}\n" for text in sections)])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
