"""One row for each policy that comes with TreeKV: the settings under which the tests run it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.reference import contents, prompts
from treekv import TreeKVConfig, policies

Settings = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """Settings beside `policy` and `cache_size`.

    Attributes:
        decoding: for caches of 12 tokens or more that are filled token by token, checked against the rule on lists, in
            a real cache and in simulations.
        blocks: for caches of 12 tokens that read in blocks of 2 to 12.
        prompts: for caches of 16 tokens that reduce a prompt.
        published: whether it is a method of a paper, which its docstring then names.
        least: the smallest cache with its default sizes.
        keeps: the positions of a prompt that each head keeps, (config, heads) -> list of lists, where `heads` are lists
            of `tests.reference.policies.Entry`; None for the rules that are written out in that file.
        importance: of a policy that reads keys and values, written out in `tests.reference.contents`.
    """

    decoding: list[Settings] = field(default_factory=list)
    blocks: list[Settings] = field(default_factory=list)
    prompts: list[Settings] = field(default_factory=list)
    published: bool = True
    least: int = 4
    keeps: Callable[[TreeKVConfig, list[list[Any]]], list[list[int]]] | None = None
    importance: contents.Importance | None = None


TABLE: dict[str, Row] = {
    "full": Row(published=False),
    "tree": Row(
        decoding=[
            dict(sink_size=2, recent_size=5),
            dict(sink_size=2, recent_size=5, stride=2),
            dict(sink_size=1, recent_size=4, stride=2),  # an odd region: the cursor wraps unevenly
            dict(sink_size=0, recent_size=0),
            dict(sink_size=0, recent_size=0, stride=2),
            dict(sink_size=3, recent_size=1),
            dict(sink_size=2, recent_size=2, scope=4),
            dict(sink_size=2, recent_size=4, scope=3, stride=2),
            dict(sink_size=2, recent_size=2, scope=4, scope_end="clipped"),
            dict(sink_size=0, recent_size=1, scope=3, scope_end="clipped", stride=2),
            dict(sink_size=2, recent_size=4, importance="contribution"),
            dict(sink_size=2, recent_size=5, importance="late"),
            dict(sink_size=0, recent_size=6, importance="late", scope=3, scope_end="clipped", stride=2),
            dict(sink_size=2, recent_size=1, importance="late"),  # which is plain attention
            dict(sink_size=2, recent_size=5, importance="similarity"),
            dict(sink_size=0, recent_size=0, importance="similarity", scope=3, scope_end="clipped", stride=2),
            dict(sink_size=1, recent_size=2, max_height=1),
            dict(sink_size=2, recent_size=2, max_height=2, scope=3),
            dict(sink_size=1, recent_size=2, max_height=1, scope=4, scope_end="clipped"),
        ],
        blocks=[
            dict(sink_size=2, recent_size=4),
            dict(sink_size=2, recent_size=4, stride=2),
            dict(sink_size=0, recent_size=0),
            dict(sink_size=2, recent_size=4, scope=4),
            dict(sink_size=2, recent_size=4, scope=5, scope_end="clipped"),
            dict(sink_size=2, recent_size=4, importance="contribution"),
            dict(sink_size=2, recent_size=4, importance="late"),
            dict(sink_size=0, recent_size=6, importance="late", scope=3),
            dict(sink_size=0, recent_size=1, importance="similarity", scope=3),
            dict(sink_size=1, recent_size=1, max_height=2),
        ],
        prompts=[
            dict(sink_size=2, recent_size=5, block_size=2),
            dict(sink_size=2, recent_size=4, block_size=4, window_size=7),
            dict(sink_size=0, recent_size=0, block_size=4),
            dict(sink_size=2, recent_size=4, block_size=4, positions="original"),
            dict(sink_size=3, recent_size=5, prefill="none", block_size=4),
            dict(sink_size=2, recent_size=4, block_size=2, scope=3),
            dict(sink_size=2, recent_size=4, block_size=2, scope=4, scope_end="clipped"),
            dict(sink_size=0, recent_size=0, block_size=2, scope=3, scope_end="clipped", stride=2),
            dict(sink_size=1, recent_size=2, block_size=2, scope=3, scope_end="clipped", max_height=1),
            dict(sink_size=2, recent_size=4, block_size=2, importance="contribution"),
            dict(sink_size=2, recent_size=5, block_size=2, importance="late"),
            dict(sink_size=0, recent_size=9, block_size=2, window_size=3, importance="late", scope=3),
            dict(sink_size=0, recent_size=6, prefill="none", block_size=4, window_size=4, importance="late"),
            dict(sink_size=1, recent_size=4, block_size=2, importance="similarity", positions="original"),
            dict(sink_size=1, recent_size=4, block_size=2, budgets="rising"),
            dict(sink_size=2, recent_size=2, block_size=2, max_height=1),
            dict(sink_size=2, recent_size=4, prefill="none", block_size=4, max_height=2),
            dict(sink_size=2, recent_size=4, prompt_score="future", block_size=2, window_size=5),
            dict(sink_size=0, recent_size=3, prompt_score="future", future_window=1, kernel_size=2, window_share=0.5),
            dict(sink_size=1, recent_size=0, prompt_score="future", prompt_scope=2, stride=2, positions="original"),
            dict(sink_size=2, recent_size=2, prompt_score="future", prompt_scope=4, window_share=0, max_height=1),
            dict(sink_size=2, recent_size="eighth", prompt_score="future", importance="contribution", seed=7),
            dict(sink_size=1, recent_size=3, prompt_score="future", budgets="falling", pooling="max", kernel_size=3),
            dict(sink_size=2, recent_size=4, prompt_score="future", importance="late", scope=3, scope_end="clipped"),
            dict(sink_size=2, recent_size=4, prompt_score="future", after_prompt="keep", share_heads=True),
            dict(sink_size=2, recent_size=4, prompt_score="future", future_reduction="energy", prompt_scope=5),
            dict(recent_size=2, prompt_score="future", future_reduction="energy", importance="contribution", seed=3),
            dict(recent_size=2, prompt_score="future", after_prompt="keep", share_heads=True, max_height=1),
        ],
    ),
    "tree_left": Row(
        decoding=[
            dict(sink_size=2, recent_size=4),
            dict(sink_size=0, recent_size=0, stride=2),
            dict(sink_size=3, recent_size=4),
            dict(sink_size=2, recent_size=2, max_height=1),
        ],
        blocks=[dict(sink_size=2, recent_size=4)],
        prompts=[dict(sink_size=2, recent_size=4, block_size=2)],
    ),
    "streaming": Row(decoding=[{}, dict(sink_size=2)], blocks=[{}], prompts=[{}]),
    "h2o": Row(
        decoding=[{}, dict(sink_size=2, recent_size=0), dict(sink_size=2, recent_size=3), dict(variant="paper")],
        blocks=[{}, dict(variant="paper")],
        prompts=[
            {},
            dict(prefill="none"),
            dict(variant="paper"),
            dict(sink_size=1, recent_size=4, after_prompt="keep", share_heads=True),
        ],
    ),
    "tova": Row(
        decoding=[{}, dict(sink_size=1, recent_size=3), dict(sink_size=2, recent_size=3), dict(variant="paper")],
        blocks=[{}, dict(variant="paper")],
        prompts=[{}, dict(variant="paper")],
    ),
    "snapkv": Row(
        prompts=[
            dict(window_size=5),
            dict(window_size=3, kernel_size=3, pooling="max", positions="original"),
            dict(variant="longbench"),
            dict(window_size=5, share_heads=True),
        ],
    ),
    "pyramidkv": Row(prompts=[dict(window_size=6), dict(window_size=3, share_heads=True, positions="original")]),
    "random": Row(decoding=[dict(seed=3), dict(seed=2**63 - 1)], blocks=[{}], prompts=[{}], published=False),
    "keydiff": Row(
        decoding=[{}, dict(variant="paper", interval=3)],
        blocks=[dict(sink_size=1, recent_size=2, interval=3)],
        prompts=[dict(positions="original"), dict(sink_size=2, recent_size=3, prefill="none", interval=3)],
        importance=contents.keydiff,
    ),
    "lagkv": Row(
        decoding=[dict(sink_size=0, interval=4)],
        blocks=[dict(sink_size=1, interval=3)],
        prompts=[dict(sink_size=2, interval=3, positions="original")],
        importance=contents.lagkv,
    ),
    "rkv": Row(
        decoding=[dict(recent_size=3, interval=4)],
        blocks=[dict(sink_size=1, recent_size=2, interval=3)],
        prompts=[dict(recent_size=3, interval=5, positions="original")],
        importance=contents.rkv,
    ),
    "snapkv_decode": Row(
        decoding=[dict(recent_size=3, interval=3, kernel_size=3)],
        blocks=[dict(sink_size=1, recent_size=2, interval=2, pooling="max", kernel_size=3)],
        prompts=[dict(recent_size=4, interval=4, positions="original")],
        importance=contents.snapkv_decode,
    ),
    "cur": Row(
        decoding=[dict(sink_size=2, recent_size=2, interval=3, seed=5)],
        blocks=[dict(sink_size=1, recent_size=2, interval=3)],
        prompts=[dict(sink_size=2, recent_size=3, interval=4, positions="original")],
        importance=contents.cur,
    ),
    "vase": Row(
        decoding=[dict(sink_size=1, recent_size=3, interval=4, seed=9)],
        blocks=[dict(sink_size=1, recent_size=2, interval=2)],
        prompts=[dict(sink_size=2, recent_size=3, interval=4, positions="original")],
        importance=contents.vase,
    ),
    "cascade": Row(
        decoding=[dict(sink_size=2, recent_size=3), dict(sink_size=0, recent_size=2), dict(sink_size=1)],
        blocks=[dict(sink_size=1, recent_size=3), dict(sink_size=0, recent_size=2)],
        prompts=[dict(sink_size=2, recent_size=3), dict(sink_size=1, recent_size=5, window_size=6, prefill="none")],
        least=12,
    ),
    "lacache": Row(
        decoding=[dict(sink_size=2, recent_size=3), dict(sink_size=0, recent_size=1, interval=3)],
        blocks=[dict(sink_size=1, recent_size=2), dict(sink_size=1, recent_size=0, interval=2)],
        prompts=[dict(sink_size=2, recent_size=3), dict(sink_size=1, recent_size=4, interval=2, prefill="none")],
        least=8,
    ),
    "openvino": Row(
        decoding=[
            dict(sink_size=2, recent_size=2, interval=2),
            dict(sink_size=3, recent_size=3, interval=3, aggregation="sum"),
            dict(sink_size=1, recent_size=4, interval=1),
        ],
        blocks=[dict(sink_size=2, recent_size=4, interval=2)],
        published=False,
        least=127,
    ),
    "expected": Row(
        prompts=[
            dict(sink_size=2),
            dict(sink_size=1, recent_size=3, positions="original"),
            dict(sink_size=2, share_heads=True),
        ],
        keeps=prompts.largest_future,
    ),
}


def settings_of(kind: str) -> list[Settings]:
    """Every policy's settings of one kind, with its name."""
    return [{"policy": name, **own} for name, row in TABLE.items() for own in getattr(row, kind)]


#: Policies that evict both in prompts and while decoding, whose default sizes suit caches as small as those of tests,
BOUNDED = [
    name
    for name, row in TABLE.items()
    if policies.get(name).evicts_prompt and policies.get(name).evicts_decoding and row.least < 8
]
#: and of these the ones whose rule is a contest.
CONTESTS = [name for name in BOUNDED if policies.get(name).has_contest]
