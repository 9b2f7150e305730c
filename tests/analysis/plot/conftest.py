"""What the tests of figures draw."""

from __future__ import annotations

import numpy as np
import pytest

import analysis
from treekv import TreeKVConfig

THREE_MB = 3_000_000


@pytest.fixture
def spectrum(made_spectrum):
    """Of random amplitudes, 300 positions."""
    return made_spectrum(np.random.default_rng(1).lognormal(size=(9, 300)))


@pytest.fixture(scope="module")
def record(captured):
    """Of two policies."""
    configs = {
        "tree": TreeKVConfig(cache_size=32, sink_size=2, prefill="stream", block_size=8),
        "streaming": TreeKVConfig(policy="streaming", cache_size=32),
    }
    return analysis.simulate(captured, configs)


@pytest.fixture(scope="module")
def marked_up(record):
    """The same, one policy with markup in its name."""
    return record.assign_coords(policy=["tree", "<b>window</b>"])


@pytest.fixture
def growing(made_spectrum):
    """One band of one head grows towards the end."""
    found = made_spectrum(np.random.default_rng(2).lognormal(size=(5, 403)))
    found["amplitude"].loc[{"layer": 1, "head": 2, "band": "D2", "position": slice(343, 406)}] *= 50
    return found
