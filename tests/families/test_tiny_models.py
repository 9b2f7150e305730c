"""A few families of different kinds are built here."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.families import tiny_models
from tests.families.changes import CHANGES


def test_what_is_said_of_families_is_said_of_families_that_exist():
    assert set(CHANGES) | set(tiny_models.NOT_BUILT) <= set(tiny_models.NAMES)
    assert not set(CHANGES) & set(tiny_models.NOT_BUILT)


@pytest.mark.parametrize(
    "name, kinds",
    [
        ("llama", []),
        ("gemma3_text", ["sliding_attention", "full_attention"]),
        ("qwen3_next", ["linear_attention", "full_attention"]),
        ("deepseek_v3", []),
        ("llama4", ["chunked_attention", "full_attention"]),
    ],
)
def test_a_tiny_model_has_two_layers_of_each_kind(name, kinds):
    model = tiny_models.build(name)
    config = model.config.get_text_config(decoder=True)
    assert config.model_type.removesuffix("_text") == name.removesuffix("_text")
    assert list(getattr(config, "layer_types", None) or []) == kinds * 2
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000
    with torch.no_grad():
        assert model(tiny.tokens(8)).logits.isfinite().all()


def test_changes_are_fields_of_the_text_part():
    config = tiny_models.configuration("llama4", num_hidden_layers=1, layer_types=["full_attention"])
    assert config.text_config.num_hidden_layers == 1
