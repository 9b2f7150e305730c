"""The analysis on a GPU equals that on the CPU; skipped without a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import analysis
from treekv import TreeKVConfig

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")

CONFIGS = {
    "tree": TreeKVConfig(cache_size=32, sink_size=2, prefill="stream", block_size=8),
    "random": TreeKVConfig(policy="random", cache_size=32),
}


def test_capture_spectrum_simulation_and_loss(sharp_llama, token_ids, captured):
    model = sharp_llama("treekv").to("cuda")
    there = analysis.capture(model, None, token_ids, queries=5)
    assert {tensor.device.type for tensor in (*there.q, *there.k, *there.v)} == {"cuda"}
    for transform in ("dwt", "swt", "packet"):
        here = analysis.spectrum(captured, level=3, transform=transform, model=sharp_llama("treekv"))
        found = analysis.spectrum(there, level=3, transform=transform, model=model)
        np.testing.assert_allclose(found["amplitude"], here["amplitude"], rtol=1e-3, atol=1e-5)
    record = analysis.simulate(there, CONFIGS)
    assert record["evicted_at"].sel(layer=0).equals(analysis.simulate(captured, CONFIGS)["evicted_at"].sel(layer=0))
    lost = analysis.output_loss(there, record, model=model)
    assert np.isfinite(lost["error"]).all() and (lost["error"].sel(policy="tree") > 0).any()


def test_a_file_is_opened_on_the_requested_device(captured, tmp_path):
    there = analysis.open(captured.save(tmp_path / "a.nc"), device="cuda")
    assert there.k[0].device.type == "cuda"
    assert there.contributions(1, 200).cpu().isfinite().all()
