"""Measure how every family rotates its keys, and write what was found: `python -m tests.families.measure`.

A token that is alone attends to itself, so its hidden states are the same at every position, unless positions are
added to them. What attention gets at two positions then differs by the rotation only: a convention maps one to the
other, up to rounding, or none does. Models are tiny and random, also in the weights that are usually one at first.

`python -m tests.families.measure NAME ...` prints what was found for some families and writes nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tests.families import tiny_models
from treekv.attention import convention as convention_module
from treekv.attention import model_rotary, rotary_families
from treekv.attention.convention import Convention
from treekv.attention.rotary import Rotary
from treekv.errors import TreeKVError

PLACES = (0, 1, 7, 100, 5000)
CLOSE = 2e-5  # of the largest number; float32 rounds angles and products
LAYERS = (
    "all",
    "none",
    "sliding",
    "sliding or no window",
    "sliding or dense",
    "no_rope_layers",
    "position_embedding_type",
    "use_mem_rope",
)
#: Changed configurations of families that have a field, beside that of `tiny_models`: of how layers rotate or not.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "no_rope_layers": [{"no_rope_layers": [0, 1, 1, 0], "layer_types": None, "num_hidden_layers": 4}],
    "position_embedding_type": [{"position_embedding_type": word} for word in (None, "rope", "nope")],
    "use_mem_rope": [{"use_mem_rope": False}],
    "layer_rope_theta": [{"layer_rope_theta": [1e4, 1e6, 0, 1e4], "num_hidden_layers": 4, "layer_types": None}],
    "prefix_dense_sliding_window_pattern": [
        {"prefix_dense_sliding_window_pattern": pattern, "mlp_layer_types": ["sparse", "sparse", "dense", "dense"]}
        for pattern in (1, 4)
    ],
}


class Seen(NamedTuple):
    """What the attention of a layer gets, [places, heads, head_dim]."""

    query: Tensor
    key: Tensor


def measured(name: str) -> Convention | str:
    """How a family rotates, or why it cannot be said."""
    if name in tiny_models.NOT_BUILT:
        return tiny_models.NOT_BUILT[name]
    if tiny_models.usual_configuration(name).is_encoder_decoder:
        return "it is an encoder-decoder"
    cases: list[tuple[Any, dict[int, Seen]]] = []
    for model in _models(name):
        try:
            cases.append((model.config.get_text_config(decoder=True), seen_by(model)))
        except _NotSeen as error:
            if not cases:
                return str(error)
            # Otherwise it is a variant that its family does not run.
    reasons = []
    for layers, pairs, part, sign in itertools.product(LAYERS, ("half", "interleaved"), ("first", "last"), (1, -1)):
        found = Convention(pairs, part, sign, layers)  # type: ignore[arg-type]
        try:
            if all(fits(found, config, seen) for config, seen in cases):
                return found
        except TreeKVError as error:
            reasons.append(str(error))
        except (AttributeError, IndexError, TypeError):  # it has no such field, or no layer types
            continue
    return reasons[0] if reasons else "no convention turns its keys from one position to another"


def fits(convention: Convention, config: Any, seen: dict[int, Seen]) -> bool:
    """Whether a convention turns what was seen at the first place into what was seen at the others."""
    rotaries = model_rotary.rotaries_by(convention, config)
    by = torch.tensor(PLACES)[:, None]
    return all(_turns(rotaries[layer], x, by) for layer, both in seen.items() for x in both)


def _turns(rotary: Rotary | None, x: Tensor, by: Tensor) -> bool:
    if rotary is None:
        # Queries of layers without positions may be scaled by the logarithm of the position.
        scale = x.flatten(1).norm(dim=1)[:, None, None]
        return _close(x[:1] / scale[:1], x / scale)
    if rotary.inverse_frequencies.shape[0] * 2 != x.shape[-1]:
        return False
    scale = x.flatten(1).norm(dim=1)[:, None, None]
    turned = rotary.moved((x[:1] / scale[:1]).expand_as(x)[:, :, None], by)[:, :, 0]
    return _close(turned, rotary.interleave(x / scale))


def _close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() <= CLOSE * max(float(other.abs().max()), 1e-30) * 8)


# ---------------------------------------------------------------------- what attention gets


class _NotSeen(Exception):
    """Why nothing was seen."""


def _models(name: str) -> Iterator[nn.Module]:
    usual = tiny_models.build(name)
    yield usual
    fields = usual.config.get_text_config(decoder=True)
    variants = [each for field, changes in VARIANTS.items() if hasattr(fields, field) for each in changes]
    types = getattr(fields, "layer_types", None) or []
    if set(types) == {"full_attention", "sliding_attention"}:
        variants.append({"sliding_window": None, "layer_types": ["full_attention"] * len(types)})
    for changes in variants:
        with contextlib.suppress(Exception):  # a family that cannot be built so is not used so
            yield tiny_models.build(name, **changes)


def seen_by(model: nn.Module) -> dict[int, Seen]:
    """What attention gets of one token at each of `PLACES`, by the number of the layer."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim < 2:
            parameter.data.add_(torch.rand(parameter.shape, generator=generator) * 0.6 - 0.3)
    calls = _watched(model, torch.full((len(PLACES), 1), 5), position_ids=torch.tensor(PLACES)[:, None])
    twice = _watched(model, torch.full((1, 2), 5))
    if 0 in calls and not _turned(calls[0].key) and _turned(twice[0].key.transpose(0, 2)):
        raise _NotSeen("it counts positions by itself")
    return {layer: Seen(query[:, :, 0], key[:, :, 0]) for layer, (query, key) in calls.items()}


