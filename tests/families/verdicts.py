"""What holds for a family: right, refused, not tried or wrong.

A family is right if tiny random models of it give what `eager_oracle` and, at rank positions, `oracle` say.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from huggingface_hub.errors import StrictDataclassError
from transformers.cache_utils import DummyLayer, DynamicCache, DynamicSlidingWindowLayer, LinearAttentionLayer

from tests.families import eager_oracle, oracle
from tests.families.tiny_models import NOT_BUILT, build
from treekv import TreeKVCache, TreeKVConfig, TreeKVError
from treekv.attention import supported

#: Families without a model of one layer that depends on the kept tokens alone: it has a state of all tokens beside
#: attention, or transformers builds two kinds of layers at least.
NOT_OF_ONE_LAYER = ("falcon_h1", "olmo_hybrid", "zaya")


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
    try:
        return _tried_out(family)
    except Exception as error:  # of any kind: the other families are to be tried too
        return Verdict(family, words=f"{type(error).__name__}: {error}", wrong=True)


def _tried_out(family: str) -> Verdict:
    config, changes = build(family).config, dict[str, Any]()
    refused = _refusal(config)
    if refused is not None and "full attention" in refused and hasattr(config, "sliding_window"):
        # A family whose layers all have a window, or none.
        changes = {"sliding_window": None}
        try:
            config = build(family, **changes).config
        except StrictDataclassError:  # always with a window
            return Verdict(family, words=refused)
        if _refusal(config) is not None:
            return Verdict(family, words=refused)
        refused = None
    if refused is not None:
        return Verdict(family, words=refused)
    left = "a window in every layer, if it has one: then nothing is compressed" if changes else _left(config)
    plain, model = build(family, **changes), build(family, **changes)
    model.set_attn_implementation("treekv")
    positions = TreeKVCache(TreeKVConfig(cache_size=64), model.config).config.positions
    eager_oracle.generates_what_the_plain_model_generates(model, plain)
    eager_oracle.steps_are_eager_attention_over_exactly_the_kept_tokens(model, plain)
    if positions == "rank" and family not in NOT_OF_ONE_LAYER:
        error = oracle.kept_alone(family, **changes)
        assert error <= oracle.CLOSE, f"at rank positions logits differ by {error:.2g} of the largest"
    return Verdict(family, positions, left)


def _refusal(config: Any) -> str | None:
    """What a cache says to a model that is not loaded yet, if it refuses it."""
    text = config.get_text_config(decoder=True)
    before, text._attn_implementation = text._attn_implementation, "treekv"
    try:
        supported.check_family(config)
        TreeKVCache(TreeKVConfig(cache_size=64), config)
    except TreeKVError as error:
        return str(error)
    finally:
        text._attn_implementation = before
    return None


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
