"""docs/policies.md, and the table of policies in README.md, from the registry and the docstrings of the policies:
`python -m tests.policies_page` writes both."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from treekv import TreeKVConfig, policies
from treekv.policies import Policy

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "policies.md"
README = ROOT / "README.md"
START, END = "<!-- the table of policies -->\n", "<!-- end of the table -->\n"

HEAD = """# The policies

All policies that come with TreeKV, from their docstrings. This page is generated: `python -m tests.policies_page`.
Sizes are the defaults for `cache_size=1024`; `options` are settings that only some policies use.
"""


MEASURED = """## Which positions

Policies that look at keys see them rotated to their true positions with `positions="original"`, else before rotary
embedding ([the method](method.md#keys-values-and-the-last-queries)). Perplexity of two stretches of 1,024 tokens of
novels and two of encyclopedia articles with 128 tokens kept, SmolLM2-135M (`treekv eval
benchmarks/grids/policy-positions.yaml`); of `expected`, which acts on a prompt, that of the last 256 tokens after a
prompt of 768 (the task's option `prompt: 768`):

| policy | novels, rank | novels, original | articles, rank | articles, original |
| --- | ---: | ---: | ---: | ---: |
| `keydiff` | 49.46 | **46.86** | 26.32 | **23.61** |
| `lagkv` | **34.70** | 36.07 | **18.04** | 18.68 |
| `rkv` | **33.22** | 33.59 | **18.36** | 18.53 |
| `snapkv_decode` | **34.37** | 34.70 | 18.40 | **18.30** |
| `cur` | 38.67 | **37.39** | **19.77** | 19.93 |
| `vase` | **33.43** | 33.78 | 18.18 | **18.04** |
| `expected` | 36.45 | **35.21** | 15.67 | **15.42** |

So "original", where the papers have them, is the default of `keydiff` and `expected`, for which it is better on both
texts. `keydiff` remains far behind `tree` (33.77 and 18.03 at rank positions): it protects no recent token. Of the
others none is better at true positions on both texts, and ranks also go beyond the model's window.

## Without attention weights

The same stretches, again with 128 tokens kept (`treekv eval benchmarks/grids/no-attention.yaml`); the tree by
attention first.

| policy | novels | articles |
| --- | ---: | ---: |
| `tree` | 33.77 | 18.03 |
| `tree` with `importance="similarity"` | 34.69 | 18.14 |
| the same with `positions="original"` | 35.09 | 18.26 |
| `random` | 34.89 | 18.25 |
| `lacache` | 34.90 | 18.33 |
| `tree_left` | 35.09 | 18.29 |
| `streaming` | 35.91 | 18.18 |

Keys say less than attention, but more than nothing: on both texts the similarity of keys is better than `tree_left`,
the same tree without any score. Four stretches are few; differences of a tenth mean nothing.
"""


def ours() -> list[Policy]:
    found = [policies.get(name) for name in policies.names()]
    return [policy for policy in found if type(policy).__module__.startswith("treekv.")]


def row(policy: Policy) -> str:
    """Name, what it does, paper, stage, what it needs of attention, and where kept tokens are seen by default."""
    config, text = TreeKVConfig(policy=policy.name), inspect.cleandoc(type(policy).__doc__ or "")
    what = text.split("\n\n")[0].replace("\n", " ").rstrip(".")
    paper = re.search(r"arXiv\s+(\d{4}\.\d{5})", text)
    link = f"[{paper[1]}](https://arxiv.org/abs/{paper[1]})" if paper else ""
    stage = {(True, True): "prompts, decoding", (True, False): "prompts", (False, True): "decoding"}.get(
        (policy.evicts_prompt, policy.evicts_decoding), ""
    )
    positions = policy.default_positions or ("rank" if policy.evicts_prompt or policy.evicts_decoding else "original")
    needs = "no"
    if policy.uses_attention:
        needs = "weights of every step" if policy.evicts_decoding else "weights at the end of the prompt"
    elif policy.last_queries(config):
        needs = f"the last {policy.last_queries(config)} queries, every {config.interval} tokens"
    elif policy.future_by(config):
        needs = "queries of the prompt"
    return f"| `{policy.name}` | {what} | {link} | {stage} | {needs} | {positions} |"


def table() -> str:
    head = ["| policy | what it does | paper | evicts in | attention it needs | positions |", "| --- " * 6 + "|"]
    return "\n".join([*head, *map(row, ours()), ""])


def readme() -> str:
    before, rest = README.read_text(encoding="utf-8").split(START)
    return before + START + table() + END + rest.split(END)[1]


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
    return "\n".join([HEAD, *(f"{section(policy)}\n" for policy in ours()), MEASURED])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    README.write_text(readme(), encoding="utf-8")
