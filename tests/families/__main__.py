"""Try every family that transformers has, and write docs/models.md: `python -m tests.families`. With names of families
their verdicts are printed only.

A family is right if tiny random models of it give what `eager_oracle` and, at rank positions, `oracle` say.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from transformers.cache_utils import DummyLayer, DynamicCache, DynamicSlidingWindowLayer, LinearAttentionLayer

from tests.families import eager_oracle, oracle
from tests.families.tiny_models import NAMES, NOT_BUILT, build
from treekv import TreeKVCache, TreeKVConfig, TreeKVError
from treekv.attention import supported

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"


INTRODUCTION = """# Model families

`python -m tests.families` tried the {tried} families of transformers {version}, with tiny random models, and wrote this
page. {right} are compressed and right with default settings: {ranks} at rank positions, {original} at original ones.
Right means, in float32:

- with room for everything a cache generates what the plain model does, for rows of different lengths, two beams and
  both ways to read a prompt;
- under eviction every step equals the model's own eager attention over exactly the kept tokens, at original positions;
- at rank positions a model of one layer gives for the kept tokens what the plain model gives for them alone.

Layers with full attention are compressed; the last column says which others there are, that stay as transformers
builds them. [The method](method.md#which-models) says what is computed for each kind of attention."""


class Verdict(NamedTuple):
    """What holds for a family.

    Attributes:
        family: its name in transformers.
        positions: those that a cache uses by default; None for a family that is refused or was not tried.
        left: which layers stay as transformers builds them.
        words: why it is refused, was not tried or is wrong; else empty.
        wrong: whether it is not refused and not right.
    """

    family: str
    positions: str | None = None
    left: str = ""
    words: str = ""
    wrong: bool = False


def verdict(family: str) -> Verdict:
    """Try one family."""
    if family in NOT_BUILT:
        return Verdict(family, words=f"not tried: {NOT_BUILT[family]}")
    changes: dict[str, Any] = {}
    try:
        config = build(family).config
        try:
            _check(config)
        except TreeKVError:
            if not hasattr(config.get_text_config(decoder=True), "sliding_window"):
                raise
            # Layers with a window of a family that has them in all layers, or in none.
            config, changes = build(family, sliding_window=None).config, {"sliding_window": None}
            _check(config)
    except TreeKVError as error:
        return Verdict(family, words=str(error))
    left = (
        _left(config)
        if not changes
        else "with `sliding_window` only: every layer then, and nothing is left to compress"
    )
    try:
        plain, model = build(family, **changes), build(family, **changes)
        model.set_attn_implementation("treekv")
        positions = TreeKVCache(TreeKVConfig(cache_size=64), model.config).config.positions
        eager_oracle.generates_what_the_plain_model_generates(model, plain)
        eager_oracle.steps_are_eager_attention_over_exactly_the_kept_tokens(model, plain)
        if positions == "rank":
            error = oracle.kept_alone(family, **changes)
            assert error <= oracle.CLOSE, f"at rank positions logits differ by {error:.2g} of the largest"
    except Exception as error:  # of any kind: the rest is to be tried too
        return Verdict(family, None, left, f"{type(error).__name__}: {error}", wrong=True)
    return Verdict(family, positions, left)


def _check(config: Any) -> None:
    """Ask as a cache does, of a model that is not loaded yet."""
    supported.check_family(config)
    config = config.get_text_config(decoder=True)
    config._attn_implementation, before = "treekv", config._attn_implementation
    try:
        TreeKVCache(TreeKVConfig(cache_size=64), config)
    finally:
        config._attn_implementation = before


def _left(config: Any) -> str:
    """In words, the kinds of layers that stay as transformers builds them."""
    text = config.get_text_config(decoder=True)
    kinds: dict[str, None] = {}
    for layer in DynamicCache(config=text).layers:
        if isinstance(layer, DynamicSlidingWindowLayer):
            kinds["a window" if "chunked_attention" not in (getattr(text, "layer_types", None) or ()) else "chunks"] = (
                None
            )
        if isinstance(layer, LinearAttentionLayer):
            kinds["a state of linear attention or convolution"] = None
        if isinstance(layer, DummyLayer):
            kinds["no attention"] = None
    return ", ".join(kinds)


def page(verdicts: list[Verdict]) -> str:
    """docs/models.md."""
    right = [each for each in verdicts if each.positions is not None]
    refused = [each for each in verdicts if each.positions is None]
    ranks = sum(each.positions == "rank" for each in right)
    lines = [
        *INTRODUCTION.format(
            version=transformers.__version__,
            tried=len(verdicts),
            right=len(right),
            ranks=ranks,
            original=len(right) - ranks,
        ).splitlines(),
        "",
        "| family | positions | stays |",
        "|---|---|---|",
        *(f"| {each.family} | {each.positions} | {each.left} |" for each in right),
        "",
        "## Refused",
        "",
        "By the constructor of the cache, `load_model` and captures, in these words:",
        "",
        "| family | |",
        "|---|---|",
        *(f"| {each.family} | {each.words.replace('|', chr(92) + '|')} |" for each in refused),
        "",
    ]
    return "\n".join(lines)


def main(names: list[str]) -> int:
    torch.set_num_threads(1)
    verdicts = []
    for each in _tried(names or NAMES):
        verdicts.append(each)
        said = f"WRONG: {each.words}" if each.wrong else each.words or f"right, {each.positions} positions"
        print(f"{each.family}: {' '.join(said.split())}", flush=True)
    wrong = [each.family for each in verdicts if each.wrong]
    if wrong:
        print(f"wrong: {', '.join(wrong)}")
    elif not names:
        PAGE.write_text(page(verdicts), encoding="utf-8")
    return 1 if wrong else 0


def _tried(names: list[str] | tuple[str, ...]) -> Iterator[Verdict]:
    return map(verdict, names)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
