"""What the analysis tests look at: a short capture of a tiny model, and made-up spectra and records."""

import numpy as np
import pytest
import torch
import xarray as xr
from transformers import AutoConfig, AutoModelForCausalLM

import analysis
from analysis.wavelets.haar import band_levels, band_names
from tests import tiny
from treekv import TreeKVCache


@pytest.fixture(scope="session")
def hybrid():
    """A tiny model of four layers, of which the first and the third have a sliding window of 20 tokens."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gemma3_text",
        vocab_size=tiny.VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=512,
        layer_types=["sliding_attention", "full_attention"] * 2,
        sliding_window=20,
    )
    with torch.inference_mode(False):  # a model with gradients, also if a running test asks first
        model = AutoModelForCausalLM.from_config(config).eval()
    model.set_attn_implementation("treekv")
    return model


@pytest.fixture(scope="session")
def nbytes_of():
    """What a real cache holds after so many tokens, those after `prompt` one by one."""

    def measure(model, config, tokens, prompt=None, batch=1):
        cache = TreeKVCache(config, model.config)
        ids = tiny.tokens(tokens, batch=batch)
        prompt = tokens - 1 if prompt is None else prompt
        model(ids[:, :prompt], past_key_values=cache)
        for t in range(prompt, tokens):
            model(ids[:, t : t + 1], past_key_values=cache)
        return cache.nbytes

    return measure


@pytest.fixture(scope="session")
def token_ids():
    return tiny.tokens(301, seed=3)[0]


@pytest.fixture(scope="session")
def sharp_llama():
    """Makes tiny models whose attention singles tokens out, so that a wrong weight shows."""

    def make(attention):
        model = tiny.llama(attention)
        for block in model.model.layers:
            block.self_attn.q_proj.weight.data.mul_(30)
        return model

    return make


@pytest.fixture(scope="session")
def captured(sharp_llama, token_ids):
    return analysis.capture(sharp_llama("treekv"), None, token_ids, queries=5)


@pytest.fixture
def made_spectrum():
    """A spectrum of 2 layers and 3 heads with the given amplitude [band, position]."""

    def make(amplitude, level=None, sinks=4):
        bands, length = amplitude.shape
        level = bands - 1 if level is None else level
        shape = (2, 3, bands, length)
        rng = np.random.default_rng(0)
        noise = rng.uniform(0.98, 1.02, shape)
        by_query = amplitude * rng.uniform(0.98, 1.02, (8, bands, length))
        values = (amplitude * noise).astype(np.float32)
        levels = np.array(band_levels(level))
        dims = ("layer", "head", "band", "position")
        return xr.Dataset(
            {
                "amplitude": (dims, values),
                "coefficient": (dims, values * 2.0 ** (levels[:, None] / 2)),
                "sink_amplitude": (("layer", "head", "sink"), np.ones((2, 3, sinks), np.float32)),
                "query_amplitude": (("query", "band", "position"), by_query.astype(np.float32)),
            },
            coords={
                "layer": [0, 1],
                "head": [0, 1, 2],
                "band": band_names(level),
                "level": ("band", levels),
                "support": ("band", 2**levels),
                "low_frequency": ("band", np.where(np.arange(bands) > 0, 2.0 ** -(levels + 1.0), 0)),
                "high_frequency": ("band", np.where(np.arange(bands) > 0, 2.0**-levels, 2.0 ** -(levels + 1.0))),
                "position": np.arange(sinks, sinks + length),
                "token": ("position", [f" w{i}" for i in range(sinks, sinks + length)]),
                "query": sinks + length - 8 + np.arange(8),
                "text": ("query", np.zeros(8, np.int32)),
            },
            attrs={
                "format": "treekv-spectrum",
                "format_version": 1,
                "wavelet": "haar",
                "mode": "symmetric",
                "transform": "dwt",
                "sinks": "separate",
                "sink_count": sinks,
                "texts": 1,
                "model": "made up",
            },
        )

    return make


@pytest.fixture
def made_record():
    """A retention record with random evictions: two policies, 2 layers, 2 KV heads."""

    def make(tokens, seed=0):
        rng = np.random.default_rng(seed)
        position = np.arange(tokens)
        evicted = rng.integers(position, tokens + tokens // 2, (2, 2, 2, tokens))
        evicted = np.where((evicted >= tokens) | (evicted == position), -1, evicted).astype(np.int32)
        survivor = np.where(evicted < 0, -1, np.minimum(position + 1, tokens - 1)).astype(np.int32)
        dims = ("policy", "layer", "head", "position")
        return xr.Dataset(
            {"evicted_at": (dims, evicted), "survivor": (dims, survivor)},
            coords={
                "policy": ["tree", "streaming"],
                "layer": [0, 3],
                "head": [0, 1],
                "position": position,
                "token": ("position", [f" w{i}" for i in position]),
            },
            attrs={"format": "treekv-retention", "format_version": 1, "steps": tokens},
        )

    return make
