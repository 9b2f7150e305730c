"""A fingerprint identifies a model by its configuration and parameters."""

import torch

from tests import tiny
from treekv.model_identity import model_fingerprint


def test_a_fingerprint_depends_only_on_what_the_model_is(llama):
    known = model_fingerprint(llama)
    assert len(known) == 16 and known == model_fingerprint(tiny.llama("eager"))
    llama = tiny.llama()
    for changes in ({"_name_or_path": "/somewhere/else"}, {"use_cache": False}):
        llama.config.update(changes)
        assert model_fingerprint(llama) == known
    half = llama.bfloat16()
    assert model_fingerprint(half) == model_fingerprint(half.float())
    assert model_fingerprint(tiny.llama(window=256)) != known


class Quantised(torch.Tensor):
    """As libraries keep quantised parameters: not to be reshaped."""

    def reshape(self, *shape):
        raise NotImplementedError

    def dequantize(self):
        return self.as_subclass(torch.Tensor)


def test_quantised_parameters_count_as_what_they_stand_for():
    model, quantised = tiny.llama(), tiny.llama()
    layer = quantised.model.layers[0].mlp.up_proj
    layer.weight = torch.nn.Parameter(layer.weight.data.as_subclass(Quantised), requires_grad=False)
    assert type(layer.weight.data) is Quantised
    assert model_fingerprint(quantised) == model_fingerprint(model)
