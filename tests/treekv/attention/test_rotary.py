"""Rotation by hand: undoing, shifting and table look-ups agree with the model's own rotary embedding."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from treekv import TreeKVError
from treekv.attention.model_rotary import layer_rotaries
from treekv.attention.rotary import Rotary

SCALINGS = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}


def make(scaling: str):
    config = LlamaConfig(
        hidden_size=64, num_attention_heads=2, max_position_embeddings=256, rope_parameters=dict(SCALINGS[scaling])
    )
    embedding = LlamaRotaryEmbedding(config)

    def model_rotation(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        cos, sin = embedding(x, positions[None])
        return apply_rotary_pos_emb(x, x, cos, sin)[0]

    return layer_rotaries(config)[0], embedding.attention_scaling, model_rotation


def same_products(a: torch.Tensor, b: torch.Tensor, expected_a: torch.Tensor, expected_b: torch.Tensor) -> bool:
    """Stored forms order dimensions differently from the model; all that counts is their products."""
    return torch.allclose(a @ b.transpose(-1, -2), expected_a @ expected_b.transpose(-1, -2), atol=2e-5)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_undoing_what_the_model_did(scaling):
    rotary, factor, model_rotation = make(scaling)
    x = torch.randn(1, 2, 5, 32, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([0, 1, 37, 9_999, 100_000])
    raw = rotary.unrotated(model_rotation(x, positions), positions[None])
    assert torch.allclose(raw, rotary.interleave(x) * factor, atol=2e-6)
    assert same_products(raw, raw, x * factor, x * factor)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_distance_is_the_models_own_rotation_to_before_position_zero(scaling):
    rotary, factor, model_rotation = make(scaling)
    x = torch.randn(1, 2, 6, 32, generator=torch.Generator().manual_seed(0))
    distance = torch.tensor([[[3, 0, 5, 1, 4, 2], [0, 1, 2, 3, 4, 5]]])
    turned = rotary.at_distance(rotary.interleave(x), distance, 6)
    for head in range(2):
        expected = model_rotation(x[:, head : head + 1], -distance[0, head])
        assert torch.allclose(turned[:, head : head + 1] * factor, rotary.interleave(expected), atol=2e-6)


def test_new_tokens_move_from_their_true_positions_to_their_ranks():
    rotary, _, model_rotation = make("default")
    x = torch.randn(2, 2, 3, 32, generator=torch.Generator().manual_seed(0))
    position_ids = torch.tensor([[7, 90_000, 90_001, 90_002], [7, 500, 501, 502]])
    shift = rotary.shift(position_ids, slice(0, 2), 1, 3)
    for row in range(2):
        arrived = model_rotation(x[row : row + 1], position_ids[row, 1:])
        expected = rotary.interleave(model_rotation(x[row : row + 1], torch.tensor([-2, -1, 0])))
        assert torch.allclose(rotary.rotate(arrived, shift.to_rank[row : row + 1]), expected, atol=2e-6)
        undone = rotary.rotate(arrived, shift.unrotate[row : row + 1])
        assert torch.allclose(undone, rotary.interleave(x[row : row + 1]), atol=2e-6)
    assert rotary.shift(position_ids, slice(0, 2), 1, 3) is shift
    one = rotary.shift(position_ids, slice(0, 2), 1, 1)
    assert one is not shift and one.to_rank is one.unrotate  # its rank is the end that distances are counted from
    position_ids += 1  # changed in place before the next pass
    rotary.clear()
    assert not torch.equal(rotary.shift(position_ids, slice(0, 2), 1, 3).to_rank, shift.to_rank)


def test_the_table_grows_with_the_capacity():
    rotary, _, model_rotation = make("default")
    x = torch.randn(1, 1, 1, 32)
    for distance in (3, 300, 70_000):
        turned = rotary.at_distance(rotary.interleave(x), torch.tensor([[[distance]]]), distance + 1)
        assert torch.allclose(turned, rotary.interleave(model_rotation(x, torch.tensor([-distance]))), atol=2e-6)


def test_dimensions_that_are_not_rotated_stay():
    rotary = Rotary(torch.tensor([1.0, 0.1]), head_dim=10)
    x = torch.randn(1, 1, 1, 10)
    turned = rotary.unrotated(x, torch.tensor([[7]]))
    assert torch.equal(turned[..., 4:], x[..., 4:]) and not torch.allclose(
        turned[..., :4], rotary.interleave(x)[..., :4]
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rotated_in_float32(dtype):
    rotary, _, _ = make("default")
    x = torch.randn(1, 1, 4, 32).to(dtype)
    distance = torch.arange(4)[None, None]
    turned = rotary.at_distance(x, distance, 4)
    assert turned.dtype == dtype
    assert torch.equal(turned, rotary.at_distance(x.float(), distance, 4).to(dtype))
    phases = rotary.shift(distance[0], slice(0, 1), 0, 4).unrotate
    assert torch.equal(rotary.rotate(x, phases), rotary.rotate(x.float(), phases).to(dtype))


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}), "'dynamic'"),
        (dict(model_type="bloom"), "'bloom'"),
    ],
)
def test_what_cannot_be_renumbered_is_refused_by_name(changes, words):
    config = LlamaConfig(hidden_size=64, num_attention_heads=2)
    for key, value in changes.items():
        setattr(config, key, value)
    with pytest.raises(TreeKVError, match=words):
        layer_rotaries(config)
