"""A run folder from a tiny random model, whose tokens try to break out of every page they are shown on."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import xarray as xr
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import analysis
from app import demo
from app.runs import folder as run_folder
from app.runs import pipeline
from tests import tiny

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.app.browsing import Watched

EVIL = "</script><img/src=http://example.invalid/x.png><b>"
TOKENS = 320


def words_tokenizer() -> PreTrainedTokenizerFast:
    """Words w2, w3, ...; `EVIL` stands for w7."""
    names = {0: "[unknown]", 1: "[end]", 7: EVIL}
    vocabulary = {names.get(number, f"w{number}"): number for number in range(tiny.VOCABULARY)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[unknown]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[unknown]", eos_token="[end]")


@contextlib.contextmanager
def silent_stage(title: str):
    yield lambda done, total: None


@pytest.fixture(scope="session")
def small_chain() -> dict:
    """What the chain makes of 320 random tokens and a tiny random model."""
    torch.manual_seed(0)
    with torch.inference_mode(False):  # a model with gradients
        model, tokenizer = tiny.llama(), words_tokenizer()
        ids = tiny.tokens(TOKENS)[0]
        ids[-5] = 7
        configs = demo.settings(TOKENS)
        artifacts = pipeline.analyse(model, tokenizer, ids, configs, silent_stage, sensitivity=True)
    streamed = demo.stream(model, ids, configs, silent_stage)
    generated = demo.generate(model, tokenizer, ids, configs, silent_stage)
    summary = demo.summary("a text <i>of no words</i>", artifacts, configs, streamed, generated)
    return {"artifacts": artifacts, "configs": configs, "streamed": streamed, "summary": summary}


@pytest.fixture(scope="session")
def small_run(small_chain: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a run folder. Tests only read it."""
    path = tmp_path_factory.mktemp("runs") / "small"
    with run_folder.new_run(path) as folder:
        demo.write(folder, small_chain["artifacts"], small_chain["configs"]["tree"], small_chain["summary"])
    return path


@pytest.fixture(autouse=True)
def shared_run_is_left_as_it_was(request: pytest.FixtureRequest) -> Iterator[None]:
    """A page keeps its active configuration in the run folder; other tests do not find it there."""
    yield
    if "small_run" in request.fixturenames:
        (request.getfixturevalue("small_run") / run_folder.ACTIVE).unlink(missing_ok=True)


@pytest.fixture(scope="session")
def long_run(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with the records of 4,096 tokens and many heads, drawn by lot. Tests only read it."""
    run = tmp_path_factory.mktemp("long") / "long"
    shutil.copytree(small_run, run)
    generator = np.random.default_rng(0)
    small = analysis.open(run / "retention.nc")
    shape, tokens = (3, 8, 8, 4096), 4096
    gone = np.minimum(np.arange(tokens) + generator.integers(1, 2000, shape), tokens)
    values = {
        "evicted_at": np.where(gone == tokens, -1, gone).astype(np.int32),
        "survivor": np.full(shape, -1, np.int32),
    }
    dims = ("policy", "layer", "head", "position")
    large = xr.Dataset(
        {name: (dims, value) for name, value in values.items()},
        coords={
            "policy": ["tree", "streaming", "h2o"],
            "layer": np.arange(8, dtype=np.int32),
            "head": np.arange(8, dtype=np.int32),
            "position": np.arange(tokens, dtype=np.int32),
            "token": ("position", np.array([f" token{n}" for n in range(tokens)])),
        },
        attrs=small.attrs | {"steps": tokens},
    )
    analysis.save(large, run / "retention.nc")
    spectrum = analysis.open(run / "spectrum.nc")
    index = np.arange(tokens - 4) % spectrum.sizes["position"]
    wide = spectrum.isel(position=index, head=np.arange(32) % 4, layer=np.arange(32) % 2)
    wide = wide.assign_coords(
        position=np.arange(4, tokens, dtype=np.int32),
        head=np.arange(32, dtype=np.int32),
        layer=np.arange(32, dtype=np.int32),
    )
    analysis.save(wide, run / "spectrum.nc")
    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from tests.app.browsing import chromium

    with chromium() as running:
        yield running


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    from tests.app.browsing import Watched

    new = Watched(browser)
    yield new
    new.context.close()


@pytest.fixture(scope="session")
def dashboard(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a dashboard that runs on a copy of the small run."""
    from tests.app.browsing import served

    root = tmp_path_factory.mktemp("served")
    shutil.copytree(small_run, root / "small")
    with served(root / "small", tmp_path_factory.mktemp("server")) as address:
        yield address
