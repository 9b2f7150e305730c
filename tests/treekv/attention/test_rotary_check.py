"""A loaded model is compared with what is said of its family, and original positions are used where they differ."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.families import tiny_models
from treekv import TreeKVCache, TreeKVConfig, TreeKVError
from treekv.attention import model_rotary, rotary_check, rotary_families
from treekv.attention.convention import Convention


@pytest.fixture(autouse=True)
def nothing_refuted(monkeypatch):
    monkeypatch.setattr(model_rotary, "_refuted", {})


def converted(model, dtype):
    """As transformers loads a model: the frequencies of its rotary embedding stay in float32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def positions_of(model) -> str | None:
    return TreeKVCache(TreeKVConfig(cache_size=16), model.config).config.positions


@pytest.mark.parametrize("family", ["llama", "glm", "nanochat", "cohere2", "smollm3", "gemma4_text"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_rotate_as_their_families_do(family, dtype):
    model = converted(tiny_models.build(family, "treekv"), dtype)
    rotary_check.check_rotation(model)
    assert model_rotary.refuted(model.config.get_text_config()) is None
    assert positions_of(model) == "rank"


@pytest.mark.parametrize(
    "wrong",
    [
        Convention("interleaved"),
        Convention(sign=-1),
        Convention(layers="none"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_another_rotation_than_the_familys_is_noticed(wrong, dtype, monkeypatch, caplog):
    model = tiny_models.build("llama", "treekv", max_position_embeddings=4000)
    model = converted(model, dtype)
    monkeypatch.setitem(rotary_families.CONVENTIONS, "llama", wrong)
    rotary_check.check_rotation(model)
    assert positions_of(model) == "original"
    with pytest.raises(TreeKVError, match="'llama' model: layer 0 was seen to rotate its keys in another way"):
        TreeKVCache(TreeKVConfig(cache_size=16, positions="rank"), model.config)
    other = tiny_models.build("llama", "treekv", max_position_embeddings=5000)
    assert positions_of(other) == "rank"


def test_other_frequencies_than_the_configurations_are_noticed():
    model = tiny_models.build("llama", "treekv", max_position_embeddings=4001)
    model.model.rotary_emb.inv_freq.mul_(1.001)
    rotary_check.check_rotation(model)
    assert positions_of(model) == "original"


def test_a_model_that_cannot_be_tried_uses_original_positions(monkeypatch):
    model = tiny_models.build("llama", "treekv", max_position_embeddings=4002)
    monkeypatch.setattr(model, "forward", lambda **arguments: 1 / 0)
    rotary_check.check_rotation(model)
    assert "could not be tried (division by zero)" in str(model_rotary.refuted(model.config))


def test_what_is_known_outlives_a_copy_of_the_configuration():
    model = tiny_models.build("llama", "treekv", max_position_embeddings=4003)
    model_rotary.refute(model.config, "it was made up")
    assert model_rotary.refuted(copy.deepcopy(model.config)) == "it was made up"
