"""Which layers rotate how, from configurations alone, and what happens where that is not known."""

from __future__ import annotations

import pytest
from transformers import AutoConfig

from tests import tiny
from tests.families import tiny_models
from treekv import TreeKVCache, TreeKVConfig, TreeKVError
from treekv.attention import model_rotary
from treekv.attention.model_rotary import layer_rotaries, query_rotaries, usable_positions

BASES = {"layer_rope_theta": [1e4, 1e6, 0, 1e4], "num_hidden_layers": 4}
DENSE = ["sparse", "dense", "sparse", "sparse"]
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}


def test_layers_that_rotate_alike_share_an_embedding():
    rotaries = layer_rotaries(tiny_models.configuration("gemma3_text"))
    assert len(rotaries) == 4 and rotaries[0] is rotaries[2] and rotaries[1] is rotaries[3]
    assert rotaries[0].frequencies[1] != rotaries[1].frequencies[1]


@pytest.mark.parametrize(
    "family, changes, rotating",
    [
        ("llama", {}, [True, True]),
        ("cohere2", {}, [True, False, True, False]),
        ("exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 4}, [True] * 4),
        (
            "smollm3",
            {"no_rope_layers": [1, 0, 0, 1], "layer_types": None, "num_hidden_layers": 4},
            [True, False, False, True],
        ),
        ("granitemoehybrid", {"position_embedding_type": "rope"}, [True] * 4),
        ("granitemoehybrid", {"position_embedding_type": "nope"}, [False] * 4),
        ("granite_swa", BASES, [True, True, False, True]),
        (
            "cohere2_moe",
            {"mlp_layer_types": DENSE, "prefix_dense_sliding_window_pattern": 1},
            [True, True, True, False],
        ),
        ("cohere2_moe", {"mlp_layer_types": DENSE, "prefix_dense_sliding_window_pattern": 4}, [True, False] * 2),
        ("lfm3", {}, [False, True, True, False, True, True]),  # the others are convolutions
        ("nemotron_h", {}, [False] * 4),
    ],
)
def test_layers_without_positions_have_none(family, changes, rotating):
    config = tiny_models.configuration(family, **changes)
    assert [rotary is not None for rotary in layer_rotaries(config)] == rotating


def test_bases_of_layers_are_their_own():
    first, second, _, last = layer_rotaries(tiny_models.configuration("granite_swa", **BASES))
    assert first is last and first.inverse_frequencies[0] == second.inverse_frequencies[0] == 1
    width = 2 * len(first.inverse_frequencies)
    assert [float(rotary.inverse_frequencies[1]) for rotary in (first, second)] == pytest.approx(
        [1e4 ** (-2 / width), 1e6 ** (-2 / width)]
    )


def test_usual_configurations_are_understood():
    """Not only tiny ones."""
    for family in ("llama", "gemma4_text", "olmo3", "smollm3", "cohere2", "gpt_neox", "phi", "glm4", "qwen3_moe"):
        config = AutoConfig.for_model(family).get_text_config(decoder=True)
        assert any(layer_rotaries(config)), family


def test_without_a_wish_positions_that_cannot_be_changed_stay_which_is_said_once(caplog):
    model_rotary._say.cache_clear()
    config = tiny.llama(rope_parameters=DYNAMIC).config
    for _ in range(2):
        assert TreeKVCache(TreeKVConfig(cache_size=16), config).config.positions == "original"
    (said,) = (record.getMessage() for record in caplog.records if record.name == "treekv")
    assert said.startswith("positions='original' is used") and "'dynamic'" in said and "\n" not in said
    assert usable_positions(config, "original") == "original"
    for asked in ("rank", "compressed"):
        with pytest.raises(TreeKVError, match=f"positions='{asked}'.*'llama'.*'dynamic'.*use positions='original'"):
            usable_positions(config, asked)


def test_with_a_wish_it_is_the_settings(capfd):
    config = tiny.llama().config
    for asked in ("rank", "original", "compressed"):
        settings = TreeKVConfig(cache_size=16, positions=asked)
        assert settings.for_model(config) is settings
    assert TreeKVConfig(cache_size=16).for_model(config) == TreeKVConfig(cache_size=16, positions="rank")
    assert TreeKVConfig("full").for_model(config).positions == "original"
    assert capfd.readouterr().err == ""


def test_models_without_an_embedding_move_no_queries():
    config = tiny_models.configuration("opt")
    assert query_rotaries(config) == [None, None]
    with pytest.raises(TreeKVError, match="'hunyuan_v1_dense' model: its keys are not known to be rotated"):
        query_rotaries(tiny_models.configuration("hunyuan_v1_dense"))


def test_an_embedding_that_cannot_be_made_is_a_sentence():
    config = tiny.llama().config
    config.rope_parameters = {"rope_type": "default"}
    with pytest.raises(TreeKVError, match=r"'llama' model: its rotary embedding cannot be made from .*rope_theta"):
        layer_rotaries(config)
