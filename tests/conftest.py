"""Fixtures that every room uses."""

from __future__ import annotations

import hypothesis
import pytest
import torch

from tests import tiny

# No test may fail because a machine is slow.
hypothesis.settings.register_profile("treekv", deadline=None)
hypothesis.settings.load_profile("treekv")

# Tiny tensors gain nothing from threads and lose a lot where cores are shared.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def llama():
    return tiny.llama()


@pytest.fixture(scope="session")
def smollm2():
    """The small real model and its tokenizer, converted once into the user's cache folder."""
    import treekv

    return treekv.load_model("smollm2")
