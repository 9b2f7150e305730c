"""What transformers calls of a layer, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from treekv import TreeKVError
from treekv.cache.layer import TreeKVLayer

BATCH, HEADS, DIM = 2, 3, 4


class Owner:
    """Records what a layer asks of its owner."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def allocate(self, layer, batch, heads, device):
        self.calls.append(f"allocate {batch} {heads}")

    def release(self):
        self.calls.append("release")

    def longest(self, layer):
        return 5

    def attend(self, layer, call):
        self.calls.append("attend")
        return call.query

    def copy_tensors(self):
        self.calls.append("copy_tensors")


def states(q: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(BATCH, HEADS, q, DIM, generator=generator) for _ in range(2))


@pytest.fixture
def layer() -> TreeKVLayer:
    made = TreeKVLayer(None, 1, 3)
    made.owner = Owner()
    made.lazy_initialization(*states(1))
    return made


def test_a_layer_allocates_with_its_first_token_and_frees_on_reset(layer):
    assert layer.is_initialized and layer.owner.calls == ["allocate 2 3"]
    assert (layer.batch, layer.slots) == (BATCH, 0)
    assert layer.get_mask_sizes(2) == (7, -5)
    layer.reset()
    assert layer.owner.calls[-1] == "release" and not layer.is_initialized and layer.keys.numel() == 0
    assert layer.get_mask_sizes(2) == (2, 0)


def test_rows_are_selected(layer):
    layer.reserve(3)
    kept = torch.tensor([0, 2, 4]).expand(BATCH, HEADS, 3)
    layer.fill(slice(0, BATCH), kept, *states(5))
    layer.batch_select_indices(torch.tensor([1, 1, 0]))
    assert layer.batch == 3 and torch.equal(layer.values[0], layer.values[1])


def test_a_pass_without_attention_is_noticed(layer):
    layer.update(*states(1))
    with pytest.raises(TreeKVError, match="did not finish"):
        layer.update(*states(1))


def test_another_batch_is_refused(layer):
    key, value = states(1)
    with pytest.raises(TreeKVError, match="holds 2 rows, but the input has 1"):
        layer.update(key[:1], value[:1])


@pytest.mark.parametrize(
    "changed, words",
    [
        (lambda x: x[:, :2], "holds 3 KV heads with 4 channels a key and 4 a value in layer 1, but the model gives 2 "),
        (lambda x: x[..., :2], "but the model gives 3 with 2 and 2: make a cache with the configuration of this model"),
        (lambda x: x.bfloat16(), r"torch.float32, but the model gives torch.bfloat16 .* now: call cache.reset\(\)"),
        (lambda x: x.to("meta"), "is on 'cpu', but the model is on 'meta' now"),
    ],
)
def test_keys_of_another_model_are_refused(layer, changed, words):
    with pytest.raises(TreeKVError, match=words):
        layer.update(*map(changed, states(1)))
