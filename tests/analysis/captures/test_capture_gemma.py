"""A capture of Gemma 3 270M, a real hybrid model: its three full-attention layers, and the spectrum of these."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import analysis
from analysis import plot
from treekv import TreeKVConfig, TreeKVError

TEXT = "The abacus is a counting tool that was used in Europe, China and Russia for a long time. " * 10


@pytest.fixture(scope="module")
def gemma_capture(gemma):
    """The capture, and what each captured layer's output projection was given by the model itself."""
    model, tokenizer = gemma
    given = {}
    hooks = [
        model.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(
            lambda module, args, layer=layer: given.update({layer: args[0][0].clone()})
        )
        for layer in (5, 11, 17)
    ]
    try:
        captured = analysis.capture(model, tokenizer, TEXT, max_tokens=160, queries=4)
    finally:
        for hook in hooks:
            hook.remove()
    return model, tokenizer, captured, given


def test_the_full_layers_are_captured_and_sliding_ones_refused(gemma_capture):
    model, tokenizer, captured, _ = gemma_capture
    assert captured.layers == [5, 11, 17] and (captured.query_heads, captured.kv_heads, captured.tokens) == (4, 1, 160)
    with pytest.raises(TreeKVError, match=r"layer 0 cannot be captured; the full-attention layers are \[5, 11, 17\]"):
        analysis.capture(model, tokenizer, TEXT, max_tokens=160, layers=[0])


def test_contributions_sum_to_what_the_model_computed(gemma_capture):
    _, _, captured, given = gemma_capture
    for layer in captured.layers:
        for query in (40, 159):
            ours = captured.contributions(layer, query).sum(1).flatten()
            torch.testing.assert_close(ours, given[layer][query], rtol=1e-3, atol=1e-4)


def test_everything_after_the_capture_works_on_it(gemma_capture):
    model, tokenizer, captured, _ = gemma_capture
    spectrum = analysis.spectrum(captured)
    lean = analysis.capture_spectrum(model, tokenizer, TEXT, max_tokens=160, queries=4)
    np.testing.assert_allclose(lean["amplitude"], spectrum["amplitude"], rtol=1e-4, atol=1e-7)
    assert "grows by" in plot.trends(analysis.trends(spectrum, resamples=99)).layout.meta["alt"]
    record = analysis.simulate(captured, {"tree": TreeKVConfig(cache_size=64)})
    lost = analysis.output_loss(captured, record, [100, 159], model=model)
    assert lost["error"].sizes["layer"] == 3 and (lost["error"] > 0).all()
    assert plot.eviction_map(record, layer=11).layout.title.text