def _turned(x: Tensor) -> bool:
    """Whether the first of some vectors differs from others."""
    return not _close(x[:1].expand_as(x), x)


def _watched(model: nn.Module, ids: Tensor, **arguments: Any) -> dict[int, Seen]:
    """The queries and keys that attention gets, [rows, heads, tokens, head_dim], by the number of the layer."""
    calls: dict[int, Seen] = {}

    def attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Any:
        layer = getattr(module, "layer_idx", None)
        if layer is None or layer in calls or key.shape[2] != ids.shape[1]:
            raise _NotSeen("its attention gets more than the keys of the tokens")
        calls[layer] = Seen(query.double(), key.double())
        mask = rest[0] if rest else options.pop("attention_mask", None)
        options.pop("softcap", None)  # changes weights, but not what they are of
        if options.get("position_bias") is not None:
            raise _NotSeen("its attention adds a bias of the positions")
        return sdpa_attention_forward(module, query, key, value, mask, **options)

    AttentionInterface.register("measured", attention)
    AttentionMaskInterface.register("measured", sdpa_mask)
    try:
        model.set_attn_implementation("measured")
        with torch.no_grad():
            cache = model(ids, use_cache=True, **arguments).past_key_values
    except _NotSeen:
        raise
    except Exception as error:  # of any kind: a model that cannot be used so
        raise _NotSeen(f"its attention cannot be watched: {str(error)[:200]}") from error
    if not calls:
        raise _NotSeen("its attention does not go through transformers' attention interface")
    layers = getattr(cache, "layers", [])
    for layer, (_, key) in calls.items():
        kept = getattr(layers[layer], "keys", None) if layer < len(layers) else None
        if kept is None or kept.shape != key.shape or not torch.equal(kept.double(), key):
            raise _NotSeen("its cache keeps something else than the keys that attention gets")
    return calls


# ---------------------------------------------------------------------- the table


def page(found: dict[str, Convention]) -> str:
    """The module `treekv.attention.rotary_families`."""
    lines = [
        f'"""How each family rotates its keys, measured with transformers {transformers.__version__}.',
        "",
        "Written by `python -m tests.families.measure`.",
        '"""',
        "",
        "from __future__ import annotations",
        "",
        "from typing import Final",
        "",
        f"from {convention_module.__name__} import Convention",
        "",
        "_FAMILIES: Final = {",
    ]
    for convention in sorted(set(found.values())):
        names = " ".join(sorted(name for name, own in found.items() if own == convention))
        lines.append(f"    {convention!r}: {names.split()!r},")
    lines += [
        "}",
        "",
        "#: By model type of the text configuration.",
        "CONVENTIONS: Final = {name: convention for convention, names in _FAMILIES.items() for name in names}",
    ]
    return "\n".join(lines) + "\n"


def main(names: list[str]) -> None:
    found = {}
    for name in names or tiny_models.NAMES:
        result = measured(name)
        print(f"{name}: {result}", flush=True)
        if isinstance(result, Convention):
            config = tiny_models.configuration(name).get_text_config(decoder=True)
            found[config.model_type] = result
    if not names:
        target = Path(rotary_families.__file__)
        target.write_text(page(found), encoding="utf-8")
        subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", str(target)], check=True)
        print(f"{len(found)} families rotate by a known convention; written to {target}")


if __name__ == "__main__":
    main(sys.argv[1:])
